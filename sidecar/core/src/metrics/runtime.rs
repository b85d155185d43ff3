//! Metrics of the sidecar itself: its start, service invocation, policies, errors. Those of its identity and of access
//! control live with them (`outrigger-identity`, `invoke/access.rs`).

use std::sync::Arc;
use std::time::Instant;

use outrigger_model::{ApiError, ErrorDetail};
use outrigger_resiliency::{BreakerState, Event, Labels, Observer};

use super::{Buckets, Counter, Gauge, Histogram, Metrics, MetricsError};

/// The sidecar's own metrics; nothing is recorded by the default.
#[derive(Clone, Default)]
pub struct RuntimeMetrics(Arc<Families>);

#[derive(Default)]
struct Families {
    component_loaded: Counter,
    component_init: Counter,
    component_init_fail: Counter,
    requests_sent: Counter,
    requests_received: Counter,
    responses_sent: Counter,
    responses_received: Counter,
    response_latency: Histogram,
    policies_loaded: Counter,
    policy_count: Counter,
    policy_activations: Counter,
    breaker_state: Gauge,
    error_codes: Counter,
}

/// At which step a component could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitFailure {
    /// Its type or version is not known.
    Creation,
    /// It refused its settings, or could not start in time.
    Init,
}

impl InitFailure {
    const fn name(self) -> &'static str {
        match self {
            Self::Creation => "creation",
            Self::Init => "init",
        }
    }
}

const POLICY_LABELS: [&str; 6] = [
    "name",
    "policy",
    "namespace",
    "flow_direction",
    "target",
    "status",
];

impl RuntimeMetrics {
    pub(super) fn new(metrics: &Metrics) -> Result<Self, MetricsError> {
        let counter = |name: &str, labels: &[&str]| metrics.counter(&format!("runtime/{name}"), labels);
        let call = |name: &str, labels: &[&str]| counter(&format!("service_invocation/{name}"), labels);
        Ok(Self(Arc::new(Families {
            component_loaded: counter("component/loaded", &[])?,
            component_init: counter("component/init_total", &["component"])?,
            component_init_fail: counter(
                "component/init_fail_total",
                &["component", "reason", "componentName"],
            )?,
            requests_sent: call("req_sent_total", &["dst_app_id", "type"])?,
            requests_received: call("req_recv_total", &["src_app_id"])?,
            responses_sent: call("res_sent_total", &["dst_app_id", "status"])?,
            responses_received: call("res_recv_total", &["src_app_id", "status", "type"])?,
            response_latency: metrics.histogram(
                "runtime/service_invocation/res_recv_latency_ms",
                &["src_app_id", "status"],
                Buckets::Latency,
            )?,
            policies_loaded: metrics.counter("resiliency/loaded", &["name", "namespace"])?,
            policy_count: metrics.counter("resiliency/count", &POLICY_LABELS)?,
            policy_activations: metrics.counter("resiliency/activations_total", &POLICY_LABELS)?,
            breaker_state: metrics.gauge("resiliency/cb_state", &POLICY_LABELS)?,
            error_codes: metrics.counter_if(
                |settings| settings.record_error_codes.unwrap_or(false),
                "error_code/total",
                &["error_code", "category"],
            )?,
        })))
    }

    /// A component is in use.
    pub fn component_loaded(&self) {
        self.0.component_loaded.inc(&[]);
    }

    /// A component has started. `kind` is its type, e.g. `state.redis`.
    pub fn component_initialized(&self, kind: &str) {
        self.0.component_init.inc(&[kind]);
    }

    /// A component could not be started.
    pub fn component_failed(&self, kind: &str, why: InitFailure, name: &str) {
        self.0.component_init_fail.inc(&[kind, why.name(), name]);
    }

    /// A call goes to another sidecar.
    pub fn invocation_sent(&self, app_id: &str, streaming: bool) {
        self.0.requests_sent.inc(&[app_id, call_type(streaming)]);
    }

    /// A call came from another sidecar.
    pub fn invocation_received(&self, app_id: &str) {
        self.0.requests_received.inc(&[app_id]);
    }

    /// The answer to another sidecar's call is on its way.
    pub fn response_sent(&self, app_id: &str, status: i32) {
        with_number(status, |status| self.0.responses_sent.inc(&[app_id, status]));
    }

    /// Another sidecar has answered.
    pub fn response_received(&self, app_id: &str, status: i32, streaming: bool, started: Instant) {
        with_number(status, |status| {
            let families = &self.0;
            families
                .responses_received
                .inc(&[app_id, status, call_type(streaming)]);
            let elapsed = started.elapsed().as_secs_f64() * 1000.;
            families.response_latency.observe(&[app_id, status], elapsed);
        });
    }

    /// A Resiliency resource is in use.
    pub fn policies_loaded(&self, name: &str, namespace: &str) {
        self.0.policies_loaded.inc(&[name, namespace]);
    }

