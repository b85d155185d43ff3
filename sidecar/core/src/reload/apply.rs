//! From the old to the new: what a change of a resource means for the running sidecar.
//!
//! A component is made before the one in its place is taken away, and takes its place at one moment: a call finds the
//! one or the other. The old one is closed when the calls that hold it are through. If the new one cannot be made, the
//! old one stays, and the log and the metrics say so.
//!
//! Some cannot be there twice: a queue belongs to one connection, a client's id to one client. The old one of these is
//! closed first, as Dapr does with all, and made once more if the new one cannot be made.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outrigger_resiliency::Resiliency as Policies;
use outrigger_resources::{Component, Configuration, HttpEndpoint, Resource};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Change, ResourceChange, ResourceChanges, Resources};
use crate::components::Component as Loaded;
use crate::components::loader::Loader;
use crate::invoke::endpoint::{Endpoint, EndpointDeps};
use crate::pubsub::SubscriptionSpec;
use crate::sidecar::Sidecar;

/// What became of a new Configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It is in force.
    Applied,
    /// It is in force, and says that no further change of anything is to be taken.
    AppliedAsLast,
}

/// Puts a Configuration in force.
#[async_trait]
pub trait ConfigurationTarget: Send + Sync {
    /// Applies it as a whole or not at all.
    ///
    /// # Errors
    /// If it makes no sense: the one before stays in force.
    async fn apply(&mut self, configuration: Configuration) -> Result<Effect, String>;
}

/// What changes are applied to.
pub struct ReloaderParts {
    /// The services.
    pub sidecar: Arc<Sidecar>,
    /// Makes components.
    pub loader: Arc<Loader>,
    /// All policies in use.
    pub policies: Vec<Policies>,
    /// What endpoints are made with.
    pub endpoints: EndpointDeps,
    /// What was loaded at start.
    pub loaded: Resources,
    /// Puts Configurations in force.
    pub configuration: Box<dyn ConfigurationTarget>,
    /// How long calls of a component that was replaced may take until it is closed.
    pub drain: Duration,
    /// Cancelled when the components are closed.
    pub shutdown: CancellationToken,
    /// Where replaced components are closed.
    pub tasks: TaskTracker,
}

/// Applies changes, one after the other.
pub struct Reloader {
    parts: ReloaderParts,
    /// What the sources said last, whether or not it concerns this sidecar.
    known: Resources,
    /// The endpoints in force, as they were declared.
    endpoints: Vec<HttpEndpoint>,
}

/// Whether a resource would have the same effect; the rest of its metadata is the API server's.
fn is_same(one: &Component, other: &Component) -> bool {
    one.metadata.name == other.metadata.name
        && one.metadata.namespace == other.metadata.namespace
        && one.spec == other.spec
        && one.auth == other.auth
        && one.scopes == other.scopes
}

/// Closes a component when its calls are through.
async fn close(old: Loaded, limit: Duration, stop: &CancellationToken) {
    let name = old.source.log_name();
    if old.retire(limit, stop).await {
        tracing::debug!("component {name}, which was replaced or removed, is closed");
    } else if !stop.is_cancelled() {
        tracing::warn!("component {name} was closed although it was still in use after {limit:?}");
    }
}

impl Reloader {
    /// For these parts.
    pub fn new(parts: ReloaderParts) -> Self {
        Self {
            known: parts.loaded.clone(),
            endpoints: parts.loaded.http_endpoints.clone(),
            parts,
        }
    }

    /// Applies changes until `stop`, or until the Configuration wants no more; one that is under way then is given up.
    pub async fn run(mut self, mut changes: ResourceChanges, stop: CancellationToken) {
        let apply = async {
            while let Some(change) = changes.next().await {
                if self.apply(change).await == Effect::AppliedAsLast {
                    return;
                }
            }
        };
        stop.run_until_cancelled(apply).await;
    }

    /// Applies one change.
    pub async fn apply(&mut self, change: ResourceChange) -> Effect {
        match change {
            ResourceChange::Component(change) => self.components(change).await,
            ResourceChange::Subscription(change) => {
                if change.apply(&mut self.known.subscriptions) {
                    self.set_subscriptions();
                }
            }
            ResourceChange::HttpEndpoint(change) => {
                if change.apply(&mut self.known.http_endpoints) {
                    self.set_endpoints().await;
                }
            }
            ResourceChange::Resiliency(change) => {
                if change.apply(&mut self.known.resiliencies) {
                    self.set_policies();
                }
            }
            ResourceChange::Configuration(configuration) => return self.configure(*configuration).await,
        }
        Effect::Applied
    }

    /// Whether a resource is for this sidecar.
    fn concerns(&self, resource: &impl Resource) -> bool {
        let identity = &self.parts.sidecar.identity;
        let (ours, its) = (&*identity.raw_namespace, resource.meta().namespace.as_str());
        (ours.is_empty() || its.is_empty() || ours == its) && resource.in_scope(&identity.app_id)
    }

