//! The components of this sidecar: what is loaded under which name, readable without a lock.
//!
//! [`ComponentStore`] holds an immutable [`Loaded`] table behind an atomic pointer. Calls take a snapshot;
//! loading, reloading and removing replace the table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use outrigger_components_api::bindings::{InputBinding, OutputBinding};
use outrigger_components_api::configuration::ConfigurationStore;
use outrigger_components_api::lock::LockStore;
use outrigger_components_api::middleware::HttpMiddleware;
use outrigger_components_api::pubsub::PubSub;
use outrigger_components_api::secrets::SecretStore;
use outrigger_components_api::state::StateStore;
use outrigger_sidecar_actors::seams::ActorStore;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::lock::key::LockPrefix;
use crate::pubsub::outbox::OutboxSettings;
use crate::pubsub::scopes::TopicScopes;
use crate::state::encryption::Encryption;
use crate::state::key::KeyPrefix;

pub mod loader;
pub mod options;

/// A state store with what the sidecar itself reads from its metadata.
#[derive(Clone)]
pub struct LoadedState {
    /// The store.
    pub store: Arc<dyn StateStore>,
    /// `keyPrefix`
    pub prefix: KeyPrefix,
    /// `actorStateStore`
    pub keeps_actors: bool,
    /// `primaryEncryptionKey`, `secondaryEncryptionKey`; `None` = values are stored as they are.
    pub encryption: Option<Arc<Encryption>>,
    /// Transactions are published; `None` = they are not.
    pub outbox: Option<Arc<OutboxSettings>>,
}

/// A message broker with what the sidecar itself reads from its metadata.
#[derive(Clone)]
pub struct LoadedPubSub {
    /// The broker.
    pub broker: Arc<dyn PubSub>,
    /// Which topics this app may use.
    pub scopes: Arc<TopicScopes>,
    /// Prefix of topics at the broker; set when a metadata value contains `{namespace}`.
    pub topic_prefix: Option<Arc<str>>,
}

/// A binding in the directions that its type and its `direction` allow.
#[derive(Clone)]
pub struct LoadedBinding {
    /// Calls the app.
    pub input: Option<Arc<dyn InputBinding>>,
    /// Called by the app.
    pub output: Option<Arc<dyn OutputBinding>>,
    /// `direction` names `input`: the app is not asked whether it listens.
    pub is_declared_input: bool,
    /// Path of an HTTP app for this binding's events.
    pub route: Arc<str>,
}

/// A keeper of locks with what the sidecar itself reads from its metadata.
#[derive(Clone)]
pub struct LoadedLock {
    /// The store.
    pub store: Arc<dyn LockStore>,
    /// `keyPrefix`
    pub prefix: LockPrefix,
}

/// One loaded component of any kind.
#[derive(Clone)]
pub enum Instance {
    /// `state.*`
    State(LoadedState),
    /// `pubsub.*`
    PubSub(LoadedPubSub),
    /// `secretstores.*`
    SecretStore(Arc<dyn SecretStore>),
    /// `bindings.*`
    Binding(LoadedBinding),
    /// `configuration.*`
    Configuration(Arc<dyn ConfigurationStore>),
    /// `lock.*`
    Lock(LoadedLock),
    /// `middleware.http.*`
    Middleware(Arc<dyn HttpMiddleware>),
}

/// A loaded component with its description.
#[derive(Clone)]
pub struct Component {
    /// `metadata.name`
    pub name: Arc<str>,
    /// `spec.type`
    pub component_type: Arc<str>,
    /// `spec.version`
    pub version: Arc<str>,
    /// As the metadata API lists them.
    pub capabilities: Vec<String>,
    /// The running component.
    pub instance: Instance,
    /// The resource it was made from.
    pub source: Arc<outrigger_resources::Component>,
    /// Stops the component's background work.
    pub shutdown: CancellationToken,
    /// The component's background work.
    pub tasks: TaskTracker,
}

