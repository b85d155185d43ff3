//! From settings to the services of a sidecar.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use outrigger_components_api::registry::Registry;
use outrigger_identity::Security;
use outrigger_model::duration::GoDuration;
use outrigger_process::Readiness;
use outrigger_resiliency::Resiliency;
use outrigger_resources::configuration::PipelineSpec;
use outrigger_resources::disk::{self, Filter};
use outrigger_resources::{
    AccessControl, Component, Configuration, HttpEndpoint, SecretScopes, Subscription, configuration,
};
use outrigger_sidecar_core::actors::stream::StreamActors;
use outrigger_sidecar_core::actors::{ActorService, Engine};
use outrigger_sidecar_core::app::{AppChannel, AppHealth};
use outrigger_sidecar_core::bindings::{BindingDeps, BindingService};
use outrigger_sidecar_core::components::ComponentStore;
use outrigger_sidecar_core::components::loader::{BUILT_IN, Loader, LoaderOptions};
use outrigger_sidecar_core::config::{AllowedOrigins, BoundPorts, Mode, SidecarConfig, host_address};
use outrigger_sidecar_core::configuration::ConfigurationService;
use outrigger_sidecar_core::invoke::access::{AccessMetrics, InvokeAccess};
use outrigger_sidecar_core::invoke::endpoint::{Endpoint, EndpointDeps, UrlClient};
use outrigger_sidecar_core::invoke::peer::Peers;
use outrigger_sidecar_core::invoke::resolve::Addresses;
use outrigger_sidecar_core::invoke::{Endpoints, Invoker, InvokerParts};
use outrigger_sidecar_core::jobs::JobService;
use outrigger_sidecar_core::lock::LockService;
use outrigger_sidecar_core::metadata::{AppHealthMetadata, AppMetadata, ExtendedMetadata};
use outrigger_sidecar_core::middleware::Pipeline;
use outrigger_sidecar_core::operator::Operator;
use outrigger_sidecar_core::outside::{Outside, Proxies};
use outrigger_sidecar_core::policy::ComponentPolicies;
use outrigger_sidecar_core::pubsub::{PubSubDeps, PubSubService, SubscriptionSpec};
use outrigger_sidecar_core::reload::Resources;
use outrigger_sidecar_core::scheduler::{Scheduler, SchedulerOptions};
use outrigger_sidecar_core::secrets::{SecretAccess, SecretService};
use outrigger_sidecar_core::sidecar::{ShutdownRequest, StaticMetadata, Tracing};
use outrigger_sidecar_core::spans::{Spans, SpansError};
use outrigger_sidecar_core::state::StateService;
use outrigger_sidecar_core::tls::SystemRoots;
use outrigger_sidecar_core::{Identity, Metrics, Sidecar};
use outrigger_sidecar_grpc::{GrpcOptions, is_known_api};
use outrigger_sidecar_http::{ApiAccess, ApiLog, Cors, HttpOptions};
use outrigger_trace_context::Sampler;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::reload::ReloadParts;
use crate::resolution::NameResolution;
use crate::{VERSION, actors};

/// Why the sidecar cannot start.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct StartError(pub(crate) String);

