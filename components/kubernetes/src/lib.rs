//! Kubernetes as a backend: `nameresolution.kubernetes` and `secretstores.kubernetes`.

mod names;
mod secrets;
mod template;

use std::sync::Arc;

use outrigger_components_api::registry::Registry;
use outrigger_components_api::secrets::SecretStore;

pub use secrets::KubernetesSecrets;

/// Adds the resolver `kubernetes` and `secretstores.kubernetes`.
pub fn register(registry: &mut Registry) {
    registry
        .name_resolution
        .insert("kubernetes".into(), Arc::new(names::Factory));
    registry.secret_stores.register("kubernetes", async |context| {
        Ok(Arc::new(KubernetesSecrets::new(&context)?) as Arc<dyn SecretStore>)
    });
}
