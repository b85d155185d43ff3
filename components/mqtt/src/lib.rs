//! MQTT 3.1.1 backends: the message broker `pubsub.mqtt3` and the binding `bindings.mqtt3`.
//!
//! The client is our own: what matters here is to know when the broker has a message, to acknowledge one only after
//! the app has handled it, and to take up the session again after a lost connection. The protocol is small.

mod address;
mod binding;
mod codec;
mod filter;
mod pubsub;
mod session;
mod settings;
mod wire;

use std::sync::Arc;

use outrigger_components_api::bindings::{InputBinding, OutputBinding};
use outrigger_components_api::pubsub::PubSub;
use outrigger_components_api::registry::Registry;

pub use binding::MqttBinding;
pub use pubsub::Mqtt;

/// Adds `pubsub.mqtt3`, both directions of `bindings.mqtt3`, and the same under the name `mqtt`.
pub fn register(registry: &mut Registry) {
    for name in ["mqtt3", "mqtt"] {
        registry.pubsub.register(name, async |context| {
            Ok(Arc::new(Mqtt::connect(&context).await?) as Arc<dyn PubSub>)
        });
        registry.input_bindings.register(name, async |context| {
            Ok(Arc::new(MqttBinding::connect_input(&context).await?) as Arc<dyn InputBinding>)
        });
        registry.output_bindings.register(name, async |context| {
            Ok(Arc::new(MqttBinding::connect_output(&context).await?) as Arc<dyn OutputBinding>)
        });
    }
}
