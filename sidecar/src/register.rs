//! The components of this build: one line each, by cargo feature.

use outrigger_components_api::registry::Registry;
use outrigger_sidecar_core::config::SidecarConfig;

/// All component types that this binary knows.
pub(crate) fn registry() -> Registry {
    let mut registry = Registry::default();
    outrigger_components_memory::register(&mut registry);
    outrigger_components_local_secrets::register(&mut registry);
    outrigger_components_mdns::register(&mut registry);
    outrigger_components_nameformat::register(&mut registry);
    #[cfg(feature = "consul")]
    outrigger_components_consul::register(&mut registry);
    #[cfg(feature = "kafka")]
    outrigger_components_kafka::register(&mut registry);
    #[cfg(feature = "kubernetes")]
    outrigger_components_kubernetes::register(&mut registry);
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
    #[cfg(feature = "cron")]
    outrigger_components_cron::register(&mut registry);
    #[cfg(feature = "http-binding")]
    outrigger_components_http_binding::register(&mut registry);
    #[cfg(feature = "http-middleware")]
    outrigger_components_http_middleware::register(&mut registry);
    #[cfg(feature = "local-storage")]
    outrigger_components_local_storage::register(&mut registry);
    #[cfg(feature = "smtp")]
    outrigger_components_smtp::register(&mut registry);
    #[cfg(feature = "vault")]
    outrigger_components_vault::register(&mut registry);
    registry
}

/// Adds the types that processes on this machine serve on sockets.
#[cfg(feature = "pluggable")]
pub(crate) async fn pluggable(registry: &mut Registry, config: &SidecarConfig) {
    outrigger_components_pluggable::register(registry, &config.component_sockets_folder).await;
}

/// Says that this build has none, where some were asked for.
#[cfg(not(feature = "pluggable"))]
pub(crate) async fn pluggable(_registry: &mut Registry, config: &SidecarConfig) {
    if config.component_sockets_folder.is_dir() {
        tracing::warn!(
            "{} is not looked at: this build has no pluggable components; use one with the cargo feature `pluggable`",
            config.component_sockets_folder.display()
        );
    }
}

#[cfg(all(
    test,
    feature = "kafka",
    feature = "mqtt",
    feature = "postgresql",
    feature = "rabbitmq",
    feature = "redis",
    feature = "vault",
    feature = "http-middleware"
))]
mod tests {
    use super::*;

    #[test]
    fn every_type_that_the_reference_page_describes_is_registered() {
        let registry = registry();
        let page = include_str!("../../docs/COMPONENTS.md");
        let types: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert!(types.len() > 10);
        for name in types {
            let (category, implementation) = name.split_once('.').expect("a heading is a type");
            let found = match category {
                "state" => registry.state.find(implementation, "v1").is_some(),
                "pubsub" => registry.pubsub.find(implementation, "v1").is_some(),
                "bindings" => registry.output_bindings.find(implementation, "v1").is_some(),
                "configuration" => registry.configuration.find(implementation, "v1").is_some(),
                "lock" => registry.lock.find(implementation, "v1").is_some(),
                "secretstores" => registry.secret_stores.find(implementation, "v1").is_some(),
                "middleware" => registry.middleware.find(implementation, "v1").is_some(),
                other => panic!("{other} is no category"),
            };
            assert!(found, "{name}");
        }
    }
}