impl StartError {
    pub(crate) fn new(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// A sidecar with what runs beside its services.
pub(crate) struct Built {
    pub(crate) core: Arc<Sidecar>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) app: Option<Arc<AppChannel>>,
    pub(crate) engine: Option<Arc<Engine>>,
    pub(crate) max_message: usize,
    pub(crate) app_health: Option<AppHealth>,
    pub(crate) http: HttpOptions,
    pub(crate) grpc: GrpcOptions,
    pub(crate) reload: ReloadParts,
}

/// Reads the Configuration files.
pub(crate) fn configuration(config: &SidecarConfig) -> Result<Configuration, StartError> {
    let paths: Vec<PathBuf> = config.config.iter().map(PathBuf::from).collect();
    let loaded = configuration::load::load(&paths, |name| config.environment.get(name).map(str::to_owned))
        .map_err(|error| StartError(format!("error loading configuration: {error}")))?;
    with_environment(config, loaded)
}

/// A Configuration with what the environment says about tracing.
pub(crate) fn with_environment(
    config: &SidecarConfig,
    mut loaded: Configuration,
) -> Result<Configuration, StartError> {
    loaded
        .spec
        .tracing
        .apply_environment(|name| config.environment.get(name).map(str::to_owned))
        .map_err(|error| StartError(format!("error loading configuration: {error}")))?;
    Ok(loaded)
}

/// Who the sidecar is.
pub(crate) fn identity(config: &SidecarConfig) -> Identity {
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let hostname = match hostname.trim() {
        "" => config.environment.get("HOSTNAME").unwrap_or("localhost"),
        name => name,
    };
    Identity {
        app_id: config.app_id.as_str().into(),
        namespace: config.namespace_or_default().into(),
        raw_namespace: config.namespace.as_str().into(),
        host_address: host_address(config.host_ip.as_deref(), &[]).into(),
        hostname: hostname.into(),
    }
}

/// What is there before the services.
pub(crate) struct Base {
    pub(crate) identity: Identity,
    pub(crate) security: Security,
    pub(crate) ports: BoundPorts,
    pub(crate) registry: Registry,
    pub(crate) metrics: Metrics,
    /// Where resources come from in Kubernetes mode.
    pub(crate) operator: Option<Operator>,
}

/// The `dapr_*` metrics; none are kept if the settings are wrong, which is no reason not to serve.
pub(crate) fn metrics(
    process: &outrigger_process::Metrics,
    identity: &Identity,
    configuration: &Configuration,
) -> Result<Metrics, StartError> {
    let metrics = Metrics::new(process.registry(), &identity.app_id, &identity.namespace);
    let metrics = metrics.map_err(StartError::new)?;
    if let Err(error) = metrics.configure(&configuration.spec.effective_metrics()) {
        tracing::error!(target: "dapr.runtime", "failed to initialize metrics, none are kept: {error}");
    }
    Ok(metrics)
}

/// Starts the exporters of spans that a Configuration names.
#[derive(Clone)]
pub(crate) struct Exporters {
    config: SidecarConfig,
    roots: SystemRoots,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Exporters {
    pub(crate) fn start(&self, configuration: &Configuration) -> Result<Spans, SpansError> {
        let config = &self.config;
        Spans::start(
            &configuration.spec.tracing,
            &config.app_id,
            &config.environment,
            &self.roots,
            &self.shutdown,
            &self.tasks,
        )
    }
}

/// The feature by which actors' state may have a time to live.
pub(crate) const STATE_TTL: &str = "ActorStateTTL";

/// The names of the features that are on.
pub(crate) fn features(configuration: &Configuration) -> Vec<String> {
    let features = configuration.spec.enabled_features().into_iter();
    features.map(str::to_owned).collect()
}

/// Loads the components and makes the services.
pub(crate) async fn build(
    config: &SidecarConfig,
    configuration: Configuration,
    base: Base,
    shutdown: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<Built, StartError> {
    let Base {
        identity,
        security,
        ports,
        registry,
        metrics,
        operator,
    } = base;
    let resources = match &operator {
        Some(operator) => operator.resources().await.map_err(StartError::new)?,
        None => resources(config)?,
    };

    let resolution = NameResolution::new(config, &identity, ports, &registry, shutdown, tasks);
    // One that cannot start is reported, not fatal: calls that need it fail with its absence.
    let resolver = resolution.start(&resolution.wanted(&configuration)).await;
    let resolver = resolver.inspect_err(|error| tracing::error!(target: "dapr.runtime", "{error}"));
    let store = Arc::new(ComponentStore::default());
    let loader = Arc::new(Loader::new(
        store.clone(),
        registry,
        LoaderOptions {
            identity: identity.clone(),
            pod_name: config.pod_name.clone(),
            environment: config.environment.clone(),
            component_environment: config.component_environment(&identity.host_address, ports),
            env_keys: config.env_keys.clone(),
            deny: configuration.spec.components.deny.clone(),
            is_kubernetes: config.mode == Mode::Kubernetes,
            shutdown: shutdown.child_token(),
            metrics: metrics.runtime.clone(),
        },
    ));
    if let Some(store) = built_in_secret_store(config) {
        loader.load(store).await.map_err(StartError::new)?;
    }
    loader
        .load_all(resources.components.clone())
        .await
        .map_err(StartError::new)?;

    let (app_health, healthy) = AppHealth::new(config.app.health_check.as_ref());
    let max_message = config
        .body_limit()
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(usize::MAX >> 1);
    let max_headers = usize::try_from(config.read_buffer_size).unwrap_or_default();
    let outside = Outside {
        roots: SystemRoots::default(),
        proxies: Proxies::new(&config.environment),
    };
    let exporters = Exporters {
        config: config.clone(),
        roots: outside.roots.clone(),
        shutdown: shutdown.clone(),
        tasks: tasks.clone(),
    };
    let spans = exporters.start(&configuration).map_err(StartError::new)?;
    let tracing = Tracing::new(sampler(&configuration, &spans), spans);
    let app_pipeline = pipeline(&configuration.spec.app_http_pipeline, &store);
    let app = AppChannel::new(&config.app, max_message, max_headers, &outside, &metrics, healthy)
        .map(|app| Arc::new(app.with_middleware(Some(app_pipeline.clone()))));
    let endpoints = EndpointDeps {
        outside,
        middleware: Some(app_pipeline.clone()),
        metrics: metrics.http.clone(),
        max_concurrency: config.app.max_concurrency,
    };
    let peers = Arc::new(Peers::new(
        security.clone(),
        tasks.clone(),
        shutdown.child_token(),
        config.peer_max_idle,
    ));
    let observer = Some(metrics.runtime.observer());
    let (resiliency_policies, warnings) = Resiliency::new(&resources.resiliencies, observer.clone());
    for resource in &resources.resiliencies {
        let metadata = &resource.metadata;
        metrics
            .runtime
            .policies_loaded(&metadata.name, &metadata.namespace);
    }
    for warning in warnings {
        tracing::warn!(target: "dapr.runtime", "{warning}");
    }
    let engine = actors::engine(actors::Parts {
        config,
        identity: &identity,
        ports,
        components: store.clone(),
        peers: peers.clone(),
        resiliency: resiliency_policies.clone(),
        max_message,
        state_ttl: configuration.spec.is_enabled(STATE_TTL),
        tasks: tasks.clone(),
        observer: Some(metrics.actors.observer()),
    });
    let invoker = Invoker::new(InvokerParts {
        identity: identity.clone(),
        app: app.clone(),
        addresses: Addresses::new(resolver.ok()),
        peers: peers.clone(),
        endpoints: http_endpoints(&loader, &resources.http_endpoints, &endpoints).await?,
        urls: UrlClient::new(endpoints.clone(), config.app.token_header()),
        resiliency: resiliency_policies.clone(),
        internal_port: ports.internal_grpc,
        max_message,
        metrics: metrics.runtime.clone(),
    })
    .map_err(StartError::new)?;

    let (policies, warnings) = Resiliency::new(&resources.resiliencies, observer);
    for warning in warnings {
        tracing::warn!(target: "dapr.runtime", "{warning}");
    }
    let reloaded_policies = vec![resiliency_policies, policies.clone()];
    let policies = Arc::new(ComponentPolicies::new(policies).with_metrics(metrics.component.clone()));
    let pubsub = PubSubService::new(PubSubDeps {
        components: store.clone(),
        policies: policies.clone(),
        identity: identity.clone(),
        app: app.clone(),
        tracing: tracing.clone(),
        ask_app: !config.app.disabled_init.subscribe,
    });
    pubsub.set_declared(SubscriptionSpec::declarative(
        &resources.subscriptions,
        &config.app_id,
    ));
    let secret_access = secret_access(&configuration)?;
    let names = |names: &mut dyn Iterator<Item = &String>| names.cloned().collect::<Vec<_>>();
    let core = Arc::new(Sidecar {
        state: StateService::new(
            store.clone(),
            policies.clone(),
            identity.app_id.clone(),
            pubsub.clone(),
        ),
        bindings: BindingService::new(BindingDeps {
            components: store.clone(),
            policies: policies.clone(),
            app: app.clone(),
            tracing: tracing.clone(),
            options_timeout: config.app.binding_options_timeout,
        }),
        configuration: ConfigurationService::new(store.clone(), policies.clone(), app.clone()),
        lock: LockService::new(store.clone(), policies.clone()),
        secrets: SecretService::new(store.clone(), policies, secret_access),
        components: store,
        pubsub,
        jobs: JobService::new(scheduler(config, &identity, &security), &identity),
        invoker,
        actors: ActorService::new(engine.clone()),
        actor_streams: Arc::new(StreamActors::default()),
        tracing,
        metrics,
        readiness: Readiness::default(),
        extended: ExtendedMetadata::new(VERSION.into()),
        facts: ArcSwap::from_pointee(StaticMetadata {
            version: VERSION.into(),
            enabled_features: features(&configuration),
            http_endpoints: names(
                &mut resources
                    .http_endpoints
                    .iter()
                    .map(|endpoint| &endpoint.metadata.name),
            ),
            resiliencies: names(
                &mut resources
                    .resiliencies
                    .iter()
                    .map(|resiliency| &resiliency.metadata.name),
            ),
            app: app_metadata(config),
        }),
        shutdown: ShutdownRequest::default(),
        outbound_ready: AtomicBool::new(false),
        identity,
        security,
    });
    let is_http = config.app.protocol.is_http();
    let rules = AccessControl::new(&configuration.spec.access_control, is_http).map_err(StartError::new)?;
    let access_metrics = AccessMetrics::default();
    if let Some(others) = core.metrics.others() {
        access_metrics.register(others).map_err(StartError::new)?;
    }
    let access = Arc::new(InvokeAccess::new(rules, access_metrics));
    let http_pipeline = pipeline(&configuration.spec.http_pipeline, &core.components);
    Ok(Built {
        http: http_options(config, &configuration, http_pipeline.clone()),
        grpc: grpc_options(config, &configuration, max_message, access.clone()),
        reload: ReloadParts {
            loader,
            policies: reloaded_policies,
            endpoints,
            loaded: resources,
            configuration,
            access,
            http_pipeline,
            app_pipeline,
            operator,
            resolution,
            exporters,
            engine: engine.clone(),
        },
        core,
        peers,
        app,
        engine,
        max_message,
        app_health,
    })
}

/// The client of the scheduler; it looks for its replicas once it runs.
fn scheduler(config: &SidecarConfig, identity: &Identity, security: &Security) -> Scheduler {
    let settings = &config.control_plane;
    let options = SchedulerOptions {
        addresses: settings.scheduler_addresses.clone(),
        streams: usize::try_from(settings.scheduler_job_streams).unwrap_or(1),
        app_id: identity.app_id.to_string(),
        namespace: identity.namespace.to_string(),
    };
    Scheduler::new(options, security)
}

/// The resources of the directories.
fn resources(config: &SidecarConfig) -> Result<Resources, StartError> {
    let documents = disk::read(&config.resources_paths).map_err(StartError::new)?;
    let filter = Filter {
        namespace: &config.namespace,
        app_id: &config.app_id,
    };
    let components = documents.select::<Component>(filter).map_err(StartError::new)?;
    let http_endpoints = documents
        .select::<HttpEndpoint>(filter)
        .map_err(StartError::new)?;
    let subscriptions = documents
        .select::<Subscription>(filter)
        .map_err(StartError::new)?;
    let resiliencies = disk::read_resiliency(&config.resources_paths, &config.app_id);
    let warnings = [
        &documents.warnings,
        &components.warnings,
        &http_endpoints.warnings,
        &subscriptions.warnings,
        &resiliencies.warnings,
    ];
    for warning in warnings.into_iter().flatten() {
        tracing::warn!(target: "dapr.runtime", "{warning}");
    }
    Ok(Resources {
        components: components.resources,
        subscriptions: subscriptions.resources,
        http_endpoints: http_endpoints.resources,
        resiliencies: resiliencies.resources,
    })
}

/// `spec.secrets.scopes`
pub(crate) fn secret_access(configuration: &Configuration) -> Result<SecretAccess, StartError> {
    let scopes = SecretScopes::new(&configuration.spec.secrets.scopes).map_err(StartError::new)?;
    Ok(Box::new(move |store, name| scopes.allows(store, name)))
}

/// The secret store that every sidecar in Kubernetes has, unless it is not wanted.
fn built_in_secret_store(config: &SidecarConfig) -> Option<Component> {
    let is_wanted = config.mode == Mode::Kubernetes && !config.control_plane.builtin_secret_store_disabled;
    is_wanted.then(|| {
        let mut store = Component::default();
        BUILT_IN.clone_into(&mut store.metadata.name);
        "secretstores.kubernetes".clone_into(&mut store.spec.component_type);
        "v1".clone_into(&mut store.spec.version);
        store
    })
}

/// The HTTPEndpoint resources with their references resolved, by name.
async fn http_endpoints(
    loader: &Loader,
    resources: &[HttpEndpoint],
    deps: &EndpointDeps,
) -> Result<Endpoints, StartError> {
    let mut endpoints = Endpoints::new();
    for resource in resources {
        let resolved = loader.resolve_http_endpoint(resource).await;
        endpoints.insert(
            resource.metadata.name.clone(),
            Arc::new(Endpoint::new(&resolved, deps).map_err(StartError)?),
        );
    }
    Ok(endpoints)
}

/// Without a rate no spans are made, and with the rate 0 not even incoming ones are handed on
/// (contract `observability`, section 4.1).
pub(crate) fn sampler(configuration: &Configuration, spans: &Spans) -> Option<Sampler> {
    let text = &configuration.spec.tracing.sampling_rate;
    if text.is_empty() && !spans.is_on() {
        return Some(Sampler::repeating());
    }
    let rate = configuration::sampling_rate(text);
    (rate != 0.0).then(|| Sampler::new(rate))
}

fn app_metadata(config: &SidecarConfig) -> AppMetadata {
    let app = &config.app;
    AppMetadata {
        port: app.port.unwrap_or(0),
        protocol: app.protocol.name().into(),
        channel_address: app.address.clone(),
        max_concurrency: app
            .max_concurrency
            .and_then(|limit| i32::try_from(limit).ok())
            .unwrap_or(0),
        health: app.health_check.as_ref().map(|health| AppHealthMetadata {
            path: if app.protocol.is_http() {
                health.path.clone()
            } else {
                String::new()
            },
            probe_interval: go_duration(health.interval),
            probe_timeout: go_duration(health.timeout),
            threshold: i32::try_from(health.threshold).unwrap_or(i32::MAX),
        }),
    }
}

fn go_duration(duration: std::time::Duration) -> String {
    GoDuration::from_nanos(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)).to_string()
}

/// The pipeline of a direction; what it names and is not there is said at start.
fn pipeline(spec: &PipelineSpec, components: &Arc<ComponentStore>) -> Arc<Pipeline> {
    let pipeline = Pipeline::new(spec, components.clone());
    for warning in pipeline.warnings() {
        tracing::warn!(target: "dapr.runtime", "{warning}");
    }
    pipeline
}

fn http_options(
    config: &SidecarConfig,
    configuration: &Configuration,
    middleware: Arc<Pipeline>,
) -> HttpOptions {
    let origins = match &config.allowed_origins {
        AllowedOrigins::Off => Vec::new(),
        AllowedOrigins::Any => vec!["*".to_owned()],
        AllowedOrigins::List(list) => list.clone(),
    };
    HttpOptions {
        max_body_size: config.body_limit(),
        read_buffer_size: usize::try_from(config.read_buffer_size).unwrap_or_default(),
        cors: Cors::new(&origins),
        api_token: config.api_token.as_ref().map(|token| token.expose().to_owned()),
        h2c: !config.http_h2c_disabled,
        access: ApiAccess::for_http(&configuration.spec.api.clone().unwrap_or_default()),
        api_log: api_log(config, configuration),
        middleware: Some(middleware),
    }
}

/// `--enable-api-logging`, or what the Configuration says.
pub(crate) fn api_log(config: &SidecarConfig, configuration: &Configuration) -> Option<ApiLog> {
    let logging = &configuration.spec.logging.api_logging;
    config.api_logging.unwrap_or(logging.enabled).then_some(ApiLog {
        obfuscate_urls: logging.obfuscate_urls,
        omit_health_checks: logging.omit_health_checks,
    })
}

fn grpc_options(
    config: &SidecarConfig,
    configuration: &Configuration,
    max_message: usize,
    invoke_access: Arc<InvokeAccess>,
) -> GrpcOptions {
    GrpcOptions {
        max_message,
        // The reference counts the read buffer in KiB here.
        max_headers: u32::try_from(config.read_buffer_size.saturating_mul(1024)).unwrap_or(u32::MAX),
        api_token: config.api_token.as_ref().map(|token| token.expose().to_owned()),
        access: ApiAccess::for_grpc(&configuration.spec.api.clone().unwrap_or_default(), is_known_api),
        invoke_access,
    }
}
