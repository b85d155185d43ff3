//! Kafka backends: the message broker `pubsub.kafka` and the binding `bindings.kafka`.
//!
//! The client is `krafka`, pure Rust with consumer groups, SASL and idempotent producing. Each subscription is a
//! member of the group: it hands the records of a partition to the app one after the other and those of different
//! partitions at the same time, and commits what was handled.

mod auth;
mod binding;
mod consumer;
mod metadata;
mod partitioner;
mod pubsub;
mod settings;
mod worker;

use std::sync::Arc;

use outrigger_components_api::bindings::{InputBinding, OutputBinding};
use outrigger_components_api::pubsub::PubSub;
use outrigger_components_api::registry::Registry;

pub use binding::KafkaBinding;
pub use pubsub::Kafka;

/// Adds `pubsub.kafka` and both directions of `bindings.kafka`.
pub fn register(registry: &mut Registry) {
    registry.pubsub.register("kafka", async |context| {
        Ok(Arc::new(Kafka::connect(&context).await?) as Arc<dyn PubSub>)
    });
    registry.input_bindings.register("kafka", async |context| {
        Ok(Arc::new(KafkaBinding::connect(&context).await?) as Arc<dyn InputBinding>)
    });
    registry.output_bindings.register("kafka", async |context| {
        Ok(Arc::new(KafkaBinding::connect(&context).await?) as Arc<dyn OutputBinding>)
    });
}
