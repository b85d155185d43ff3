//! The injector's metrics (contract `injector`, section 11).

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use crate::review::Outcome;

/// Counters of admissions.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: IntCounter,
    succeeded: IntCounterVec,
    failed: IntCounterVec,
}

impl Metrics {
    /// Counters in this registry.
    ///
    /// # Errors
    /// If their names are taken.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            requests: IntCounter::new(
                "dapr_injector_sidecar_injection_requests_total",
                "Requests of the API server",
            )?,
            succeeded: IntCounterVec::new(
                Opts::new(
                    "dapr_injector_sidecar_injection_succeeded_total",
                    "Pods that got a sidecar",
                ),
                &["app_id"],
            )?,
            failed: IntCounterVec::new(
                Opts::new(
                    "dapr_injector_sidecar_injection_failed_total",
                    "Pods that got no sidecar although they ask for one",
                ),
                &["app_id", "reason"],
            )?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.succeeded.clone()))?;
        registry.register(Box::new(metrics.failed.clone()))?;
        Ok(metrics)
    }

    /// Counts a request.
    pub fn request(&self) {
        self.requests.inc();
    }

    /// Counts what became of it.
    pub fn outcome(&self, outcome: &Outcome) {
        let failed = |app_id: &str, reason| self.failed.with_label_values(&[app_id, reason]).inc();
        match outcome {
            Outcome::Untouched => {}
            Outcome::Injected { app_id } => self.succeeded.with_label_values(&[app_id.as_str()]).inc(),
            Outcome::NotAllowed { app_id } => failed(app_id, "pod_patch"),
            Outcome::Refused { app_id } => failed(app_id, "patch"),
        }
    }
}
