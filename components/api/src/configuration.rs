//! Configuration stores (contract `bindings-secrets-…`, section 3).

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::pubsub::Subscription;
use crate::{ComponentError, RequestMetadata};

/// One value. A deleted one is told to subscribers with all fields empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Item {
    /// The value.
    pub value: String,
    /// The store's own version text; empty where it has none.
    pub version: String,
    /// What else the store says of it.
    pub metadata: RequestMetadata,
}

/// Values by key.
pub type Items = BTreeMap<String, Item>;

/// Some keys changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UpdateEvent {
    /// The subscription's id.
    pub id: String,
    /// The keys that changed.
    pub items: Items,
}

/// Takes updates. What it answers does not change the store's behaviour: an update is told once.
#[async_trait]
pub trait UpdateHandler: Send + Sync + 'static {
    /// Handles one update; a store tells the updates of one subscription one after the other.
    async fn handle(&self, event: UpdateEvent);
}

/// A running subscription.
#[derive(Debug)]
pub struct Watch {
    /// Chosen by the store, unique within it.
    pub id: String,
    /// Ends it.
    pub subscription: Subscription,
}

/// A source of configuration values.
#[async_trait]
pub trait ConfigurationStore: Send + Sync + 'static {
    /// The values of these keys; no keys = all values. Keys that do not exist are left out.
    async fn get(&self, keys: &[String], metadata: &RequestMetadata) -> Result<Items, ComponentError>;

    /// Tells `handler` about changes of these keys (no keys = all) from now on. Returns when the subscription is
    /// established at the server. A connection that is lost is made anew; what changed meanwhile may stay untold.
    async fn subscribe(
        &self,
        keys: &[String],
        metadata: &RequestMetadata,
        handler: Arc<dyn UpdateHandler>,
    ) -> Result<Watch, ComponentError>;

    /// Releases connections; called once, after all subscriptions are closed.
    async fn close(&self) {}
}
