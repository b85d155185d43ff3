//! Components that live and die with the sidecar: `state.in-memory` and `pubsub.in-memory`.
//!
//! They are the reference for what a store and a broker must do, and the fakes that the rest of the house
//! tests with. Nothing is shared between two components, nothing survives a close.

mod like;
mod pubsub;
mod state;

use std::sync::Arc;

use outrigger_components_api::pubsub::PubSub;
use outrigger_components_api::registry::Registry;
use outrigger_components_api::state::StateStore;

pub use pubsub::MemoryPubSub;
pub use state::MemoryState;

/// Adds `state.in-memory` and `pubsub.in-memory`.
pub fn register(registry: &mut Registry) {
    registry.state.register("in-memory", async |context| {
        Ok(Arc::new(MemoryState::new(&context)) as Arc<dyn StateStore>)
    });
    registry.pubsub.register("in-memory", async |context| {
        Ok(Arc::new(MemoryPubSub::new(&context)) as Arc<dyn PubSub>)
    });
}
