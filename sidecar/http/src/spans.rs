//! The spans of calls to the HTTP API (contract `observability`, section 4.3).

use std::net::SocketAddr;

use http::StatusCode;
use http::request::Parts;
use outrigger_sidecar_core::Sidecar;
use outrigger_sidecar_core::invoke::headers::APP_ID;
use outrigger_sidecar_core::spans::Span;
use outrigger_trace_context::TraceContext;

/// Who called, as requests carry it while spans are exported.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remote(pub(crate) SocketAddr);

/// Begins the span of a call; `None` if nobody would see it.
pub(crate) fn begin(core: &Sidecar, context: Option<&TraceContext>, parts: &Parts) -> Option<Span> {
    let spans = core.tracing.spans();
    if !spans.is_on() {
        return None;
    }
    let parent = TraceContext::from_headers(&parts.headers);
    let mut span = spans.begin(context, parent.as_ref())?;
    let (verb, path) = (parts.method.as_str(), parts.uri.path());
    let call = format!("{verb} {path}");
    path.clone_into(&mut span.name);
    span.set("dapr.protocol", "http");
    span.set("http.request.method", verb);
    span.set("url.full", parts.uri.to_string());
    if let Some(Remote(remote)) = parts.extensions.get::<Remote>() {
        span.set("server.address", remote.ip().to_string());
        span.set("server.port", remote.port().to_string());
    }
    span.set_headers(&parts.headers, false);
    let target = parts.headers.get(APP_ID).and_then(|id| id.to_str().ok());
    describe(&mut span, target, path, &call);
    span.set("dapr.api", call);
    Some(span)
}

/// Names the span after the building block, and notes what the call is about.
fn describe(span: &mut Span, target: Option<&str>, path: &str, call: &str) {
    let mut parts = path.trim_start_matches('/').splitn(4, '/').skip(1);
    let (block, name, rest) = (parts.next(), parts.next().unwrap_or_default(), parts.next());
    let rest = rest.unwrap_or_default();
    match block {
        Some("invoke") if rest.starts_with("method/") => {
            invocation(span, name, rest.trim_start_matches("method/"));
        }
        Some("state") => database(span, "state", name, call),
        Some("secrets") => database(span, "secrets", name, call),
        Some("bindings") => database(span, "bindings", name, call),
        Some("publish") => span.set("messaging.system", "pubsub"),
        Some("actors") => actor(span, name, rest, call),
        _ => {
            if let Some(target) = target {
                invocation(span, target, path.trim_start_matches('/'));
            }
        }
    }
}

fn invocation(span: &mut Span, app_id: &str, method: &str) {
    span.name = format!("CallLocal/{app_id}/{method}");
    span.set("rpc.service", "ServiceInvocation");
    span.set("net.peer.name", app_id);
}

fn database(span: &mut Span, system: &'static str, name: &str, call: &str) {
    span.set("db.system", system);
    span.set("db.connection_string", system);
    span.set("db.name", name);
    span.set("db.statement", call);
}

/// `rest` is what follows the type: an id and what is done with it.
fn actor(span: &mut Span, kind: &str, rest: &str, call: &str) {
    let (id, action) = rest.split_once('/').unwrap_or((rest, ""));
    span.set("dapr.actor", format!("{kind}.{id}"));
    let (what, name) = action.split_once('/').unwrap_or((action, ""));
    let verb = call.split(' ').next().unwrap_or_default();
    let endpoint = match (what, verb) {
        ("method", _) => {
            span.name = format!("CallActor/{kind}/{name}");
            span.set("rpc.service", "ServiceInvocation");
            span.set("net.peer.name", format!("{kind}.{id}"));
            return;
        }
        ("state", _) => return database(span, "state", "actor", call),
        ("reminders", "GET") => "GetActorReminder",
        ("reminders", "DELETE") => "UnregisterActorReminder",
        ("reminders", _) => "RegisterActorReminder",
        ("timers", "DELETE") => "UnregisterActorTimer",
        ("timers", _) => "RegisterActorTimer",
        _ => return,
    };
    span.name = format!("{endpoint}/{kind}");
}

/// The answer is ready.
pub(crate) fn end(mut span: Span, status: StatusCode) {
    span.set("dapr.status_code", status.as_str());
    if status.as_u16() >= 400 {
        let text = outrigger_model::status::http_status_text(status.as_u16());
        span.fail(format!("Code({}): {text}", status.as_u16()));
    }
    span.end();
}
