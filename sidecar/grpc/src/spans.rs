//! The spans of gRPC calls (contract `observability`, section 4.3).

use http::HeaderMap;
use outrigger_sidecar_core::Sidecar;
use outrigger_sidecar_core::invoke::frames::check_status;
use outrigger_sidecar_core::spans::{Span, SpanKind};
use outrigger_trace_context::TraceContext;

use crate::trace;

/// Begins the span of a call of the public API; `None` if nobody would see it.
pub(crate) fn begin(
    core: &Sidecar,
    context: Option<&TraceContext>,
    path: &str,
    headers: &HeaderMap,
) -> Option<Span> {
    let mut span = begin_as(
        core,
        context,
        trace::parent(headers).as_ref(),
        SpanKind::Client,
        path,
    )?;
    span.set_headers(headers, true);
    let method = path.rsplit('/').next().unwrap_or_default();
    let system = match method {
        "InvokeService" | "InvokeActor" => {
            span.set("rpc.service", "ServiceInvocation");
            return Some(span);
        }
        "PublishEvent" | "BulkPublishEvent" | "BulkPublishEventAlpha1" => {
            span.set("messaging.system", "pubsub");
            span.set("rpc.service", "Dapr");
            return Some(span);
        }
        "GetSecret" | "GetBulkSecret" => "secrets",
        "InvokeBinding" => "bindings",
        method if method.contains("State") => "state",
        _ => return Some(span),
    };
    span.set("rpc.service", "Dapr");
    span.set("db.system", system);
    span.set("db.connection_string", system);
    span.set("db.statement", path);
    Some(span)
}

/// Begins any other span, under a parent that is known already.
pub(crate) fn begin_as(
    core: &Sidecar,
    context: Option<&TraceContext>,
    parent: Option<&TraceContext>,
    kind: SpanKind,
    path: &str,
) -> Option<Span> {
    let mut span = core.tracing.spans().begin(context, parent)?;
    span.kind = kind;
    path.clone_into(&mut span.name);
    span.set("dapr.protocol", "grpc");
    span.set("dapr.api", path);
    Some(span)
}

/// The head of the answer is there; a failure without messages says so in it.
pub(crate) fn end(mut span: Span, headers: &HeaderMap) {
    if headers.contains_key("grpc-status")
        && let Err(error) = check_status(headers)
    {
        span.fail(error.message);
    }
    span.end();
}
