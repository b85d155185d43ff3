//! The `dapr_*` metrics of a sidecar (contract `observability`, sections 1 and 2).
//!
//! [`Metrics`] is what everybody holds: cheap to clone, nothing global, and free when metrics are off, since then every
//! family is an empty option. A block gets its families from [`Metrics::counter`], [`Metrics::gauge`] and
//! [`Metrics::histogram`] when it is built, keeps them, and records with label values in the order of the names. Label
//! values are rewritten by the rules of the Configuration when a series is first seen.
//!
//! The families of the blocks that every sidecar has are modules here; others may live with their block.

mod actors;
mod component;
mod family;
mod grpc;
mod http;
mod path;
mod runtime;

use std::sync::Arc;

use outrigger_resources::configuration::MetricsSpec;
use prometheus::Registry;

pub use actors::ActorMetrics;
pub use component::{ComponentMetrics, IngressStatus, Operations};
pub use family::{Counter, Gauge, Histogram, MetricsError};
pub use grpc::{GrpcMetrics, MeasuredBody};
pub use http::{HttpMetrics, ServerCall};
pub use runtime::{InitFailure, RuntimeMetrics, category};

use family::Shared;

/// Upper bounds of latencies, in milliseconds.
const LATENCIES: [f64; 34] = [
    1., 2., 3., 4., 5., 6., 8., 10., 13., 16., 20., 25., 30., 40., 50., 65., 80., 100., 130., 160., 200.,
    250., 300., 400., 500., 650., 800., 1000., 2000., 5000., 10_000., 20_000., 50_000., 100_000.,
];
/// Upper bounds of sizes, in bytes.
const SIZES: [f64; 13] = [
    1024.,
    2048.,
    4096.,
    16384.,
    65536.,
    262_144.,
    1_048_576.,
    4_194_304.,
    16_777_216.,
    67_108_864.,
    268_435_456.,
    1_073_741_824.,
    4_294_967_296.,
];

/// What a histogram's values are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Buckets<'a> {
    /// Milliseconds, with the bounds of the Configuration.
    Latency,
    /// Bytes.
    Size,
    /// These upper bounds.
    Bounds(&'a [f64]),
}

/// All metrics of a sidecar.
#[derive(Clone, Default)]
pub struct Metrics {
    shared: Option<Arc<Shared>>,
    /// HTTP, both ways.
    pub http: HttpMetrics,
    /// gRPC, both ways.
    pub grpc: GrpcMetrics,
    /// Calls of components.
    pub component: ComponentMetrics,
    /// The sidecar itself, service invocation, policies, errors.
    pub runtime: RuntimeMetrics,
    /// Actors.
    pub actors: ActorMetrics,
}

impl Metrics {
    /// Registers the metrics of the app `app_id`; none at all where the settings switch them off.
    ///
    /// # Errors
    /// A rule whose pattern is no regular expression, or a metric that is registered already.
    pub fn new(
        registry: Registry,
        app_id: &str,
        namespace: &str,
        settings: &MetricsSpec,
    ) -> Result<Self, MetricsError> {
        if !settings.enabled.unwrap_or(true) {
            return Ok(Self::default());
        }
        let shared = Arc::new(Shared::new(registry, app_id, settings)?);
        let bare = Self {
            shared: Some(shared),
            ..Self::default()
        };
        Ok(Self {
            http: HttpMetrics::new(&bare, settings)?,
            grpc: GrpcMetrics::new(&bare)?,
            component: ComponentMetrics::new(&bare, namespace)?,
            runtime: RuntimeMetrics::new(&bare, settings.record_error_codes.unwrap_or(false))?,
            actors: ActorMetrics::new(&bare)?,
            ..bare
        })
    }

    /// Whether anything is recorded.
    pub const fn is_enabled(&self) -> bool {
        self.shared.is_some()
    }

    /// A counter. `name` as in the contract, without `dapr_`; `app_id` comes before the labels by itself, unless it is
    /// one of them.
    ///
    /// # Errors
    /// The name is registered already, or a name cannot be one.
    pub fn counter(&self, name: &str, labels: &[&str]) -> Result<Counter, MetricsError> {
        Counter::new(self.shared.as_deref(), name, labels)
    }

    /// A gauge; as [`Self::counter`].
    ///
    /// # Errors
    /// As [`Self::counter`].
    pub fn gauge(&self, name: &str, labels: &[&str]) -> Result<Gauge, MetricsError> {
        Gauge::new(self.shared.as_deref(), name, labels)
    }

    /// A histogram; as [`Self::counter`].
    ///
    /// # Errors
    /// As [`Self::counter`].
    pub fn histogram(
        &self,
        name: &str,
        labels: &[&str],
        buckets: Buckets<'_>,
    ) -> Result<Histogram, MetricsError> {
        Histogram::new(self.shared.as_deref(), name, labels, buckets)
    }
}
