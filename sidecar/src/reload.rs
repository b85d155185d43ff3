//! Hot reload: where changes come from in this mode, and what a new Configuration changes (contract `components`,
//! section 4).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use outrigger_resiliency::Resiliency;
use outrigger_resources::{AccessControl, ApiAccess, Configuration};
use outrigger_sidecar_core::Sidecar;
use outrigger_sidecar_core::components::loader::Loader;
use outrigger_sidecar_core::config::SidecarConfig;
use outrigger_sidecar_core::invoke::access::InvokeAccess;
use outrigger_sidecar_core::middleware::Pipeline;
use outrigger_sidecar_core::operator::{Operator, OperatorSource};
use outrigger_sidecar_core::reload::files::FileSource;
use outrigger_sidecar_core::reload::{self, ConfigurationTarget, Effect, Reloader, ReloaderParts, Resources};
use outrigger_sidecar_core::tls::SystemRoots;
use outrigger_sidecar_grpc::{GrpcApi, is_known_api};
use outrigger_sidecar_http::HttpApi;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app_start::Subscriptions;
use crate::build::{self, Built};

/// How long calls of a replaced component may take until it is closed.
const DRAIN: Duration = Duration::from_secs(60);

/// What is needed to change a sidecar that was built.
#[derive(Clone)]
pub(crate) struct ReloadParts {
    pub(crate) loader: Arc<Loader>,
    pub(crate) policies: Vec<Resiliency>,
    pub(crate) roots: SystemRoots,
    pub(crate) loaded: Resources,
    pub(crate) configuration: Configuration,
    pub(crate) access: Arc<InvokeAccess>,
    pub(crate) http_pipeline: Arc<Pipeline>,
    pub(crate) app_pipeline: Arc<Pipeline>,
    /// Where resources come from in Kubernetes mode.
    pub(crate) operator: Option<Operator>,
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
    if !parts.configuration.spec.is_enabled("HotReload") {
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
        roots: parts.roots.clone(),
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

/// The Configuration without what can be changed in place.
fn fixed_part(configuration: &Configuration) -> Configuration {
    let mut spec = configuration.spec.clone();
    let none = Configuration::default().spec;
    spec.access_control = none.access_control;
    spec.api = none.api;
    spec.components = none.components;
    spec.secrets = none.secrets;
    spec.logging = none.logging;
    spec.http_pipeline = none.http_pipeline;
    spec.app_http_pipeline = none.app_http_pipeline;
    Configuration {
        spec,
        ..Configuration::default()
    }
}

impl ConfigurationTarget for LiveConfiguration {
    fn apply(&mut self, configuration: Configuration) -> Result<Effect, String> {
        let spec = &configuration.spec;
        let is_http = self.config.app.protocol.is_http();
        let rules = AccessControl::new(&spec.access_control, is_http)?;
        let secrets = build::secret_access(&configuration).map_err(|error| error.to_string())?;
        if fixed_part(&configuration) != fixed_part(&self.parts.configuration) {
            return Ok(Effect::NeedsRestart);
        }
        self.parts.access.set_rules(rules);
        self.sidecar.secrets.set_access(secrets);
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
        self.parts.configuration = configuration;
        Ok(Effect::Applied)
    }
}
