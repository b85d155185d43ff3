//! MQTT 3.1.1 backends: the message broker `pubsub.mqtt3`.
//!
//! The client is our own: what matters here is to know when the broker has a message, to acknowledge one only after
//! the app has handled it, and to take up the session again after a lost connection. The protocol is small.

mod address;
mod codec;
mod filter;
mod pubsub;
mod session;
mod settings;
mod wire;

use std::sync::Arc;

use outrigger_components_api::pubsub::PubSub;
use outrigger_components_api::registry::Registry;

pub use pubsub::Mqtt;

/// Adds `pubsub.mqtt3` and `pubsub.mqtt`.
pub fn register(registry: &mut Registry) {
    for name in ["mqtt3", "mqtt"] {
        registry.pubsub.register(name, async |context| {
            Ok(Arc::new(Mqtt::connect(&context).await?) as Arc<dyn PubSub>)
        });
    }
}
