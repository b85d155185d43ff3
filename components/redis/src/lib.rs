//! Redis backends: `pubsub.redis` on streams and `state.redis` on hashes.
//!
//! Commands of a component share one multiplexed connection that is made anew when it is lost; each subscription
//! has a connection of its own for the read that blocks.

mod link;
mod pubsub;
mod settings;
mod state;

use std::sync::Arc;

use outrigger_components_api::pubsub::PubSub;
use outrigger_components_api::registry::Registry;
use outrigger_components_api::state::StateStore;

pub use pubsub::RedisStreams;
pub use state::RedisState;

/// Adds `pubsub.redis` and `state.redis`.
pub fn register(registry: &mut Registry) {
    registry.state.register("redis", async |context| {
        Ok(Arc::new(RedisState::connect(&context).await?) as Arc<dyn StateStore>)
    });
    registry.pubsub.register("redis", async |context| {
        Ok(Arc::new(RedisStreams::connect(&context).await?) as Arc<dyn PubSub>)
    });
}
