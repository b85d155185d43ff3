//! The protocol-neutral form of a call and its answer.

use http::HeaderMap;
use outrigger_trace_context::TraceContext;

use crate::Body;

/// Which protocol headers came in by; it decides how they are spelled on the internal wire and which of them
/// are renamed for a gRPC app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// HTTP headers.
    Http,
    /// gRPC metadata; values of `-bin` keys are base64 text.
    Grpc,
}

/// A call.
#[derive(Debug)]
pub struct InvokeRequest {
    /// Normalised method.
    pub method: String,
    /// HTTP verb; `None` over gRPC without an extension, or with one that names none.
    pub verb: Option<http::Method>,
    /// Whether the call has an HTTP extension (verb and query) at all.
    pub has_extension: bool,
    /// Raw query string without `?`.
    pub query: String,
    /// The caller's headers.
    pub headers: HeaderMap,
    /// What the headers are.
    pub origin: Origin,
    /// Content type of the body; empty = none.
    pub content_type: String,
    /// `type_url` of the data, mostly empty; `None` = the message had no data field.
    pub type_url: Option<String>,
    /// The body.
    pub body: Body,
    /// Length of the body, when the caller said so.
    pub content_length: Option<u64>,
    /// The span of the call.
    pub trace: Option<TraceContext>,
}

impl InvokeRequest {
    /// Whether the caller streams a body whose length nobody knows.
    pub fn is_streamed(&self) -> bool {
        self.content_length.is_none() && !http_body::Body::is_end_stream(&self.body)
    }

    /// The same call with other headers and body.
    #[must_use]
    pub fn with(&self, headers: HeaderMap, body: Body) -> Self {
        Self {
            method: self.method.clone(),
            verb: self.verb.clone(),
            has_extension: self.has_extension,
            query: self.query.clone(),
            headers,
            origin: self.origin,
            content_type: self.content_type.clone(),
            type_url: self.type_url.clone(),
            body,
            content_length: self.content_length,
            trace: self.trace.clone(),
        }
    }
}

/// The status of an answer: below 100 a gRPC code, else an HTTP status.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct InvokeStatus {
    /// The number on the internal wire.
    pub code: i32,
    /// gRPC message.
    pub message: String,
    /// gRPC details.
    pub details: Vec<prost_types::Any>,
}

impl InvokeStatus {
    /// An HTTP status.
    pub fn http(status: u16) -> Self {
        Self {
            code: i32::from(status),
            ..Self::default()
        }
    }

    /// Whether the number is an HTTP status.
    pub const fn is_http(&self) -> bool {
        self.code >= 100
    }
}

/// An answer.
#[derive(Debug)]
pub struct InvokeResponse {
    /// Status of the app.
    pub status: InvokeStatus,
    /// Headers of the app.
    pub headers: HeaderMap,
    /// What the headers are.
    pub origin: Origin,
    /// Trailers of a gRPC app.
    pub trailers: HeaderMap,
    /// Content type of the body; empty = none.
    pub content_type: String,
    /// `type_url` of the data, mostly empty; `None` = the message had no data field.
    pub type_url: Option<String>,
    /// The body.
    pub body: Body,
}
