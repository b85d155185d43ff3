//! Hot reload: where changes come from in this mode, and what a new Configuration changes (contract `components`,
//! section 4).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outrigger_resiliency::Resiliency;
use outrigger_resources::{AccessControl, ApiAccess, Configuration};
use outrigger_sidecar_core::Sidecar;
use outrigger_sidecar_core::actors::Engine;
use outrigger_sidecar_core::components::loader::Loader;
use outrigger_sidecar_core::config::SidecarConfig;
use outrigger_sidecar_core::invoke::access::InvokeAccess;
use outrigger_sidecar_core::invoke::endpoint::EndpointDeps;
use outrigger_sidecar_core::invoke::resolve::StartedResolver;
use outrigger_sidecar_core::middleware::Pipeline;
use outrigger_sidecar_core::operator::{Operator, OperatorSource};
use outrigger_sidecar_core::reload::files::FileSource;
use outrigger_sidecar_core::reload::{self, ConfigurationTarget, Effect, Reloader, ReloaderParts, Resources};
use outrigger_sidecar_core::secrets::SecretAccess;
use outrigger_sidecar_core::spans::Spans;
use outrigger_sidecar_grpc::{GrpcApi, is_known_api};
use outrigger_sidecar_http::HttpApi;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app_start::Subscriptions;
use crate::build::{self, Built, Exporters};
use crate::resolution::NameResolution;

/// The feature by which resources are followed.
const HOT_RELOAD: &str = "HotReload";
/// How long calls of a replaced component may take until it is closed.
const DRAIN: Duration = Duration::from_secs(60);

/// What is needed to change a sidecar that was built.
#[derive(Clone)]
pub(crate) struct ReloadParts {
    pub(crate) loader: Arc<Loader>,
    pub(crate) policies: Vec<Resiliency>,
    pub(crate) endpoints: EndpointDeps,
    pub(crate) loaded: Resources,
    pub(crate) configuration: Configuration,
    pub(crate) access: Arc<InvokeAccess>,
    pub(crate) http_pipeline: Arc<Pipeline>,
    pub(crate) app_pipeline: Arc<Pipeline>,
    /// Where resources come from in Kubernetes mode.
    pub(crate) operator: Option<Operator>,
    pub(crate) resolution: NameResolution,
    pub(crate) exporters: Exporters,
    pub(crate) engine: Option<Arc<Engine>>,
}

/// Watches resources and applies their changes, unless the feature is off.
pub(crate) fn start(
    config: &SidecarConfig,
    built: &Built,
    apis: (Arc<HttpApi>, Arc<GrpcApi>),
    intake: &Subscriptions,
    shutdown: &CancellationToken,
    tasks: &TaskTracker,
) {
    let parts = built.reload.clone();
    if !parts.configuration.spec.is_enabled(HOT_RELOAD) {
        tracing::info!(target: "dapr.runtime", "Hot reloading disabled. Daprd will not hot reload resources.");
        return;
    }
    tracing::info!(target: "dapr.runtime", "Hot reloading enabled. Daprd will reload 'Component', 'Subscription', \
        'HTTPEndpoint', 'Resiliency' and 'Configuration' resources on change.");
    let (sink, changes) = reload::channel();
    if let Some(operator) = parts.operator.clone() {
        let source = OperatorSource::new(operator, config.hot_reload_interval);
        intake.tasks.spawn(source.run(sink, intake.stop.clone()));
    } else {
        let source = file_source(config, &parts.configuration);
        intake.tasks.spawn(source.run(sink, intake.stop.clone()));
    }
    let reloader = Reloader::new(ReloaderParts {
        sidecar: built.core.clone(),
        loader: parts.loader.clone(),
        policies: parts.policies.clone(),
        endpoints: parts.endpoints.clone(),
        loaded: parts.loaded.clone(),
        configuration: Box::new(LiveConfiguration {
            config: config.clone(),
            sidecar: built.core.clone(),
            apis,
            parts,
        }),
        drain: DRAIN,
        shutdown: shutdown.child_token(),
        tasks: tasks.clone(),
    });
    // Before components are closed nothing may be loaded any more.
    intake.tasks.spawn(reloader.run(changes, intake.stop.clone()));
}