    /// An error was handed to a caller.
    pub fn error(&self, error: &ApiError) {
        self.0.error_codes.inc(&[error.error_code(), category(error)]);
    }

    /// As [`Self::error`], of an error that is only known by its names.
    pub fn error_code(&self, code: &str, category: &str) {
        self.0.error_codes.inc(&[code, category]);
    }

    /// Whom policies tell what they do.
    pub fn observer(&self) -> Arc<dyn Observer> {
        Arc::new(self.clone())
    }
}

const fn call_type(streaming: bool) -> &'static str {
    if streaming { "streaming" } else { "unary" }
}

/// Hands on the text of a status, without allocating it.
fn with_number(number: i32, then: impl FnOnce(&str)) {
    match u16::try_from(number).map(http::StatusCode::from_u16) {
        Ok(Ok(status)) => then(status.as_str()),
        _ => then(&number.to_string()),
    }
}

impl Observer for RuntimeMetrics {
    fn observe(&self, event: Event, labels: Labels<'_>) {
        let with = |state: &'static str| {
            [
                labels.name,
                labels.policy.name(),
                labels.namespace,
                labels.direction.name(),
                labels.target,
                state,
            ]
        };
        let state = labels.state.map_or("", BreakerState::name);
        match event {
            Event::Executed => {
                self.0.policy_count.inc(&with(state));
                if labels.state.is_some() && self.0.breaker_state.is_on() {
                    for one in ["closed", "half-open", "open", "unknown"] {
                        self.0
                            .breaker_state
                            .set(&with(one), f64::from(u8::from(one == state)));
                    }
                }
            }
            Event::Activated => self.0.policy_activations.inc(&with(state)),
        }
    }
}

/// Which part of the API an error belongs to (contract `errors`, section 6).
pub fn category(error: &ApiError) -> &'static str {
    let is_illegal_key = || {
        error.details.iter().any(
            |detail| matches!(detail, ErrorDetail::ErrorInfo { reason, .. } if reason == "DAPR_STATE_ILLEGAL_KEY"),
        )
    };
    let code = error.error_code();
    let bare = code
        .strip_prefix("ERR_")
        .or_else(|| code.strip_prefix("DAPR_"))
        .unwrap_or(code);
    match bare {
        "MALFORMED_REQUEST" if is_illegal_key() => "state",
        "NOT_SUPPORTED_STATE_OPERATION" => "state",
        "PERMISSION_DENIED" => "secret",
        "DIRECT_INVOKE" => "service-invocation",
        "INVOKE_OUTPUT_BINDING" | "INVOKE_INPUT_BINDING" => "binding",
        "TRY_LOCK" | "UNLOCK" => "lock",
        "TOPIC_NAME_EMPTY" | "PUBLISH_OUTBOX" => "pubsub",
        _ if bare.contains("WORKFLOW") || bare.starts_with("INSTANCE_ID") => "workflow",
        _ => BY_PREFIX
            .iter()
            .find(|(prefix, _)| bare.starts_with(prefix))
            .map_or("common", |(_, category)| category),
    }
}

const BY_PREFIX: [(&str, &str); 11] = [
    ("STATE_", "state"),
    ("PUBSUB_", "pubsub"),
    ("SECRET_", "secret"),
    ("ACTOR_", "actor"),
    ("CRYPTO", "crypto"),
    ("CONVERSATION_", "conversation"),
    ("CONFIGURATION_", "configuration"),
    ("LOCK_", "lock"),
    ("SCHEDULER_", "job"),
    ("HEALTH_", "health"),
    ("OUTBOUND_HEALTH_", "health"),
];

#[cfg(test)]
mod tests {
    use outrigger_model::GrpcCode;

    use super::*;

    #[test]
    fn errors_are_counted_under_the_part_of_the_api_that_made_them() {
        for (code, want) in [
            ("ERR_STATE_GET", "state"),
            ("ERR_PUBSUB_NOT_FOUND", "pubsub"),
            ("ERR_SECRET_STORES_NOT_CONFIGURED", "secret"),
            ("ERR_DIRECT_INVOKE", "service-invocation"),
            ("ERR_START_WORKFLOW", "workflow"),
            ("DAPR_SCHEDULER_GET_JOB", "job"),
            ("ERR_OUTBOUND_HEALTH_NOT_READY", "health"),
            ("ERR_MALFORMED_REQUEST", "common"),
            ("ERROR", "common"),
        ] {
            assert_eq!(
                category(&ApiError::legacy(code, 500, GrpcCode::Internal, "")),
                want,
                "{code}"
            );
        }
        let details = vec![ErrorDetail::reason("DAPR_STATE_ILLEGAL_KEY")];
        let illegal = ApiError::rich(
            Some("ERR_MALFORMED_REQUEST"),
            400,
            GrpcCode::InvalidArgument,
            "",
            details,
        );
        assert_eq!(category(&illegal), "state");
    }
}
