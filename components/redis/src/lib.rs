//! Redis backends: `pubsub.redis` on streams, `state.redis` on hashes, `configuration.redis`, `lock.redis` and
//! `bindings.redis` on plain strings.
//!
//! Commands of a component share one multiplexed connection that is made anew when it is lost; each subscription
//! has a connection of its own for the read that blocks.

mod binding;
mod configuration;
mod link;
mod lock;
mod pubsub;
mod settings;
mod state;

use std::sync::Arc;

use outrigger_components_api::bindings::OutputBinding;
use outrigger_components_api::configuration::ConfigurationStore;
use outrigger_components_api::lock::LockStore;
use outrigger_components_api::pubsub::PubSub;
use outrigger_components_api::registry::Registry;
use outrigger_components_api::state::StateStore;

pub use binding::RedisBinding;
pub use configuration::RedisConfiguration;
pub use lock::RedisLock;
pub use pubsub::RedisStreams;
pub use state::RedisState;

/// Adds `pubsub.redis`, `state.redis`, `configuration.redis`, `lock.redis` and `bindings.redis`.
pub fn register(registry: &mut Registry) {
    registry.state.register("redis", async |context| {
        Ok(Arc::new(RedisState::connect(&context).await?) as Arc<dyn StateStore>)
    });
    registry.pubsub.register("redis", async |context| {
        Ok(Arc::new(RedisStreams::connect(&context).await?) as Arc<dyn PubSub>)
    });
    registry.configuration.register("redis", async |context| {
        Ok(Arc::new(RedisConfiguration::connect(&context).await?) as Arc<dyn ConfigurationStore>)
    });
    registry.lock.register("redis", async |context| {
        Ok(Arc::new(RedisLock::connect(&context).await?) as Arc<dyn LockStore>)
    });
    registry.output_bindings.register("redis", async |context| {
        Ok(Arc::new(RedisBinding::connect(&context).await?) as Arc<dyn OutputBinding>)
    });
}

/// How many replicas `INFO replication` tells of.
fn connected_replicas(info: &str) -> u32 {
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("connected_slaves:"));
    line.and_then(|count| count.trim().parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_counted() {
        assert_eq!(
            connected_replicas("# Replication\r\nrole:master\r\nconnected_slaves:2\r\n"),
            2
        );
        assert_eq!(connected_replicas("role:master"), 0);
    }
}
