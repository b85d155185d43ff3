//! The `dapr_*` metrics of a sidecar (contract `observability`, sections 1 and 2).
//!
//! [`Metrics`] is what everybody holds: cheap to clone, nothing global, and nearly free when metrics are off, since then
//! there is nothing behind any family. A block gets its families from [`Metrics::counter`], [`Metrics::gauge`] and their
//! kind when it is built, keeps them, and records with label values in the order of the names. Label values are rewritten
//! by the rules of the Configuration. All of it follows the Configuration while the sidecar runs ([`Metrics::configure`]).
//!
//! The families of the blocks that every sidecar has are modules here; others may live with their block.

mod actors;
mod cache;
mod component;
mod family;
mod grpc;
mod http;
mod path;
mod runtime;
mod settings;
mod shared;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use outrigger_resources::configuration::MetricsSpec;
use prometheus::Registry;

pub use actors::ActorMetrics;
pub use component::{ComponentMetrics, IngressStatus, Operations};
pub use family::{Counter, Gauge, Histogram, Level};
pub use grpc::{GrpcMetrics, MeasuredBody};
pub use http::{HttpMetrics, ServerCall};
pub use runtime::{InitFailure, RuntimeMetrics, category};
pub use settings::MetricsError;

use shared::{Shared, Shown};

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
    /// The metrics of the app `app_id`, shown in `registry` from now on. None are kept until [`Self::configure`].
    ///
    /// # Errors
    /// The registry shows metrics of a sidecar already.
    pub fn new(registry: &Registry, app_id: &str, namespace: &str) -> Result<Self, MetricsError> {
        let shared = Arc::new(Shared::new(app_id));
        let shown = Shown(shared.clone());
        registry
            .register(Box::new(shown))
            .map_err(|error| MetricsError::Unfit {
                name: "dapr_*".to_owned(),
                reason: error.to_string(),
            })?;
        let bare = Self {
            shared: Some(shared.clone()),
            ..Self::default()
        };
        Ok(Self {
            http: HttpMetrics::new(&bare, &shared)?,
            grpc: GrpcMetrics::new(&bare, &shared)?,
            component: ComponentMetrics::new(&bare, namespace)?,
            runtime: RuntimeMetrics::new(&bare)?,
            actors: ActorMetrics::new(&bare)?,
            ..bare
        })
    }

    /// Puts settings in force, at the start and whenever they change, as a whole or not at all. Families that the change
    /// does not concern go on counting; others begin anew, as all do where metrics are switched on again.
    ///
    /// # Errors
    /// A rule whose pattern is no regular expression, or bounds that do not grow; what was in force stays.
    pub fn configure(&self, settings: &MetricsSpec) -> Result<(), MetricsError> {
        self.shared
            .as_ref()
            .map_or(Ok(()), |shared| shared.configure(settings))
    }

    /// Whether settings could be put in force.
    ///
    /// # Errors
    /// As [`Self::configure`].
    pub fn check(&self, settings: &MetricsSpec) -> Result<(), MetricsError> {
        self.shared
            .as_ref()
            .map_or(Ok(()), |shared| shared.check(settings))
    }

    /// Whether anything is recorded.
    pub fn is_enabled(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.settings().is_on)
    }

    /// For metrics that are not families of this module: what is registered here is shown while metrics are on.
    pub fn others(&self) -> Option<&Registry> {
        self.shared.as_ref().map(|shared| shared.others())
    }

    /// A counter. `name` as in the contract, without `dapr_`; `app_id` comes before the labels by itself, unless it is
    /// one of them.
    ///
    /// # Errors
    /// There is a family of the name already, or a name cannot be one.
    pub fn counter(&self, name: &str, labels: &[&str]) -> Result<Counter, MetricsError> {
        Counter::new(self.shared.as_deref(), name, labels)
    }

    /// A counter that is kept only while the settings want it; as [`Self::counter`].
    ///
    /// # Errors
    /// As [`Self::counter`].
    pub fn counter_if(
        &self,
        wanted: fn(&MetricsSpec) -> bool,
        name: &str,
        labels: &[&str],
    ) -> Result<Counter, MetricsError> {
        Counter::wanted_if(self.shared.as_deref(), name, labels, wanted)
    }

    /// A gauge that is set; as [`Self::counter`].
    ///
    /// # Errors
    /// As [`Self::counter`].
    pub fn gauge(&self, name: &str, labels: &[&str]) -> Result<Gauge, MetricsError> {
        Gauge::new(self.shared.as_deref(), name, labels)
    }

    /// A gauge that is added to and taken from, with one label; as [`Self::counter`].
    ///
    /// # Errors
    /// As [`Self::counter`].
    pub fn level(&self, name: &str, label: &str) -> Result<Level, MetricsError> {
        Level::new(self.shared.as_deref(), name, label)
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