    async fn components(&mut self, change: Change<Component>) {
        match change {
            Change::Put(component) => self.put(component).await,
            Change::Removed(name) => {
                self.known.components.retain(|known| known.metadata.name != name);
                self.take(&name).await;
            }
            Change::All(all) => {
                let is_there = |name: &str| all.iter().any(|one| one.metadata.name == name);
                let known = std::mem::take(&mut self.known.components);
                let (kept, gone): (Vec<_>, Vec<_>) = known
                    .into_iter()
                    .partition(|known| is_there(&known.metadata.name));
                self.known.components = kept;
                for component in gone {
                    self.take(&component.metadata.name).await;
                }
                let is_known = |one: &Component| {
                    let mut known = self.known.components.iter();
                    known.any(|known| known.metadata.name == one.metadata.name)
                };
                let (updates, creates): (Vec<_>, Vec<_>) = all.into_iter().partition(is_known);
                for component in updates.into_iter().chain(creates) {
                    self.put(component).await;
                }
            }
        }
        self.take_up_actor_stores().await;
    }

    async fn put(&mut self, component: Component) {
        let name = component.metadata.name.as_str();
        let mut known = self.known.components.iter_mut();
        match known.find(|known| known.metadata.name == name) {
            Some(known) if component.metadata.generation < known.metadata.generation => {
                tracing::warn!(
                    "component {name}: generation {} is older than {}, which is known; it is ignored",
                    component.metadata.generation,
                    known.metadata.generation
                );
                return;
            }
            Some(known) => {
                let is_same = is_same(known, &component);
                *known = component.clone();
                if is_same && self.is_settled(&component) {
                    return;
                }
            }
            None => self.known.components.push(component.clone()),
        }
        self.load(component).await;
    }

    /// Whether things are as this resource, which did not change, wants them. What failed is tried again.
    fn is_settled(&self, component: &Component) -> bool {
        let name = component.metadata.name.as_str();
        let loaded = self.parts.sidecar.components.snapshot();
        match loaded.all.get(name) {
            Some(loaded) => is_same(&loaded.source, component),
            None => {
                self.parts.loader.is_parked(name)
                    || !self.concerns(component)
                    || self.parts.loader.denied(component).is_some()
            }
        }
    }

    async fn load(&self, component: Component) {
        if !self.concerns(&component) {
            return self.take(&component.metadata.name).await;
        }
        if let Some(reason) = self.parts.loader.denied(&component) {
            tracing::warn!("component {} is not loaded: {reason}", component.log_name());
            return self.take(&component.metadata.name).await;
        }
        let excludes_another = {
            let loaded = self.parts.sidecar.components.snapshot();
            let old = loaded.all.get(component.metadata.name.as_str());
            old.is_some_and(|old| old.instance.excludes_another())
        };
        // One that has to wait is not made yet: until then the old one stays.
        if excludes_another && !self.parts.loader.would_wait(&component) {
            return self.load_after_closing(component).await;
        }
        let replaced = self.parts.loader.reload(component).await;
        self.components_changed().await;
        for old in replaced {
            self.retire(old);
        }
    }

    /// Closes the component in whose place another one comes before that is made.
    async fn load_after_closing(&self, component: Component) {
        let (loader, components) = (&self.parts.loader, &self.parts.sidecar.components);
        let name = component.metadata.name.clone();
        let replacing = components.replacing(&name);
        let Some(old) = components.remove(&name).await else {
            return;
        };
        let before = Component::clone(&old.source);
        self.components_changed().await;
        close(old, self.parts.drain, &self.parts.shutdown).await;
        let mut replaced = loader.reload(component).await;
        if !components.snapshot().all.contains_key(name.as_str()) {
            tracing::warn!("component {name} is made as it was before");
            replaced.extend(loader.reload(before).await);
        }
        drop(replacing);
        self.components_changed().await;
        for old in replaced {
            self.retire(old);
        }
    }

    /// Takes a component away.
    async fn take(&self, name: &str) {
        self.parts.loader.unpark(name);
        if let Some(old) = self.parts.sidecar.components.remove(name).await {
            tracing::info!("Component removed: {}", old.source.log_name());
            self.components_changed().await;
            self.retire(old);
        }
    }

    /// A second store for actors is refused; once the first one is gone it is welcome.
    async fn take_up_actor_stores(&self) {
        if self.parts.sidecar.components.snapshot().actor_store.is_some() {
            return;
        }
        let waiting: Vec<Component> = {
            let loaded = self.parts.sidecar.components.snapshot();
            let known = self.known.components.iter();
            known
                .filter(|known| {
                    let mut pairs = known.spec.metadata.iter();
                    pairs.any(|pair| pair.name.eq_ignore_ascii_case("actorStateStore"))
                        && loaded
                            .all
                            .get(known.metadata.name.as_str())
                            .is_none_or(|loaded| !is_same(&loaded.source, known))
                        && !self.is_settled(known)
                })
                .cloned()
                .collect()
        };
        for component in waiting {
            self.load(component).await;
        }
    }

