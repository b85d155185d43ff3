//! Zipkin's JSON, version 2.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::log::hex;
use super::send::{Poster, expect_success};
use super::{Resource, Span, SpanKind, SpansError};
use crate::tls::SystemRoots;

const TIMEOUT: Duration = Duration::from_secs(10);

/// A Zipkin collector.
pub(super) struct Zipkin(Poster);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ZipkinSpan<'a> {
    trace_id: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    name: &'a str,
    /// Microseconds.
    timestamp: u64,
    /// Microseconds; at least one, since 0 means that it is not known.
    duration: u64,
    local_endpoint: Endpoint<'a>,
    tags: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint<'a> {
    service_name: &'a str,
}

impl Zipkin {
    pub(super) fn new(address: &str, roots: &SystemRoots) -> Result<Self, SpansError> {
        let field = "spec.tracing.zipkin.endpointAddress";
        Ok(Self(Poster::new(field, address, false, TIMEOUT, roots)?))
    }

    pub(super) async fn export(&self, spans: &[Span], resource: &Resource) -> Result<(), String> {
        let body = encode(spans, resource).map_err(|error| error.to_string())?;
        self.0.post("application/json", body.into(), expect_success).await
    }
}

pub(super) fn encode(spans: &[Span], resource: &Resource) -> serde_json::Result<Vec<u8>> {
    let spans: Vec<ZipkinSpan<'_>> = spans.iter().map(|span| convert(span, resource)).collect();
    serde_json::to_vec(&spans)
}

fn convert<'a>(span: &'a Span, resource: &'a Resource) -> ZipkinSpan<'a> {
    let mut tags: BTreeMap<&str, &str> = span
        .attributes
        .iter()
        .map(|(name, value)| (name.as_ref(), value.as_str()))
        .collect();
    tags.insert("otel.scope.name", super::otlp::SCOPE);
    if let Some(error) = &span.error {
        tags.insert("otel.status_code", "ERROR");
        tags.insert("error", error);
    }
    ZipkinSpan {
        trace_id: hex(&span.context.trace_id),
        id: hex(&span.context.span_id),
        parent_id: (span.parent != [0; 8]).then(|| hex(&span.parent)),
        kind: match span.kind {
            SpanKind::Internal => None,
            SpanKind::Server => Some("SERVER"),
            SpanKind::Client => Some("CLIENT"),
            SpanKind::Producer => Some("PRODUCER"),
        },
        name: &span.name,
        timestamp: span.unix_nanos() / 1000,
        duration: (span.duration_nanos() / 1000).max(1),
        local_endpoint: Endpoint {
            service_name: resource.service_name(),
        },
        tags,
    }
}
