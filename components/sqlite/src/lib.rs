//! SQLite backends: the state store `state.sqlite` and the name resolver `sqlite`, on the tables and texts of
//! Dapr, so that both can share a database file with Go sidecars.
//!
//! One thread owns the connection that writes; what is acknowledged is committed, and committed means synced.
//! Reads run beside it on a few connections of their own, as WAL mode allows.

mod db;
mod gc;
mod migrations;
mod resolver;
mod settings;
mod state;

use std::sync::Arc;

use outrigger_components_api::registry::Registry;
use outrigger_components_api::state::StateStore;

pub use resolver::{SqliteResolver, SqliteResolverFactory};
pub use state::SqliteState;

/// Adds `state.sqlite`, `state.sqlite3` and the name resolution component `sqlite`.
pub fn register(registry: &mut Registry) {
    for name in ["sqlite", "sqlite3"] {
        registry.state.register(name, async |context| {
            Ok(Arc::new(SqliteState::open(&context).await?) as Arc<dyn StateStore>)
        });
    }
    registry
        .name_resolution
        .insert("sqlite".to_owned(), Arc::new(SqliteResolverFactory));
}