    /// Subscriptions, input bindings and watches of configuration go over to what is there now.
    async fn components_changed(&self) {
        let sidecar = &self.parts.sidecar;
        sidecar.pubsub.components_changed();
        sidecar.bindings.components_changed();
        sidecar.configuration.components_changed().await;
    }

    /// Closes a component that has no place any more, in the background.
    fn retire(&self, old: Loaded) {
        let (limit, stop) = (self.parts.drain, self.parts.shutdown.clone());
        self.parts
            .tasks
            .spawn(async move { close(old, limit, &stop).await });
    }

    fn set_subscriptions(&self) {
        let ours = self.known.subscriptions.iter().filter(|one| self.concerns(*one));
        let sidecar = &self.parts.sidecar;
        let specs = SubscriptionSpec::declarative(ours, &sidecar.identity.app_id);
        tracing::info!("declarative subscriptions changed, there are {} now", specs.len());
        sidecar.pubsub.set_declared(specs);
    }

    async fn set_endpoints(&mut self) {
        let invoker = &self.parts.sidecar.invoker;
        let before = invoker.endpoints();
        let mut endpoints = crate::invoke::Endpoints::new();
        let mut declared = Vec::new();
        for resource in self.known.http_endpoints.iter().filter(|one| self.concerns(*one)) {
            let name = &resource.metadata.name;
            let old = self.endpoints.iter().find(|old| old.metadata.name == *name);
            if let (Some(endpoint), true) = (before.get(name), old == Some(resource)) {
                endpoints.insert(name.clone(), endpoint.clone());
                declared.push(resource.clone());
                continue;
            }
            let resolved = self.parts.loader.resolve_http_endpoint(resource).await;
            match Endpoint::new(&resolved, &self.parts.endpoints) {
                Ok(endpoint) => {
                    tracing::info!("HTTPEndpoint {name} is in force as it is now");
                    endpoints.insert(name.clone(), Arc::new(endpoint));
                    declared.push(resource.clone());
                }
                Err(error) => {
                    tracing::error!("HTTPEndpoint {name} could not be reloaded, it stays as it was: {error}");
                    if let (Some(endpoint), Some(old)) = (before.get(name), old) {
                        endpoints.insert(name.clone(), endpoint.clone());
                        declared.push(old.clone());
                    }
                }
            }
        }
        self.endpoints = declared;
        self.parts
            .sidecar
            .set_facts(|facts| facts.http_endpoints = endpoints.keys().cloned().collect());
        self.parts.sidecar.invoker.set_endpoints(endpoints);
    }

    fn set_policies(&self) {
        let ours: Vec<_> = self
            .known
            .resiliencies
            .iter()
            .filter(|one| self.concerns(*one))
            .cloned()
            .collect();
        for policies in &self.parts.policies {
            match policies.replace(&ours) {
                Ok(warnings) => {
                    for warning in warnings {
                        tracing::warn!("{warning}");
                    }
                }
                Err(error) => {
                    tracing::error!(
                        "resiliency policies could not be reloaded, they stay as they were: {error}"
                    );
                    return;
                }
            }
        }
        let names: Vec<String> = ours.iter().map(|one| one.metadata.name.clone()).collect();
        tracing::info!("resiliency policies in force now: {}", names.join(", "));
        for one in &ours {
            let metadata = &one.metadata;
            let metrics = &self.parts.sidecar.metrics.runtime;
            metrics.policies_loaded(&metadata.name, &metadata.namespace);
        }
        self.parts.sidecar.set_facts(|facts| facts.resiliencies = names);
    }

    async fn configure(&mut self, configuration: Configuration) -> Effect {
        let effect = match self.parts.configuration.apply(configuration).await {
            Ok(effect) => {
                tracing::info!("the Configuration has changed and is in force");
                effect
            }
            Err(error) => {
                tracing::error!("the Configuration could not be reloaded, it stays as it was: {error}");
                return Effect::Applied;
            }
        };
        // The deny list may forbid what is loaded, or allow what was not.
        for component in self.known.components.clone() {
            let name = component.metadata.name.as_str();
            let is_loaded = self.parts.sidecar.components.snapshot().all.contains_key(name);
            let is_denied = self.parts.loader.denied(&component).is_some();
            if is_loaded == is_denied && self.concerns(&component) {
                self.load(component).await;
            }
        }
        self.take_up_actor_stores().await;
        effect
    }
}
