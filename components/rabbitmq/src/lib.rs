//! RabbitMQ backends: the message broker `pubsub.rabbitmq` and the binding `bindings.rabbitmq` (AMQP 0-9-1).
//!
//! One connection publishes and one consumes, so that a broker that throttles publishers does not hold up
//! acknowledgements. Every publish waits for the broker's confirmation; each subscription has a channel of its own.

mod binding;
mod consumer;
mod link;
mod pubsub;
mod settings;
mod uri;

use std::sync::Arc;

use outrigger_components_api::bindings::{InputBinding, OutputBinding};
use outrigger_components_api::pubsub::PubSub;
use outrigger_components_api::registry::Registry;

pub use binding::RabbitBinding;
pub use pubsub::RabbitMq;

/// Adds `pubsub.rabbitmq` and both directions of `bindings.rabbitmq`.
pub fn register(registry: &mut Registry) {
    registry.pubsub.register("rabbitmq", async |context| {
        Ok(Arc::new(RabbitMq::connect(&context).await?) as Arc<dyn PubSub>)
    });
    registry.input_bindings.register("rabbitmq", async |context| {
        Ok(Arc::new(RabbitBinding::connect(&context).await?) as Arc<dyn InputBinding>)
    });
    registry.output_bindings.register("rabbitmq", async |context| {
        Ok(Arc::new(RabbitBinding::connect(&context).await?) as Arc<dyn OutputBinding>)
    });
}
