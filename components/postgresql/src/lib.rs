//! PostgreSQL backends: the state store `state.postgresql` in its two versions, on the tables of Dapr, so that both
//! can share a database with Go sidecars.
//!
//! Connections come from a small pool and are made when needed; what is acknowledged is committed. A connection
//! whose call broke off is thrown away, never handed on.

mod binding;
mod configuration;
mod dsn;
mod error;
mod gc;
mod migrations;
mod pool;
mod settings;
mod state;
mod tls;
mod values;

use std::sync::Arc;

use outrigger_components_api::bindings::OutputBinding;
use outrigger_components_api::configuration::ConfigurationStore;
use outrigger_components_api::registry::Registry;
use outrigger_components_api::state::StateStore;

pub use binding::PostgresBinding;
pub use configuration::PostgresConfiguration;
pub use state::PostgresState;

/// Adds `state.postgresql`, versions v1 and v2, `bindings.postgresql` and `configuration.postgresql`, and the same
/// under the name `postgres`.
pub fn register(registry: &mut Registry) {
    for name in ["postgresql", "postgres"] {
        registry.state.register_version(name, "v1", async |context| {
            Ok(Arc::new(PostgresState::connect_v1(&context).await?) as Arc<dyn StateStore>)
        });
        registry.state.register_version(name, "v2", async |context| {
            Ok(Arc::new(PostgresState::connect_v2(&context).await?) as Arc<dyn StateStore>)
        });
        registry.output_bindings.register(name, async |context| {
            Ok(Arc::new(PostgresBinding::connect(&context).await?) as Arc<dyn OutputBinding>)
        });
        registry.configuration.register(name, async |context| {
            Ok(Arc::new(PostgresConfiguration::connect(&context).await?) as Arc<dyn ConfigurationStore>)
        });
    }
}
