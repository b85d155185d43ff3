//! Secret stores (contract `bindings-secrets-…`, section 2).

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::{ComponentError, RequestMetadata};

/// The key-value pairs of one secret.
pub type Secret = BTreeMap<String, String>;

/// A source of secrets.
#[async_trait]
pub trait SecretStore: Send + Sync + 'static {
    /// Declared capabilities as the metadata API spells them (`MULTIPLE_KEY_VALUES_PER_SECRET`).
    fn features(&self) -> &[&'static str] {
        &[]
    }

    /// One secret. An unknown name is an error; `None` = the store returned no data (204 over HTTP).
    async fn get(&self, name: &str, metadata: &RequestMetadata) -> Result<Option<Secret>, ComponentError>;

    /// All secrets the store may list, by name.
    async fn bulk_get(&self, metadata: &RequestMetadata) -> Result<BTreeMap<String, Secret>, ComponentError>;

    /// Releases connections; called once.
    async fn close(&self) {}
}
