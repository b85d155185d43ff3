//! The protocol-neutral form of a call and its answer.

use http::header::{ACCEPT, CONTENT_LENGTH};
use http::{HeaderMap, HeaderValue};
use http_body::Body as _;
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

/// What becomes of an event stream that the app did not begin.
pub const NO_EVENTS: &str = "no response received from stream";

/// Whether these headers ask for an event stream: only exactly this value does.
pub fn asks_for_events(headers: &HeaderMap) -> bool {
    headers
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.trim().eq_ignore_ascii_case("text/event-stream"))
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
        self.content_length.is_none() && !self.body.is_end_stream()
    }

    /// Whether an HTTP caller asks for an event stream.
    pub fn asks_for_events(&self) -> bool {
        self.origin == Origin::Http && asks_for_events(&self.headers)
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
    /// Events on their way to another sidecar, see [`Self::into_events`].
    pub is_event_stream: bool,
    /// The body.
    pub body: Body,
}

impl InvokeResponse {
    /// An app's answer as sidecars hand on event streams: what the app wrote goes through unseen, so that neither its
    /// status nor a content type of a message is told, and its headers stand as they came. `None` if the app did
    /// not begin a stream.
    pub fn into_events(mut self) -> Option<Self> {
        if self.origin != Origin::Http || !(200..300).contains(&self.status.code) {
            return None;
        }
        self.status = InvokeStatus::default();
        if let Some(length) = self.body.size_hint().exact().filter(|length| *length > 0) {
            self.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        self.is_event_stream = true;
        Some(self)
    }
}
