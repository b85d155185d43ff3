//! The name resolution of the Configuration, at the start and whenever it changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use outrigger_components_api::name_resolution::{InstanceInfo, ResolverFactory};
use outrigger_components_api::registry::Registry;
use outrigger_gojson::Value;
use outrigger_resources::Configuration;
use outrigger_resources::configuration::NameResolutionSpec;
use outrigger_sidecar_core::Identity;
use outrigger_sidecar_core::config::{BoundPorts, Mode, SidecarConfig};
use outrigger_sidecar_core::invoke::resolve::StartedResolver;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Starts resolvers.
#[derive(Clone)]
pub(crate) struct NameResolution {
    known: BTreeMap<String, Arc<dyn ResolverFactory>>,
    /// Without what the Configuration says.
    info: InstanceInfo,
    is_kubernetes: bool,
}

impl NameResolution {
    pub(crate) fn new(
        config: &SidecarConfig,
        identity: &Identity,
        ports: BoundPorts,
        registry: &Registry,
        shutdown: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let listen = config.internal_grpc_listen_address.as_str();
        let is_loopback = matches!(listen, "127.0.0.1" | "localhost" | "[::1]" | "::1");
        let factories = registry.name_resolution.iter();
        Self {
            known: factories
                .map(|(name, factory)| (name.clone(), factory.clone()))
                .collect(),
            info: InstanceInfo {
                app_id: config.app_id.clone(),
                namespace: identity.namespace.to_string(),
                address: if is_loopback {
                    listen.to_owned()
                } else {
                    identity.host_address.to_string()
                },
                internal_port: ports.internal_grpc,
                http_port: ports.http,
                app_port: config.app.port.unwrap_or(0),
                configuration: None,
                env: config
                    .environment
                    .iter()
                    .map(|(k, v)| (k.to_owned(), v.to_owned()))
                    .collect(),
                shutdown: shutdown.clone(),
                tasks: tasks.clone(),
            },
            is_kubernetes: config.mode == Mode::Kubernetes,
        }
    }

    /// Which resolver a Configuration wants, and what it is told. Where both are the same nothing changes.
    pub(crate) fn wanted(&self, configuration: &Configuration) -> NameResolutionSpec {
        let mut spec = configuration.spec.name_resolution.clone().unwrap_or_default();
        if spec.component.is_empty() {
            let default = if self.is_kubernetes { "kubernetes" } else { "mdns" };
            default.clone_into(&mut spec.component);
        }
        if spec.version.is_empty() {
            "v1".clone_into(&mut spec.version);
        }
        spec
    }

    /// Starts it, which announces the sidecar.
    ///
    /// # Errors
    /// No such resolver, or why it cannot start.
    pub(crate) async fn start(&self, spec: &NameResolutionSpec) -> Result<StartedResolver, String> {
        let name = spec.component.as_str();
        let Some(factory) = self.known.get(&name.to_lowercase()) else {
            let known = self.known.keys().map(String::as_str).collect::<Vec<_>>();
            return Err(format!(
                "couldn't find name resolver {name}/{}: spec.nameResolution.component must be one of {}",
                spec.version,
                known.join(", ")
            ));
        };
        let stop = self.info.shutdown.child_token();
        let info = InstanceInfo {
            configuration: serde_json::to_vec(&spec.configuration)
                .ok()
                .and_then(|json| outrigger_gojson::parse(&json).ok())
                .filter(|value| *value != Value::Null),
            shutdown: stop.clone(),
            ..self.info.clone()
        };
        let created = factory.create(info).await;
        let resolver =
            created.map_err(|error| format!("error initializing name resolution {name}: {error}"))?;
        tracing::info!(target: "dapr.runtime", "Initialized name resolution to {name}");
        Ok(StartedResolver { resolver, stop })
    }
}
