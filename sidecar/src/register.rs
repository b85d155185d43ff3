//! The components of this build: one line each, by cargo feature.

use outrigger_components_api::registry::Registry;

/// All component types that this binary knows.
pub(crate) fn registry() -> Registry {
    let mut registry = Registry::default();
    outrigger_components_memory::register(&mut registry);
    outrigger_components_local_secrets::register(&mut registry);
    outrigger_components_mdns::register(&mut registry);
    outrigger_components_nameformat::register(&mut registry);
    #[cfg(feature = "kafka")]
    outrigger_components_kafka::register(&mut registry);
    #[cfg(feature = "mqtt")]
    outrigger_components_mqtt::register(&mut registry);
    #[cfg(feature = "postgresql")]
    outrigger_components_postgresql::register(&mut registry);
    #[cfg(feature = "rabbitmq")]
    outrigger_components_rabbitmq::register(&mut registry);
    #[cfg(feature = "redis")]
    outrigger_components_redis::register(&mut registry);
    #[cfg(feature = "sqlite")]
    outrigger_components_sqlite::register(&mut registry);
    registry
}
