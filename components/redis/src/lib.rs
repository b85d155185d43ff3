//! Redis backends: `pubsub.redis` on streams.
//!
//! Commands of a component share one multiplexed connection that is made anew when it is lost; each subscription
//! has a connection of its own for the read that blocks.

#[expect(dead_code, reason = "pipelines are for the state store, which comes next")]
mod link;
mod pubsub;
#[expect(dead_code, reason = "as above")]
mod settings;

use std::sync::Arc;

use outrigger_components_api::pubsub::PubSub;
use outrigger_components_api::registry::Registry;

pub use pubsub::RedisStreams;

/// Adds `pubsub.redis`.
pub fn register(registry: &mut Registry) {
    registry.pubsub.register("redis", async |context| {
        Ok(Arc::new(RedisStreams::connect(&context).await?) as Arc<dyn PubSub>)
    });
}
