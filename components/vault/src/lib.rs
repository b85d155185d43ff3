//! Secrets from the KV engines of HashiCorp Vault and of what speaks its protocol (OpenBao):
//! `secretstores.hashicorp.vault` (contract `bindings-secrets-…`, section 2).

mod settings;
mod store;

use std::sync::Arc;

use outrigger_components_api::registry::Registry;
use outrigger_components_api::secrets::SecretStore;

pub use store::VaultSecrets;

/// Adds `secretstores.hashicorp.vault`.
pub fn register(registry: &mut Registry) {
    registry
        .secret_stores
        .register("hashicorp.vault", async |context| {
            Ok(Arc::new(VaultSecrets::new(&context).await?) as Arc<dyn SecretStore>)
        });
}
