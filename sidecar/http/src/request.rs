//! A routed request: decoded parameters, query and a limited body.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http_body::Body as _;
use http_body_util::BodyExt;
use outrigger_components_api::RequestMetadata;
use outrigger_model::{ApiError, GrpcCode};
use outrigger_sidecar_core::{Body, BodyError};
use outrigger_trace_context::TraceContext;

use crate::path::query_pairs;

/// What a handler is given.
pub(crate) struct ApiRequest {
    /// Method, URI and headers as they came (the API token is gone).
    pub(crate) parts: Parts,
    /// The body, failing with "stream too large" past the limit.
    body: Body,
    /// Decoded path parameters.
    pub(crate) params: BTreeMap<&'static str, String>,
    /// The span of this request; `None` when tracing is off.
    pub(crate) trace: Option<TraceContext>,
}

impl ApiRequest {
    /// A routed request.
    pub(crate) const fn new(
        parts: Parts,
        body: Body,
        params: BTreeMap<&'static str, String>,
        trace: Option<TraceContext>,
    ) -> Self {
        Self {
            parts,
            body,
            params,
            trace,
        }
    }

    /// The body; an empty one stays behind.
    pub(crate) fn take_body(&mut self) -> Body {
        std::mem::take(&mut self.body)
    }

    /// A path parameter of the route's pattern.
    pub(crate) fn param(&self, name: &str) -> &str {
        self.params.get(name).map(String::as_str).unwrap_or_default()
    }

    /// The first value of a query key.
    pub(crate) fn query(&self, name: &str) -> Option<String> {
        query_pairs(self.parts.uri.query().unwrap_or_default())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    }

    /// `metadata.<k>=<v>` query parameters; the first value of a key counts.
    pub(crate) fn metadata(&self) -> RequestMetadata {
        let mut metadata = RequestMetadata::new();
        for (key, value) in query_pairs(self.parts.uri.query().unwrap_or_default()) {
            if let Some(key) = key.strip_prefix("metadata.") {
                metadata.entry(key.to_owned()).or_insert(value);
            }
        }
        metadata
    }

    /// A header as text; empty when absent or not text.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.parts
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The whole body.
    pub(crate) async fn bytes(&mut self) -> Result<Bytes, BodyError> {
        self.take_body().collect_bytes().await
    }

    /// The body as far as it can be read, and what then went wrong. For bodies of which only the first JSON value is
    /// wanted: what comes after it may be too long or broken.
    pub(crate) async fn bytes_and_error(&mut self) -> (Bytes, Option<BodyError>) {
        let mut body = self.take_body();
        let mut all = BytesMut::new();
        while let Some(frame) = body.frame().await {
            match frame.map(http_body::Frame::into_data) {
                Ok(Ok(data)) if all.is_empty() && body.is_end_stream() => return (data, None),
                Ok(Ok(data)) => all.extend_from_slice(&data),
                Ok(Err(_trailers)) => {}
                Err(error) => return (all.freeze(), Some(error)),
            }
        }
        (all.freeze(), None)
    }

    /// The whole body, with the error of the "universal" routes.
    pub(crate) async fn bytes_or_body_read_error(&mut self) -> Result<Bytes, ApiError> {
        self.bytes().await.map_err(|error| {
            ApiError::legacy(
                "ERR_BODY_READ",
                400,
                GrpcCode::InvalidArgument,
                format!("failed to read request body: {error}"),
            )
        })
    }
}

/// `ERR_MALFORMED_REQUEST` with the usual prefix.
pub(crate) fn malformed(error: impl std::fmt::Display) -> ApiError {
    ApiError::legacy(
        "ERR_MALFORMED_REQUEST",
        400,
        GrpcCode::InvalidArgument,
        format!("failed deserializing HTTP body: {error}"),
    )
}
