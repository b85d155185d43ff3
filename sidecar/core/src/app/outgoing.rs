//! Requests of the sidecar's own to the app: events of pub/sub and bindings, updates of configurations.

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use outrigger_components_api::RequestMetadata;
use outrigger_trace_context::{GRPC_TRACE_BIN, TRACEPARENT, TraceContext};
use tonic::metadata::{BinaryMetadataValue, MetadataKey, MetadataMap, MetadataValue};

use super::{HttpApp, Slot};
use crate::Body;
use crate::invoke::escape;

/// `application/json`
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Longest answer that is looked at.
const MAX_ANSWER: usize = 16 << 20;

/// What an event's metadata must not decide about our request.
const NOT_PASSED: [HeaderName; 7] = [
    CONTENT_LENGTH,
    CONNECTION,
    HOST,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Why a request got no usable answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// It cannot be sent to anybody.
    #[error("{0}")]
    Unsendable(String),
    /// The app could not be reached, or broke off its answer: it has not decided.
    #[error("{0}")]
    Undelivered(String),
}

/// Metadata as headers of a request; what is no header is left out, which the log tells. Bytes beyond ASCII are sent as
/// they are, as Go does.
pub fn headers(
    metadata: &RequestMetadata,
    content_type: HeaderValue,
    trace: Option<&TraceContext>,
) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(metadata.len() + 4);
    for (name, value) in metadata {
        let header = HeaderName::from_bytes(name.as_bytes());
        let (Ok(header), Ok(value)) = (header, HeaderValue::from_bytes(value.as_bytes())) else {
            tracing::debug!(
                target: "dapr.runtime",
                "metadata {name:?} is not sent to the app: its name or value has characters that no header may have"
            );
            continue;
        };
        if !NOT_PASSED.contains(&header) {
            headers.insert(header, value);
        }
    }
    headers.insert(CONTENT_TYPE, content_type);
    if let Some(trace) = trace {
        trace.write_request_headers(&mut headers);
    }
    headers
}

/// Posts to a route of an HTTP app (with or without a leading slash, unescaped) and reads the answer.
///
/// # Errors
/// If there is no answer; a refusal is an answer.
pub async fn post(
    app: &HttpApp,
    route: &str,
    headers: HeaderMap,
    body: Bytes,
    slot: Slot,
) -> Result<(StatusCode, Bytes), PostError> {
    let unsendable = |error: String| PostError::Unsendable(error);
    let (path, query) = route.split_once('?').unwrap_or((route, ""));
    let path = escape::path(path.trim_start_matches('/')).map_err(|error| unsendable(error.to_string()))?;
    let uri = app
        .uri(&path, query)
        .map_err(|error| unsendable(error.to_string()))?;
    let mut request = Request::post(uri)
        .body(Body::full(body))
        .map_err(|error| unsendable(error.to_string()))?;
    *request.headers_mut() = headers;
    let response = app
        .call(request, slot)
        .await
        .map_err(|error| PostError::Undelivered(error.to_string()))?;
    let status = response.status();
    match Limited::new(response.into_body(), MAX_ANSWER).collect().await {
        Ok(body) => Ok((status, body.to_bytes())),
        // The head of a refusal says enough; an answer that breaks off has acknowledged nothing.
        Err(_) if !status.is_success() => Ok((status, Bytes::new())),
        Err(error) => Err(PostError::Undelivered(format!(
            "reading the app's answer: {error}"
        ))),
    }
}

/// Metadata of a gRPC call to the app; names that gRPC keeps for itself are left out.
pub fn grpc_metadata(out: &mut MetadataMap, metadata: &RequestMetadata, trace: Option<&TraceContext>) {
    for (name, value) in metadata {
        let name = name.to_ascii_lowercase();
        let reserved = matches!(
            name.as_str(),
            "content-type" | "content-length" | "te" | "host" | "connection"
        ) || name.starts_with("grpc-")
            || name.starts_with(':');
        if reserved {
            continue;
        }
        if let (Ok(key), Ok(value)) = (
            MetadataKey::from_bytes(name.as_bytes()),
            MetadataValue::try_from(value.as_str()),
        ) {
            out.insert(key, value);
        }
    }
    if let Some(trace) = trace {
        if let Ok(value) = MetadataValue::try_from(trace.to_string()) {
            out.insert(TRACEPARENT, value);
        }
        out.insert_bin(
            GRPC_TRACE_BIN,
            BinaryMetadataValue::from_bytes(&trace.to_binary()),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_becomes_headers_but_cannot_bend_the_request() {
        let metadata: RequestMetadata = [
            ("Other-Key", "v"),
            ("content-length", "1"),
            ("Transfer-Encoding", "chunked"),
            ("content-type", "x/y"),
            ("no header", "v"),
            ("no-value", "a\r\nb: c"),
            ("umlaut", "ünï"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let headers = headers(&metadata, JSON, None);
        assert_eq!(headers.len(), 3);
        assert_eq!(headers["other-key"], "v");
        assert_eq!(headers["umlaut"].as_bytes(), "ünï".as_bytes());
        assert_eq!(headers[CONTENT_TYPE], "application/json");
    }
}
