//! Sentry's metrics (contract `sentry`, section 10), and what upstream lacks about roots and their change.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Counters and gauges. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SentryMetrics {
    received: IntCounterVec,
    succeeded: IntCounterVec,
    failed: IntCounterVec,
    own_failed: IntCounterVec,
    issuer_changed: IntCounter,
    issuer_expiry: IntGauge,
    root_expiry: IntGauge,
    phase: IntGaugeVec,
    rejected: IntCounter,
}

impl SentryMetrics {
    /// Registers them.
    ///
    /// # Panics
    /// If a name is taken: a mistake in this crate.
    pub fn new(registry: &Registry) -> Self {
        let opts = |name: &str, help: &str| Opts::new(format!("dapr_sentry_{name}"), help);
        // Families without labels are made as vectors where upstream shows them only once they have a value.
        let counters = |name, help, labels: &[&str]| {
            IntCounterVec::new(opts(name, help), labels).expect("the name is valid")
        };
        let metrics = Self {
            received: counters(
                "cert_sign_request_received_total",
                "The number of CSRs received.",
                &[],
            ),
            succeeded: counters(
                "cert_sign_success_total",
                "The number of certificates issuances that have succeeded.",
                &[],
            ),
            failed: counters(
                "cert_sign_failure_total",
                "The number of errors occurred when signing the CSR.",
                &["reason"],
            ),
            own_failed: counters(
                "servercert_issue_failed_total",
                "The number of server TLS certificate issuance failures.",
                &["reason"],
            ),
            issuer_changed: IntCounter::with_opts(opts(
                "issuercert_changed_total",
                "The number of issuer cert updates, when issuer cert or key is changed",
            ))
            .expect("the name is valid"),
            issuer_expiry: IntGauge::with_opts(opts(
                "issuercert_expiry_timestamp",
                "The unix timestamp, in seconds, when issuer/root cert will expire.",
            ))
            .expect("the name is valid"),
            root_expiry: IntGauge::with_opts(opts(
                "rootcert_expiry_timestamp",
                "The unix timestamp, in seconds, when the root certificate in use expires.",
            ))
            .expect("the name is valid"),
            phase: IntGaugeVec::new(
                opts(
                    "rotation_phase",
                    "1 for the phase that a change of the root certificate is in.",
                ),
                &["phase"],
            )
            .expect("the name is valid"),
            rejected: IntCounter::with_opts(opts(
                "request_rejected_total",
                "The number of requests turned away because too many were in flight.",
            ))
            .expect("the name is valid"),
        };
        let collectors: [Box<dyn prometheus::core::Collector>; 9] = [
            Box::new(metrics.received.clone()),
            Box::new(metrics.succeeded.clone()),
            Box::new(metrics.failed.clone()),
            Box::new(metrics.own_failed.clone()),
            Box::new(metrics.issuer_changed.clone()),
            Box::new(metrics.issuer_expiry.clone()),
            Box::new(metrics.root_expiry.clone()),
            Box::new(metrics.phase.clone()),
            Box::new(metrics.rejected.clone()),
        ];
        for collector in collectors {
            registry
                .register(collector)
                .expect("each metric is registered once");
        }
        metrics
    }

    pub(crate) fn received(&self) {
        self.received.with_label_values::<&str>(&[]).inc();
    }

    pub(crate) fn signed(&self) {
        self.succeeded.with_label_values::<&str>(&[]).inc();
    }

    pub(crate) fn failed(&self) {
        self.failed.with_label_values(&["sign"]).inc();
    }

    pub(crate) fn own_certificate_failed(&self) {
        self.own_failed.with_label_values(&["sign"]).inc();
    }

    pub(crate) fn rejected(&self) {
        self.rejected.inc();
    }

    pub(crate) fn issuer(&self, not_after: SystemTime, root_not_after: SystemTime) {
        let seconds = |time: SystemTime| {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        };
        self.issuer_changed.inc();
        self.issuer_expiry.set(seconds(not_after));
        self.root_expiry.set(seconds(root_not_after));
    }

    pub(crate) fn phase(&self, phase: Option<&str>) {
        self.phase.reset();
        if let Some(phase) = phase {
            self.phase.with_label_values(&[phase]).set(1);
        }
    }
}