fn file_source(config: &SidecarConfig, configuration: &Configuration) -> FileSource {
    let again = config.clone();
    FileSource {
        directories: config.resources_paths.clone(),
        configurations: config.config.iter().map(PathBuf::from).collect(),
        load: Arc::new(move || build::configuration(&again).map_err(|error| error.to_string())),
        configuration: configuration.clone(),
        namespace: config.namespace.clone(),
        app_id: config.app_id.clone(),
        interval: config.hot_reload_interval,
    }
}

/// The running sidecar as its Configuration sees it.
struct LiveConfiguration {
    config: SidecarConfig,
    sidecar: Arc<Sidecar>,
    apis: (Arc<HttpApi>, Arc<GrpcApi>),
    parts: ReloadParts,
}

/// What of the other parts is made anew; all of it before any of it is in force.
struct Prepared {
    rules: Option<AccessControl>,
    secrets: SecretAccess,
    /// `None` = tracing stays as it is.
    spans: Option<Spans>,
    /// `None` = the resolver stays.
    resolver: Option<StartedResolver>,
}

impl LiveConfiguration {
    /// What may fail. The resolver comes last, since it makes itself known.
    async fn prepare(&self, next: &Configuration) -> Result<Prepared, String> {
        let (spec, before) = (&next.spec, &self.parts.configuration);
        let is_http = self.config.app.protocol.is_http();
        let rules = AccessControl::new(&spec.access_control, is_http)?;
        let secrets = build::secret_access(next).map_err(|error| error.to_string())?;
        let spans = (spec.tracing != before.spec.tracing).then(|| self.parts.exporters.start(next));
        let spans = spans.transpose().map_err(|error| error.to_string())?;
        self.sidecar
            .metrics
            .check(&spec.effective_metrics())
            .map_err(|error| error.to_string())?;
        let resolution = &self.parts.resolution;
        let wanted = resolution.wanted(next);
        let resolver = if wanted == resolution.wanted(before) {
            None
        } else {
            Some(resolution.start(&wanted).await?)
        };
        Ok(Prepared {
            rules,
            secrets,
            spans,
            resolver,
        })
    }
}

#[async_trait]
impl ConfigurationTarget for LiveConfiguration {
    async fn apply(&mut self, configuration: Configuration) -> Result<Effect, String> {
        let configuration =
            build::with_environment(&self.config, configuration).map_err(|error| error.to_string())?;
        let prepared = self.prepare(&configuration).await?;
        let (spec, sidecar) = (&configuration.spec, &self.sidecar);
        let metrics = &sidecar.metrics;
        metrics
            .configure(&spec.effective_metrics())
            .map_err(|error| error.to_string())?;
        if let Some(spans) = prepared.spans {
            sidecar.tracing.set(build::sampler(&configuration, &spans), spans);
        }
        if let Some(resolver) = prepared.resolver {
            sidecar.invoker.addresses().replace(resolver).await;
        }
        self.parts.access.set_rules(prepared.rules);
        sidecar.secrets.set_access(prepared.secrets);
        self.parts.loader.set_deny(spec.components.deny.clone());
        for (pipeline, spec) in [
            (&self.parts.http_pipeline, &spec.http_pipeline),
            (&self.parts.app_pipeline, &spec.app_http_pipeline),
        ] {
            pipeline.set(spec);
            for warning in pipeline.warnings() {
                tracing::warn!(target: "dapr.runtime", "{warning}");
            }
        }
        let api = spec.api.clone().unwrap_or_default();
        let (http, grpc) = &self.apis;
        http.configure(
            &ApiAccess::for_http(&api),
            build::api_log(&self.config, &configuration),
        );
        grpc.set_access(ApiAccess::for_grpc(&api, is_known_api));
        if let Some(engine) = &self.parts.engine {
            engine.set_state_ttl(spec.is_enabled(build::STATE_TTL));
        }
        sidecar.set_facts(|facts| facts.enabled_features = build::features(&configuration));
        if configuration.spec != self.parts.configuration.spec {
            for warning in crate::not_built::warnings(&configuration) {
                tracing::warn!(target: "dapr.runtime", "{warning}");
            }
        }
        let is_last = !spec.is_enabled(HOT_RELOAD);
        self.parts.configuration = configuration;
        if is_last {
            tracing::warn!(
                target: "dapr.runtime",
                "the feature {HOT_RELOAD} was switched off: resources are no longer followed. To follow them again, switch \
                it on and send the process SIGHUP, or start it anew"
            );
            return Ok(Effect::AppliedAsLast);
        }
        Ok(Effect::Applied)
    }
}
