//! Components that live and die with the sidecar: `state.in-memory`, `pubsub.in-memory` and, beyond
//! what Dapr has, `configuration.in-memory` and `lock.in-memory`.
//!
//! They are the reference for what a store and a broker must do, and the fakes that the rest of the house
//! tests with. Nothing is shared between two components, nothing survives a close.

mod configuration;
mod like;
mod lock;
mod pubsub;
mod state;

use std::sync::Arc;

use outrigger_components_api::configuration::ConfigurationStore;
use outrigger_components_api::lock::LockStore;
use outrigger_components_api::pubsub::PubSub;
use outrigger_components_api::registry::Registry;
use outrigger_components_api::state::StateStore;

pub use configuration::InMemoryConfiguration;
pub use lock::InMemoryLock;
pub use pubsub::MemoryPubSub;
pub use state::MemoryState;

/// Adds all of them.
pub fn register(registry: &mut Registry) {
    registry.state.register("in-memory", async |context| {
        Ok(Arc::new(MemoryState::new(&context)) as Arc<dyn StateStore>)
    });
    registry.pubsub.register("in-memory", async |context| {
        Ok(Arc::new(MemoryPubSub::new(&context)) as Arc<dyn PubSub>)
    });
    registry.configuration.register("in-memory", async |context| {
        Ok(Arc::new(InMemoryConfiguration::new(&context)) as Arc<dyn ConfigurationStore>)
    });
    registry.lock.register("in-memory", async |_| {
        Ok(Arc::new(InMemoryLock::default()) as Arc<dyn LockStore>)
    });
}
