//! Secret stores for a laptop: `secretstores.local.file` and `secretstores.local.env`.
//!
//! Both know all their secrets from the start: the file is read once, the environment is a value that main
//! read. Neither offers what the sidecar keeps for itself (`DAPR_*`, `APP_API_TOKEN`).

mod env;
mod file;

use std::sync::Arc;

use outrigger_components_api::registry::Registry;
use outrigger_components_api::secrets::SecretStore;

pub use env::EnvSecrets;
pub use file::FileSecrets;

/// Adds `secretstores.local.file` and `secretstores.local.env`.
pub fn register(registry: &mut Registry) {
    registry.secret_stores.register("local.file", async |context| {
        Ok(Arc::new(FileSecrets::open(&context).await?) as Arc<dyn SecretStore>)
    });
    registry.secret_stores.register("local.env", async |context| {
        Ok(Arc::new(EnvSecrets::new(&context)?) as Arc<dyn SecretStore>)
    });
}
