//! The span of a gRPC call.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::HeaderMap;
use outrigger_sidecar_core::Sidecar;
use outrigger_trace_context::{GRPC_TRACE_BIN, TraceContext};

/// `grpc-trace-bin` first, else `traceparent` (contract `observability`, section 4.2).
pub(crate) fn parent(headers: &HeaderMap) -> Option<TraceContext> {
    let binary = headers.get(GRPC_TRACE_BIN).and_then(|value| {
        STANDARD_NO_PAD
            .decode(value.as_bytes())
            .or_else(|_| STANDARD.decode(value.as_bytes()))
            .ok()
    });
    binary
        .and_then(|binary| TraceContext::from_binary(&binary))
        .or_else(|| TraceContext::from_headers(headers))
}

/// Starts the span of a call.
pub(crate) fn start(core: &Sidecar, headers: &HeaderMap) -> Option<TraceContext> {
    core.tracing.start_under(parent(headers).as_ref())
}

/// Carried in a request's extensions, for services that pass it on.
#[derive(Debug, Clone)]
pub(crate) struct Span(pub(crate) TraceContext);

/// The span that the pipeline has put into the extensions.
pub(crate) fn of(extensions: &tonic::Extensions) -> Option<TraceContext> {
    extensions.get::<Span>().map(|span| span.0.clone())
}

/// The binary form as metadata text.
pub(crate) fn binary_text(trace: &TraceContext) -> String {
    STANDARD_NO_PAD.encode(trace.to_binary())
}
