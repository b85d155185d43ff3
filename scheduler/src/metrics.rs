//! Metrics of the scheduler (contract `scheduler`, section 10).

use outrigger_process::Metrics as Registry;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts};

use crate::engine::{Answer, Nanos};
use crate::names::Kind;

/// Values of no labels.
const NONE: &[&str] = &[];
/// Upper bounds of the latency histogram, in milliseconds.
const LATENCY: [f64; 6] = [0.0, 100.0, 500.0, 1000.0, 5000.0, 10_000.0];

/// A counter for each kind of job.
#[derive(Debug, Clone)]
struct ByKind(IntCounterVec);

impl ByKind {
    fn new(registry: &Registry, name: &str, help: &str) -> Self {
        let family = IntCounterVec::new(Opts::new(format!("dapr_scheduler_{name}"), help), &["type"]);
        let family = family.expect("names of metrics are constants");
        register(registry, &family);
        Self(family)
    }

    fn add(&self, kind: Option<Kind>) {
        self.0
            .with_label_values(&[kind.map_or("unknown", Kind::label)])
            .inc();
    }
}

fn register<C: prometheus::core::Collector + Clone + 'static>(registry: &Registry, family: &C) {
    registry
        .registry()
        .register(Box::new(family.clone()))
        .expect("each metric is registered once");
}

/// The metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    connected: IntGaugeVec,
    created: ByKind,
    created_failed: ByKind,
    triggered: ByKind,
    failed: ByKind,
    undelivered: ByKind,
    deleted: ByKind,
    bulk_deleted: IntCounterVec,
    latency: HistogramVec,
    under_way: IntGaugeVec,
    pending: IntGaugeVec,
    throttled: IntCounterVec,
    sidecar_errors: IntCounterVec,
}

/// What goes wrong with a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SidecarError {
    /// A trigger could not be sent.
    Send,
    /// Its stream broke.
    Receive,
    /// It is not who it says.
    Auth,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Panics
    /// If they are registered already.
    pub fn new(registry: &Registry) -> Self {
        let counter = |name: &str, help: &str| ByKind::new(registry, name, help);
        let opts = |name: &str, help: &str| Opts::new(format!("dapr_scheduler_{name}"), help);
        let by_key = |name: &str, help: &str| {
            let family = IntGaugeVec::new(opts(name, help), &["concurrency_key"]).expect("a constant name");
            register(registry, &family);
            family
        };
        // Without labels, and still not shown before its first value, as upstream.
        let connected = IntGaugeVec::new(
            opts("sidecars_connected", "The number of sidecars connected."),
            &[],
        )
        .expect("a constant name");
        register(registry, &connected);
        let bulk_deleted = IntCounterVec::new(
            opts("jobs_bulk_deleted_total", "The number of bulk deletions."),
            &[],
        )
        .expect("a constant name");
        register(registry, &bulk_deleted);
        let latency = HistogramVec::new(
            HistogramOpts::new(
                "dapr_scheduler_trigger_latency",
                "The time from a trigger to its answer, in milliseconds.",
            )
            .buckets(LATENCY.to_vec()),
            &["type"],
        )
        .expect("a constant name");
        register(registry, &latency);
        let throttled = IntCounterVec::new(
            opts(
                "concurrency_throttled_total",
                "The number of triggers that waited for a limit.",
            ),
            &["concurrency_key"],
        )
        .expect("a constant name");
        register(registry, &throttled);
        let sidecar_errors = IntCounterVec::new(
            opts(
                "sidecar_errors_total",
                "The number of failures of connections to sidecars.",
            ),
            &["reason"],
        )
        .expect("a constant name");
        register(registry, &sidecar_errors);
        Self {
            connected,
            created: counter("jobs_created_total", "The number of jobs scheduled."),
            created_failed: counter("jobs_created_failed_total", "The number of jobs refused."),
            triggered: counter("jobs_triggered_total", "The number of jobs triggered."),
            failed: counter(
                "jobs_failed_total",
                "The number of triggers answered with a failure.",
            ),
            undelivered: counter(
                "jobs_undelivered_total",
                "The number of triggers nobody was there for.",
            ),
            deleted: counter("jobs_deleted_total", "The number of jobs deleted."),
            bulk_deleted,
            latency,
            under_way: by_key("concurrency_inflight", "Triggers under way below a limit."),
            pending: by_key("concurrency_pending", "Triggers that wait for a limit."),
            throttled,
            sidecar_errors,
        }
    }

    /// For tests: registered nowhere that anybody sees.
    pub fn unseen() -> Self {
        Self::new(&Registry::new())
    }

    /// A stream of a sidecar is there.
    pub fn connected(&self, change: i64) {
        self.connected.with_label_values(NONE).add(change);
    }

    /// A job was scheduled, or refused.
    pub fn created(&self, kind: Option<Kind>, accepted: bool) {
        if accepted {
            &self.created
        } else {
            &self.created_failed
        }
        .add(kind);
    }

    /// A job was deleted.
    pub fn deleted(&self, kind: Option<Kind>) {
        self.deleted.add(kind);
    }

    /// Jobs were deleted by prefix.
    pub fn bulk_deleted(&self) {
        self.bulk_deleted.with_label_values(NONE).inc();
    }

    /// Something went wrong with a sidecar.
    pub fn sidecar_error(&self, error: SidecarError) {
        let reason = match error {
            SidecarError::Send => "send_failed",
            SidecarError::Receive => "recv_failed",
            SidecarError::Auth => "auth_failed",
        };
        self.sidecar_errors.with_label_values(&[reason]).inc();
    }

    pub(crate) fn triggered(&self, kind: Kind) {
        self.triggered.add(Some(kind));
    }

    pub(crate) fn undelivered(&self, kind: Kind) {
        self.undelivered.add(Some(kind));
    }

    pub(crate) fn answered(&self, kind: Kind, answer: Answer, took: Nanos) {
        if answer == Answer::Failed {
            self.failed.add(Some(kind));
        }
        let histogram = self.latency.with_label_values(&[kind.label()]);
        histogram.observe(took as f64 / 1e6);
    }

    pub(crate) fn throttled(&self, key: &str) {
        self.throttled.with_label_values(&[key]).inc();
    }

    pub(crate) fn pending(&self, key: &str, change: i64) {
        self.pending.with_label_values(&[key]).add(change);
    }

    pub(crate) fn under_way(&self, key: &str, change: i64) {
        self.under_way.with_label_values(&[key]).add(change);
    }
}
