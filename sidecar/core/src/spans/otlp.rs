//! OpenTelemetry's protocol, over gRPC or HTTP, in protobuf. The messages are the few that spans need, by their numbers
//! in `opentelemetry/proto/trace/v1`.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use outrigger_model::GoDuration;
use outrigger_resources::configuration::{OtelHeader, OtelSpec};
use prost::Message;

use super::send::{Poster, expect_success};
use super::{Resource, Span, SpanKind, SpansError};
use crate::invoke::frames::{GRPC_STATUS, check_status, frame};
use crate::tls::SystemRoots;

/// Who makes our spans.
pub(super) const SCOPE: &str = "dapr-diagnostics";
const TIMEOUT: Duration = Duration::from_secs(10);
const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const HTTP_PATH: &str = "/v1/traces";
/// Numbers of `Status.StatusCode`.
const STATUS_ERROR: i32 = 2;

/// A collector of OpenTelemetry.
pub(super) struct Otlp {
    poster: Poster,
    is_grpc: bool,
}

/// `ExportTraceServiceRequest`
#[derive(Clone, PartialEq, Message)]
pub(super) struct Export {
    #[prost(message, repeated, tag = "1")]
    pub(super) resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    pub(super) resource: Option<WireResource>,
    #[prost(message, repeated, tag = "2")]
    pub(super) scope_spans: Vec<ScopeSpans>,
}

/// `Resource`
#[derive(Clone, PartialEq, Message)]
pub(super) struct WireResource {
    #[prost(message, repeated, tag = "1")]
    pub(super) attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    pub(super) scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    pub(super) spans: Vec<WireSpan>,
}

/// `InstrumentationScope`
#[derive(Clone, PartialEq, Message)]
pub(super) struct Scope {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

/// `Span`
#[derive(Clone, PartialEq, Message)]
pub(super) struct WireSpan {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    pub(super) trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(super) name: String,
    #[prost(int32, tag = "6")]
    pub(super) kind: i32,
    #[prost(fixed64, tag = "7")]
    pub(super) start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    pub(super) end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    pub(super) attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    pub(super) status: Option<WireStatus>,
    #[prost(fixed32, tag = "16")]
    pub(super) flags: u32,
}

/// `Status`
#[derive(Clone, PartialEq, Message)]
pub(super) struct WireStatus {
    #[prost(string, tag = "2")]
    pub(super) message: String,
    #[prost(int32, tag = "3")]
    pub(super) code: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyValue {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(message, optional, tag = "2")]
    pub(super) value: Option<AnyValue>,
}

/// `AnyValue` with a text.
#[derive(Clone, PartialEq, Message)]
pub(super) struct AnyValue {
    #[prost(string, optional, tag = "1")]
    pub(super) string_value: Option<String>,
}

impl Otlp {
    pub(super) fn new(settings: &OtelSpec, roots: &SystemRoots) -> Result<Self, SpansError> {
        let is_grpc = match settings.protocol.as_str() {
            "" | "grpc" => true,
            "http" => false,
            other => {
                return Err(SpansError(format!(
                    "spec.tracing.otel.protocol: invalid protocol {other} provided for Otel endpoint, expected grpc or http"
                )));
            }
        };
        let timeout = match settings.timeout.as_str() {
            "" => TIMEOUT,
            text => GoDuration::parse(text)
                .ok()
                .and_then(GoDuration::to_std)
                .filter(|timeout| !timeout.is_zero())
                .ok_or_else(|| SpansError(format!("spec.tracing.otel.timeout: {text:?} is no duration")))?,
        };
        let scheme = if settings.is_secure { "https" } else { "http" };
        let path = if is_grpc { GRPC_PATH } else { HTTP_PATH };
        let uri = format!("{scheme}://{}{path}", settings.endpoint_address);
        let field = "spec.tracing.otel.endpointAddress";
        let mut poster = Poster::new(field, &uri, is_grpc, timeout, roots)?;
        for header in &settings.headers {
            match header {
                OtelHeader::Text(text) => {
                    let (name, value) = text.split_once('=').ok_or_else(|| {
                        SpansError(format!(
                            "spec.tracing.otel.headers: {text:?} is not of the form name=value"
                        ))
                    })?;
                    poster.set_header(name.trim(), value.trim())?;
                }
                OtelHeader::Pair(pair) => poster.set_header(&pair.name, &pair.value_text())?,
            }
        }
        if is_grpc {
            poster.set_header("te", "trailers")?;
        }
        Ok(Self { poster, is_grpc })
    }

    pub(super) async fn export(&self, spans: &[Span], resource: &Resource) -> Result<(), String> {
        let message = encode(spans, resource);
        if self.is_grpc {
            self.poster
                .post("application/grpc", frame(&message), expect_grpc_success)
                .await
        } else {
            let body = Bytes::from(message.encode_to_vec());
            self.poster
                .post("application/x-protobuf", body, expect_success)
                .await
        }
    }
}

async fn expect_grpc_success(response: Response<Incoming>) -> Result<(), String> {
    if !response.status().is_success() {
        return Err(format!("the collector answered {}", response.status()));
    }
    let (parts, body) = response.into_parts();
    if parts.headers.contains_key(GRPC_STATUS) {
        return check_status(&parts.headers).map_err(|error| error.to_string());
    }
    let collected = body.collect().await.map_err(|error| error.to_string())?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    check_status(&trailers).map_err(|error| error.to_string())
}

fn key_value(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            string_value: Some(value.to_owned()),
        }),
    }
}

pub(super) fn encode(spans: &[Span], resource: &Resource) -> Export {
    let attributes = resource
        .attributes
        .iter()
        .map(|(key, value)| key_value(key, value))
        .collect();
    Export {
        resource_spans: vec![ResourceSpans {
            resource: Some(WireResource { attributes }),
            scope_spans: vec![ScopeSpans {
                scope: Some(Scope {
                    name: SCOPE.to_owned(),
                }),
                spans: spans.iter().map(convert).collect(),
            }],
        }],
    }
}

fn convert(span: &Span) -> WireSpan {
    let start = span.unix_nanos();
    let parent = if span.parent == [0; 8] {
        Vec::new()
    } else {
        span.parent.to_vec()
    };
    WireSpan {
        trace_id: span.context.trace_id.to_vec(),
        span_id: span.context.span_id.to_vec(),
        trace_state: span.context.state.to_string(),
        parent_span_id: parent,
        name: span.name.clone(),
        kind: match span.kind {
            SpanKind::Internal => 1,
            SpanKind::Server => 2,
            SpanKind::Client => 3,
            SpanKind::Producer => 4,
        },
        start_time_unix_nano: start,
        end_time_unix_nano: start.saturating_add(span.duration_nanos()),
        attributes: span
            .attributes
            .iter()
            .map(|(key, value)| key_value(key, value))
            .collect(),
        status: span.error.as_ref().map(|why| WireStatus {
            message: why.clone(),
            code: STATUS_ERROR,
        }),
        flags: u32::from(span.context.flags),
    }
}
