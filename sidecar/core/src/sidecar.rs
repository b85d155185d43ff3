//! What both edges call: the services of one running sidecar.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use http::HeaderMap;
use outrigger_trace_context::{Sampler, TraceContext};
use tokio_util::sync::CancellationToken;

use crate::Identity;
use crate::actors::ActorService;
use crate::actors::stream::StreamActors;
use crate::bindings::BindingService;
use crate::components::ComponentStore;
use crate::configuration::ConfigurationService;
use crate::invoke::Invoker;
use crate::jobs::JobService;
use crate::lock::LockService;
use crate::metadata::{
    ActorMetadata, ActorRuntimeStatus, AppMetadata, ComponentMetadata, ExtendedMetadata, Metadata,
};
use crate::metrics::Metrics;
use crate::pubsub::PubSubService;
use crate::secrets::SecretService;
use crate::spans::Spans;
use crate::state::StateService;
use outrigger_identity::Security;
use outrigger_process::Readiness;

/// What becomes of traces, as the Configuration says at the moment. Cheap to clone; a change is seen by all clones.
#[derive(Clone)]
pub struct Tracing(Arc<ArcSwap<TracingInForce>>);

/// What is in force about traces.
struct TracingInForce {
    /// `None` = tracing is off (`samplingRate: "0"`).
    sampler: Option<Sampler>,
    spans: Spans,
}

impl Tracing {
    /// Samples with this, `None` = not at all; spans go there.
    pub fn new(sampler: Option<Sampler>, spans: Spans) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(TracingInForce { sampler, spans })))
    }

    /// Another sampler and exporters from now on. Spans under way go to those they began with.
    pub fn set(&self, sampler: Option<Sampler>, spans: Spans) {
        self.0.store(Arc::new(TracingInForce { sampler, spans }));
    }

    /// The span of a request with these headers.
    pub fn start(&self, headers: &HeaderMap) -> Option<TraceContext> {
        self.0.load().sampler.map(|sampler| sampler.start(headers))
    }

    /// Where spans go.
    pub fn spans(&self) -> Spans {
        self.0.load().spans.clone()
    }

    /// The span under a parent.
    pub fn start_under(&self, parent: Option<&TraceContext>) -> Option<TraceContext> {
        self.0.load().sampler.map(|sampler| sampler.start_under(parent))
    }
}

/// How the process is asked to stop.
#[derive(Debug, Clone, Default)]
pub struct ShutdownRequest {
    graceful: CancellationToken,
    forced: CancellationToken,
}

impl ShutdownRequest {
    /// Asks for a graceful stop, or for the end of the process.
    pub fn request(&self, force: bool) {
        if force {
            self.forced.cancel();
        } else {
            self.graceful.cancel();
        }
    }

    /// Resolves when a graceful stop is asked for.
    pub async fn graceful(&self) {
        self.graceful.cancelled().await;
    }

    /// Resolves when the end of the process is asked for.
    pub async fn forced(&self) {
        self.forced.cancelled().await;
    }
}

/// Facts about the sidecar that seldom change while it runs.
#[derive(Debug, Clone, Default)]
pub struct StaticMetadata {
    /// Version of the runtime.
    pub version: String,
    /// Names of enabled features.
    pub enabled_features: Vec<String>,
    /// Names of HTTPEndpoint resources.
    pub http_endpoints: Vec<String>,
    /// Names of Resiliency resources.
    pub resiliencies: Vec<String>,
    /// How the app is reached.
    pub app: AppMetadata,
}

const PLACEMENT_DISCONNECTED: &str = "placement: disconnected";

/// The services of one sidecar.
pub struct Sidecar {
    /// Who it is.
    pub identity: Identity,
    /// How that is proven: TLS for every connection to another sidecar and to the control plane.
    pub security: Security,
    /// What is loaded.
    pub components: Arc<ComponentStore>,
    /// State.
    pub state: StateService,
    /// Secrets.
    pub secrets: SecretService,
    /// Publishing and subscriptions.
    pub pubsub: PubSubService,
    /// Jobs.
    pub jobs: JobService,
    /// Bindings in both directions.
    pub bindings: BindingService,
    /// Configuration.
    pub configuration: ConfigurationService,
    /// Distributed locks.
    pub lock: LockService,
    /// Service invocation.
    pub invoker: Invoker,
    /// Actors.
    pub actors: ActorService,
    /// Streams over which a gRPC app hosts actors.
    pub actor_streams: Arc<StreamActors>,
    /// Spans.
    pub tracing: Tracing,
    /// What is counted.
    pub metrics: Metrics,
    /// Health targets.
    pub readiness: Readiness,
    /// Values put over the API.
    pub extended: ExtendedMetadata,
    /// Facts for the metadata API.
    pub facts: ArcSwap<StaticMetadata>,
    /// Stops the process.
    pub shutdown: ShutdownRequest,
    /// Components loaded and API servers up.
    pub outbound_ready: AtomicBool,
}

impl Sidecar {
    /// Whether outbound calls may be made.
    pub fn is_outbound_ready(&self) -> bool {
        self.outbound_ready.load(Ordering::Acquire)
    }

    /// Asks the process to stop.
    pub fn request_shutdown(&self, force: bool) {
        self.shutdown.request(force);
    }

    /// Changes facts about the sidecar. Only one task at a time may do so.
    pub fn set_facts(&self, change: impl FnOnce(&mut StaticMetadata)) {
        let mut changed = StaticMetadata::clone(&self.facts.load());
        change(&mut changed);
        self.facts.store(Arc::new(changed));
    }

    /// The metadata document as of now.
    pub fn metadata(&self) -> Metadata {
        let loaded = self.components.snapshot();
        let facts = self.facts.load();
        let components = loaded
            .order
            .iter()
            .filter_map(|name| loaded.all.get(name))
            .map(|component| ComponentMetadata {
                name: component.name.to_string(),
                component_type: component.component_type.to_string(),
                version: component.version.to_string(),
                capabilities: component.capabilities.clone(),
            })
            .collect();
        Metadata {
            id: self.identity.app_id.to_string(),
            runtime_version: facts.version.clone(),
            enabled_features: facts.enabled_features.clone(),
            components,
            extended: self.extended.all(),
            subscriptions: self.pubsub.subscriptions_metadata(),
            http_endpoints: facts.http_endpoints.clone(),
            resiliencies: facts.resiliencies.clone(),
            app: facts.app.clone(),
            actors: self.actor_metadata(),
        }
    }

    /// Nothing is known of actors until the app is well.
    fn actor_metadata(&self) -> ActorMetadata {
        let status = self.actors.status();
        if self.invoker.app().is_some_and(|app| app.check_health().is_err()) {
            return ActorMetadata::default();
        }
        let Some(status) = status else {
            return ActorMetadata {
                status: ActorRuntimeStatus::Disabled,
                placement: PLACEMENT_DISCONNECTED.into(),
                ..ActorMetadata::default()
            };
        };
        let count = |count| i32::try_from(count).unwrap_or(i32::MAX);
        ActorMetadata {
            status: ActorRuntimeStatus::Running,
            active: status
                .active
                .into_iter()
                .map(|(name, number)| (name, count(number)))
                .collect(),
            host_ready: status.ready && !status.types.is_empty(),
            placement: if status.connected {
                "placement: connected"
            } else {
                PLACEMENT_DISCONNECTED
            }
            .into(),
        }
    }
}
