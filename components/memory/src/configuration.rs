//! `configuration.in-memory`: values from the component's own metadata, `value||version` under their key. Dapr has no
//! such type; it serves tests and apps that are to run without a store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use outrigger_components_api::configuration::{
    ConfigurationStore, Item, Items, UpdateEvent, UpdateHandler, Watch,
};
use outrigger_components_api::pubsub::Subscription;
use outrigger_components_api::{ComponentError, InitContext, RequestMetadata};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Updates a subscriber may lag behind.
const BUFFER: usize = 16;

/// A configuration store in memory.
#[derive(Debug)]
pub struct InMemoryConfiguration {
    state: Mutex<State>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug, Default)]
struct State {
    items: Items,
    watchers: BTreeMap<String, Watcher>,
}

#[derive(Debug)]
struct Watcher {
    keys: Vec<String>,
    updates: mpsc::Sender<(String, Item)>,
}

impl InMemoryConfiguration {
    /// A store of the values in the component's metadata.
    pub fn new(context: &InitContext) -> Self {
        let items = context.properties.iter().map(|(key, text)| {
            let (value, version) = text.split_once("||").unwrap_or((text, ""));
            let item = Item {
                value: value.to_owned(),
                version: version.to_owned(),
                metadata: RequestMetadata::new(),
            };
            (key.to_owned(), item)
        });
        Self {
            state: Mutex::new(State {
                items: items.collect(),
                watchers: BTreeMap::new(),
            }),
            shutdown: context.shutdown.clone(),
            tasks: context.tasks.clone(),
        }
    }

    /// Sets a value, or removes it, and tells the subscribers. Only a test has the store in its hands.
    pub async fn set(&self, key: &str, item: Option<Item>) {
        let told = item.clone().unwrap_or_default();
        let watchers: Vec<_> = {
            let mut state = self.state();
            match item {
                Some(item) => state.items.insert(key.to_owned(), item),
                None => state.items.remove(key),
            };
            let wants = |watcher: &&Watcher| {
                watcher.keys.is_empty() || watcher.keys.iter().any(|watched| watched == key)
            };
            let watchers = state.watchers.values().filter(wants);
            watchers.map(|watcher| watcher.updates.clone()).collect()
        };
        for updates in watchers {
            // Fails if the watcher has just ended.
            let _ = updates.send((key.to_owned(), told.clone())).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ConfigurationStore for InMemoryConfiguration {
    async fn get(&self, keys: &[String], _metadata: &RequestMetadata) -> Result<Items, ComponentError> {
        let state = self.state();
        if keys.is_empty() {
            return Ok(state.items.clone());
        }
        let found = keys
            .iter()
            .filter_map(|key| state.items.get_key_value(key))
            .map(|(key, item)| (key.clone(), item.clone()));
        Ok(found.collect())
    }

    async fn subscribe(
        &self,
        keys: &[String],
        _metadata: &RequestMetadata,
        handler: Arc<dyn UpdateHandler>,
    ) -> Result<Watch, ComponentError> {
        let id = uuid::Uuid::new_v4().to_string();
        let (sender, mut updates) = mpsc::channel(BUFFER);
        let watcher = Watcher {
            keys: keys.to_vec(),
            updates: sender,
        };
        {
            let mut state = self.state();
            state.watchers.retain(|_, watcher| !watcher.updates.is_closed());
            state.watchers.insert(id.clone(), watcher);
        }
        let stop = self.shutdown.child_token();
        let (own, end) = (id.clone(), stop.clone());
        let stopped = self.tasks.spawn(async move {
            while let Some(Some((key, item))) = end.run_until_cancelled(updates.recv()).await {
                let event = UpdateEvent {
                    id: own.clone(),
                    items: [(key, item)].into(),
                };
                handler.handle(event).await;
            }
        });
        Ok(Watch {
            id,
            subscription: Subscription { stop, stopped },
        })
    }
}
