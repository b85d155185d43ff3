//! From Component resources to running components: deny list, references, placeholders, the factory under its
//! time limit, parking while a secret store is missing (contract `components`, section 2).

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use outrigger_components_api::metadata::{Placeholders, Properties};
use outrigger_components_api::registry::Registry;
use outrigger_components_api::secrets::SecretStore;
use outrigger_process::Environment;
use outrigger_resources::HttpEndpoint;
use outrigger_resources::component::{Category, Component as Resource, denied_component};
use outrigger_resources::resolve::{
    EnvLookup, Resolver, Secret, SecretLookup, has_secrets, secret_store_name,
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::init::Init;
use super::{Component, ComponentStore};
use crate::Identity;
use crate::metrics::{InitFailure, RuntimeMetrics};

mod init;

/// A component that could not be loaded and whose `ignoreErrors` is not set: the sidecar cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(pub String);

/// The secret store of Kubernetes mode: its references are replaced by the operator.
pub const BUILT_IN: &str = "kubernetes";

/// What components are made with.
pub struct Loader {
    store: Arc<ComponentStore>,
    registry: Registry,
    identity: Identity,
    pod_name: Option<String>,
    environment: Environment,
    /// What components see of the environment.
    component_env: Arc<BTreeMap<String, String>>,
    env_keys: String,
    deny: ArcSwap<Vec<String>>,
    is_kubernetes: bool,
    shutdown: CancellationToken,
    metrics: RuntimeMetrics,
    /// Components that wait for a secret store, by the store's name.
    parked: std::sync::Mutex<BTreeMap<String, Vec<Resource>>>,
}

/// The settings of a [`Loader`] that are plain values.
pub struct LoaderOptions {
    /// Who the sidecar is.
    pub identity: Identity,
    /// `POD_NAME`
    pub pod_name: Option<String>,
    /// The process's environment, for `envRef`.
    pub environment: Environment,
    /// The environment that components see.
    pub component_environment: Environment,
    /// `DAPR_ENV_KEYS`
    pub env_keys: String,
    /// `spec.components.deny`
    pub deny: Vec<String>,
    /// Kubernetes mode.
    pub is_kubernetes: bool,
    /// Parent of every component's own token.
    pub shutdown: CancellationToken,
    /// Where starts are counted.
    pub metrics: RuntimeMetrics,
}

/// How an attempt to load ended.
enum Outcome {
    /// In the place of this one.
    Loaded(Option<Component>),
    /// It waits for its secret store, or is on the deny list.
    Parked,
}

impl Loader {
    /// A loader into `store`.
    pub fn new(store: Arc<ComponentStore>, registry: Registry, options: LoaderOptions) -> Self {
        let env = options
            .component_environment
            .iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        Self {
            store,
            registry,
            identity: options.identity,
            pod_name: options.pod_name,
            environment: options.environment,
            component_env: Arc::new(env),
            env_keys: options.env_keys,
            deny: ArcSwap::from_pointee(options.deny),
            is_kubernetes: options.is_kubernetes,
            shutdown: options.shutdown,
            metrics: options.metrics,
            parked: std::sync::Mutex::default(),
        }
    }

    /// Loads all resources: secret stores first, the others in order, each awaited.
    ///
    /// # Errors
    /// The first failure of a component without `ignoreErrors`.
    pub async fn load_all(&self, resources: Vec<Resource>) -> Result<(), LoadError> {
        let (secret_stores, others): (Vec<_>, Vec<_>) = resources
            .into_iter()
            .partition(|resource| matches!(resource.category(), Some((Category::SecretStores, _))));
        for resource in secret_stores.into_iter().chain(others) {
            let loaded = self
                .store
                .snapshot()
                .all
                .get(resource.metadata.name.as_str())
                .cloned();
            match loaded {
                Some(loaded) if *loaded.source == resource => {}
                Some(_) => {
                    return Err(LoadError(format!(
                        "component {} already exists",
                        resource.metadata.name
                    )));
                }
                None => self.load(resource).await?,
            }
        }
        let parked = self.parked();
        for (store, waiting) in parked.iter() {
            for resource in waiting {
                tracing::warn!(
                    "component {} waits for secret store {store}, which is not loaded: check auth.secretStore",
                    log_name(resource)
                );
            }
        }
        Ok(())
    }

    /// Loads one component, then those that waited for it.
    ///
    /// # Errors
    /// As [`Self::load_all`].
    pub async fn load(&self, resource: Resource) -> Result<(), LoadError> {
        let mut queue = vec![resource];
        while let Some(resource) = queue.pop() {
            let name = log_name(&resource);
            match self.try_load(&resource).await {
                Ok(Outcome::Loaded(_)) => {
                    tracing::info!("Component loaded: {name}");
                    queue.extend(self.unparked(&resource));
                }
                Ok(Outcome::Parked) => {}
                Err(error) if resource.spec.ignore_errors => {
                    tracing::error!("Ignoring error processing component {name}: {error}");
                }
                Err(error) => return Err(LoadError(error)),
            }
        }
        Ok(())
    }

    /// Loads one component while the sidecar runs, in the place of what has its name, then those that waited for it;
    /// what was replaced. What cannot be loaded is logged, and what is there stays.
    pub async fn reload(&self, resource: Resource) -> Vec<Component> {
        let mut replaced = Vec::new();
        let mut queue = vec![resource];
        while let Some(resource) = queue.pop() {
            let name = log_name(&resource);
            self.unpark(&resource.metadata.name);
            match self.try_load(&resource).await {
                Ok(Outcome::Loaded(old)) => {
                    let what = if old.is_some() { "reloaded" } else { "loaded" };
                    tracing::info!("Component {what}: {name}");
                    replaced.extend(old);
                    queue.extend(self.unparked(&resource));
                }
                Ok(Outcome::Parked) => tracing::warn!(
                    "component {name} waits for a secret store that is not loaded; until then things stay as they are"
                ),
                Err(error) => {
                    let loaded = self.store.snapshot();
                    let rest = if loaded.all.contains_key(resource.metadata.name.as_str()) {
                        "the version that was loaded before stays in use"
                    } else {
                        "it is not available until that is mended"
                    };
                    tracing::error!("component {name} could not be reloaded, {rest}: {error}");
                }
            }
        }
        replaced
    }

    /// Sets `spec.components.deny`.
    pub fn set_deny(&self, deny: Vec<String>) {
        self.deny.store(Arc::new(deny));
    }

    /// Why a component must not be loaded, if so.
    pub fn denied(&self, resource: &Resource) -> Option<String> {
        let spec = &resource.spec;
        denied_component(&self.deny.load(), &spec.component_type, &spec.version)
    }

    /// Whether a component of this name waits for its secret store.
    pub fn is_parked(&self, name: &str) -> bool {
        let parked = self.parked();
        parked.values().flatten().any(|one| one.metadata.name == name)
    }

    /// Forgets a component that waits for its secret store.
    pub fn unpark(&self, name: &str) {
        for waiting in self.parked().values_mut() {
            waiting.retain(|one| one.metadata.name != name);
        }
    }

    /// What waited for this component, if it is a secret store; the last one is the first in order.
    fn unparked(&self, loaded: &Resource) -> Vec<Resource> {
        if !matches!(loaded.category(), Some((Category::SecretStores, _))) {
            return Vec::new();
        }
        let mut waiting = self.parked().remove(&loaded.metadata.name).unwrap_or_default();
        waiting.reverse();
        waiting
    }

    fn parked(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Vec<Resource>>> {
        self.parked
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn try_load(&self, resource: &Resource) -> Result<Outcome, String> {
        let name = log_name(resource);
        if let Some(reason) = self.denied(resource) {
            tracing::warn!("component {name} is not loaded: {reason}");
            return Ok(Outcome::Parked);
        }
        let kind = resource.spec.component_type.as_str();
        let (category, implementation) = resource.category().ok_or_else(|| {
            format!("incorrect type {kind} of component {name}: it must be <category>.<implementation>, e.g. state.redis")
        })?;
        let Some(resolved) = self.resolve(resource).await? else {
            return Ok(Outcome::Parked);
        };
        let init = Init {
            loader: self,
            resource,
            resolved,
            shutdown: self.shutdown.child_token(),
            tasks: TaskTracker::new(),
        };
        let started = init.run(category, implementation).await;
        match &started {
            Ok(_) => self.metrics.component_initialized(kind),
            Err(error) => {
                let why = if error.starts_with("couldn't find") {
                    InitFailure::Creation
                } else {
                    InitFailure::Init
                };
                self.metrics.component_failed(kind, why, &resource.metadata.name);
            }
        }
        let component = started.map_err(|error| {
            format!("process component {} error: [INIT_COMPONENT_FAILURE]: initialization error occurred for {name}: {error}", resource.metadata.name)
        })?;
        Ok(Outcome::Loaded(self.store.replace(component).await))
    }

    /// Whether a component would wait for a secret store that is not loaded.
    pub fn would_wait(&self, resource: &Resource) -> bool {
        let store = secret_store_name(&resource.auth.secret_store, self.is_kubernetes);
        has_secrets(&resource.spec.metadata)
            && store.is_some_and(|store| !self.store.snapshot().secret_stores.contains_key(store))
    }

    /// Secret and environment references, then placeholders. `None` = parked until its secret store appears.
    async fn resolve(&self, resource: &Resource) -> Result<Option<Properties>, String> {
        let mut pairs = resource.spec.metadata.clone();
        let store_name = secret_store_name(&resource.auth.secret_store, self.is_kubernetes);
        let mut lookup = None;
        if has_secrets(&pairs)
            && let Some(store_name) = store_name
        {
            match self.store.snapshot().secret_stores.get(store_name) {
                Some(store) => lookup = Some(StoreLookup(store.clone())),
                None => {
                    self.parked()
                        .entry(store_name.to_owned())
                        .or_default()
                        .push(resource.clone());
                    return Ok(None);
                }
            }
        }
        let variable = |name: &str| self.environment.get(name).map(str::to_owned);
        let env = EnvLookup {
            variable: &variable,
            allowed: &self.env_keys,
        };
        let secrets = lookup.as_ref().map(|lookup| lookup as &dyn SecretLookup);
        let mut resolver = Resolver::new(secrets, env, &resource.metadata.namespace);
        resolver.pairs(&mut pairs).await;
        for warning in resolver.into_warnings() {
            tracing::warn!("component {}: {warning}", log_name(resource));
        }
        let template = Placeholders {
            app_id: &self.identity.app_id,
            namespace: &self.identity.namespace,
            pod_name: self.pod_name.as_deref(),
        };
        pairs
            .iter()
            .map(|pair| {
                let value = template
                    .expand(&pair.value_text(), || uuid::Uuid::new_v4().to_string())
                    .map_err(|error| {
                        format!(
                            "metadata {} of component {}: {error}",
                            pair.name,
                            log_name(resource)
                        )
                    })?;
                Ok((pair.name.clone(), value))
            })
            .collect::<Result<Properties, String>>()
            .map(Some)
    }

    /// An HTTPEndpoint with its secret and environment references replaced; what does not resolve is logged.
    pub async fn resolve_http_endpoint(&self, resource: &HttpEndpoint) -> HttpEndpoint {
        let mut resolved = resource.clone();
        let store_name = secret_store_name(&resource.auth.secret_store, self.is_kubernetes);
        let lookup = store_name
            .and_then(|name| self.store.snapshot().secret_stores.get(name).cloned())
            .map(StoreLookup);
        let variable = |name: &str| self.environment.get(name).map(str::to_owned);
        let env = EnvLookup {
            variable: &variable,
            allowed: &self.env_keys,
        };
        let secrets = lookup.as_ref().map(|lookup| lookup as &dyn SecretLookup);
        let mut resolver = Resolver::new(secrets, env, &resource.metadata.namespace);
        resolver.http_endpoint(&mut resolved).await;
        for warning in resolver.into_warnings() {
            tracing::warn!("HTTPEndpoint {}: {warning}", resource.metadata.name);
        }
        resolved
    }
}

/// A loaded secret store as the source of references.
struct StoreLookup(Arc<dyn SecretStore>);

#[async_trait]
impl SecretLookup for StoreLookup {
    async fn secret(&self, name: &str, namespace: &str) -> Result<Secret, String> {
        let metadata = BTreeMap::from([("namespace".to_owned(), namespace.to_owned())]);
        match self.0.get(name, &metadata).await {
            Ok(secret) => Ok(secret.unwrap_or_default()),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn log_name(resource: &Resource) -> String {
    use outrigger_resources::Resource as _;
    resource.log_name()
}