/// The table of loaded components.
#[derive(Clone, Default)]
pub struct Loaded {
    /// By name; names are unique across kinds.
    pub all: BTreeMap<Arc<str>, Component>,
    /// Names in load order, for the metadata API.
    pub order: Vec<Arc<str>>,
    /// State stores by name.
    pub state: BTreeMap<Arc<str>, LoadedState>,
    /// The one state store whose metadata says `actorStateStore`.
    pub actor_store: Option<ActorStore>,
    /// Brokers by name.
    pub pubsub: BTreeMap<Arc<str>, LoadedPubSub>,
    /// Secret stores by name.
    pub secret_stores: BTreeMap<Arc<str>, Arc<dyn SecretStore>>,
    /// Bindings by name.
    pub bindings: BTreeMap<Arc<str>, LoadedBinding>,
    /// Configuration stores by name.
    pub configuration: BTreeMap<Arc<str>, Arc<dyn ConfigurationStore>>,
    /// Keepers of locks by name.
    pub locks: BTreeMap<Arc<str>, LoadedLock>,
    /// Middleware by name.
    pub middleware: BTreeMap<Arc<str>, Arc<dyn HttpMiddleware>>,
}

impl Loaded {
    fn insert(&mut self, component: Component) {
        let name = component.name.clone();
        match &component.instance {
            Instance::State(state) => {
                if state.keeps_actors {
                    self.actor_store = Some(ActorStore {
                        name: name.clone(),
                        store: state.store.clone(),
                    });
                }
                self.state.insert(name.clone(), state.clone());
            }
            Instance::PubSub(pubsub) => {
                self.pubsub.insert(name.clone(), pubsub.clone());
            }
            Instance::SecretStore(store) => {
                self.secret_stores.insert(name.clone(), store.clone());
            }
            Instance::Binding(binding) => {
                self.bindings.insert(name.clone(), binding.clone());
            }
            Instance::Configuration(store) => {
                self.configuration.insert(name.clone(), store.clone());
            }
            Instance::Lock(lock) => {
                self.locks.insert(name.clone(), lock.clone());
            }
            Instance::Middleware(middleware) => {
                self.middleware.insert(name.clone(), middleware.clone());
            }
        }
        if self.all.insert(name.clone(), component).is_none() {
            self.order.push(name);
        }
    }

    fn remove(&mut self, name: &str) -> Option<Component> {
        self.order.retain(|known| &**known != name);
        self.state.remove(name);
        self.actor_store.take_if(|store| &*store.name == name);
        self.pubsub.remove(name);
        self.secret_stores.remove(name);
        self.bindings.remove(name);
        self.configuration.remove(name);
        self.locks.remove(name);
        self.middleware.remove(name);
        self.all.remove(name)
    }
}

/// Shared access to the table.
#[derive(Default)]
pub struct ComponentStore {
    loaded: ArcSwap<Loaded>,
    /// Serialises changes; inits are serialised too (contract `components`, section 2).
    changes: Mutex<()>,
    /// What is not in the table and will be in a moment.
    replacing: watch::Sender<BTreeSet<Arc<str>>>,
}

/// While it lives a component is said to be in replacement.
pub struct Replacing<'a> {
    store: &'a ComponentStore,
    name: Arc<str>,
}

impl Drop for Replacing<'_> {
    fn drop(&mut self) {
        self.store.replacing.send_modify(|names| {
            names.remove(&self.name);
        });
    }
}

impl ComponentStore {
    /// The table as of now. Hold it for the length of one call, not longer.
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Loaded>> {
        self.loaded.load()
    }

    /// Adds a component that has been initialised.
    pub async fn insert(&self, component: Component) {
        let _serial = self.changes.lock().await;
        let mut loaded = Loaded::clone(&self.loaded.load());
        loaded.insert(component);
        self.loaded.store(Arc::new(loaded));
    }

    /// Puts a component in the place of the one of its name, which the caller closes, at one moment.
    pub async fn replace(&self, component: Component) -> Option<Component> {
        let _serial = self.changes.lock().await;
        let mut loaded = Loaded::clone(&self.loaded.load());
        let old = loaded.remove(&component.name);
        loaded.insert(component);
        self.loaded.store(Arc::new(loaded));
        old
    }

