//! Counters of the identity (contract `observability`, section 2).

use prometheus::{IntCounterVec, Opts, Registry};

use crate::source::Reason;

/// Counters; without registration they count for nobody. Each appears with its first event, as upstream's do.
#[derive(Debug, Clone)]
pub struct IdentityMetrics {
    init: IntCounterVec,
    init_failed: IntCounterVec,
    rotated: IntCounterVec,
    rotation_failed: IntCounterVec,
}

impl Default for IdentityMetrics {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl IdentityMetrics {
    /// With these labels on all of them (daprd: `app_id`).
    pub fn new(labels: &[(&str, &str)]) -> Self {
        let opts = |name: &str, help: &str| {
            labels.iter().fold(Opts::new(name, help), |opts, (name, value)| {
                opts.const_label(*name, *value)
            })
        };
        let vector = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(opts(name, help), labels).expect("the names are valid")
        };
        let counter = |name: &str, help: &str| vector(name, help, &[]);
        let with_reason = |name: &str, help: &str| vector(name, help, &["reason"]);
        Self {
            init: counter(
                "dapr_runtime_mtls_init_total",
                "The number of successful mTLS authenticator initialization.",
            ),
            init_failed: with_reason(
                "dapr_runtime_mtls_init_fail_total",
                "The number of mTLS authenticator init failures.",
            ),
            rotated: counter(
                "dapr_runtime_mtls_workload_cert_rotated_total",
                "The number of successful workload certificate rotations.",
            ),
            rotation_failed: with_reason(
                "dapr_runtime_mtls_workload_cert_rotated_fail_total",
                "The number of failed workload certificate rotations.",
            ),
        }
    }

    /// Shows them in a registry.
    ///
    /// # Errors
    /// If they are there already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.init.clone()))?;
        registry.register(Box::new(self.init_failed.clone()))?;
        registry.register(Box::new(self.rotated.clone()))?;
        registry.register(Box::new(self.rotation_failed.clone()))
    }

    pub(crate) fn init_completed(&self) {
        self.init.with_label_values::<&str>(&[]).inc();
    }

    pub(crate) fn init_failed(&self, reason: &str) {
        self.init_failed.with_label_values(&[reason]).inc();
    }

    pub(crate) fn rotated(&self) {
        self.rotated.with_label_values::<&str>(&[]).inc();
    }

    pub(crate) fn rotation_failed(&self, reason: Reason) {
        self.rotation_failed.with_label_values(&[reason.label()]).inc();
    }
}