    /// Says of a component that it will be there again in a moment.
    pub fn replacing(&self, name: &str) -> Replacing<'_> {
        let name = Arc::<str>::from(name);
        self.replacing.send_modify(|names| {
            names.insert(name.clone());
        });
        Replacing { store: self, name }
    }

    /// Whether a component is about to be there again.
    pub fn is_replaced(&self, name: &str) -> bool {
        self.replacing.borrow().contains(name)
    }

    /// Waits for a component that is about to be there again; whether there was one to wait for.
    pub async fn replaced(&self, name: &str) -> bool {
        if !self.is_replaced(name) {
            return false;
        }
        let mut names = self.replacing.subscribe();
        // The sender lives in self.
        let _ = names.wait_for(|names| !names.contains(name)).await;
        true
    }

    /// Takes a component out of the table; the caller closes it.
    pub async fn remove(&self, name: &str) -> Option<Component> {
        let _serial = self.changes.lock().await;
        let mut loaded = Loaded::clone(&self.loaded.load());
        let removed = loaded.remove(name);
        self.loaded.store(Arc::new(loaded));
        removed
    }

    /// Closes every component, in parallel, each after its background work has ended.
    pub async fn close_all(&self) {
        let loaded = self.loaded.swap(Arc::new(Loaded::default()));
        futures_util::future::join_all(loaded.all.values().map(Component::close)).await;
    }
}

impl Instance {
    /// Whether a second one of its settings cannot work beside it.
    pub fn excludes_another(&self) -> bool {
        match self {
            Self::PubSub(pubsub) => pubsub.broker.excludes_another(),
            Self::Binding(binding) => {
                binding
                    .input
                    .as_ref()
                    .is_some_and(|input| input.excludes_another())
                    || binding
                        .output
                        .as_ref()
                        .is_some_and(|output| output.excludes_another())
            }
            Self::State(_)
            | Self::SecretStore(_)
            | Self::Configuration(_)
            | Self::Lock(_)
            | Self::Middleware(_) => false,
        }
    }

    /// Whether somebody but this value holds the component: a call, a delivery.
    fn is_in_use(&self) -> bool {
        let more = |count: usize| count > 1;
        match self {
            Self::State(state) => more(Arc::strong_count(&state.store)),
            Self::PubSub(pubsub) => more(Arc::strong_count(&pubsub.broker)),
            Self::SecretStore(store) => more(Arc::strong_count(store)),
            Self::Binding(binding) => {
                binding
                    .input
                    .as_ref()
                    .is_some_and(|input| more(Arc::strong_count(input)))
                    || binding
                        .output
                        .as_ref()
                        .is_some_and(|output| more(Arc::strong_count(output)))
            }
            Self::Configuration(store) => more(Arc::strong_count(store)),
            Self::Lock(lock) => more(Arc::strong_count(&lock.store)),
            Self::Middleware(middleware) => more(Arc::strong_count(middleware)),
        }
    }
}

impl Component {
    /// Closes a component that is no longer in the table, once the calls that still hold it are through; after
    /// `limit`, or when the sidecar stops, in any case. Returns whether all of them were.
    pub async fn retire(self, limit: Duration, stop: &CancellationToken) -> bool {
        let idle = async {
            let mut pause = Duration::from_millis(1);
            while self.instance.is_in_use() {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(100));
            }
        };
        let is_idle = tokio::select! {
            () = idle => true,
            () = tokio::time::sleep(limit) => false,
            () = stop.cancelled() => false,
        };
        self.close().await;
        is_idle
    }

    /// Stops the background work, then releases the connections.
    pub async fn close(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        match &self.instance {
            Instance::State(state) => state.store.close().await,
            Instance::PubSub(pubsub) => pubsub.broker.close().await,
            Instance::SecretStore(store) => store.close().await,
            Instance::Binding(binding) => {
                if let Some(input) = &binding.input {
                    input.close().await;
                }
                if let Some(output) = &binding.output {
                    output.close().await;
                }
            }
            Instance::Configuration(store) => store.close().await,
            Instance::Lock(lock) => lock.store.close().await,
            Instance::Middleware(middleware) => middleware.close().await,
        }
        self.tasks.wait().await;
    }
}
