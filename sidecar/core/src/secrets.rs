//! The secrets building block: look-up, scopes, the store calls under their policy (contract
//! `bindings-secrets-…`, section 2).

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use outrigger_components_api::RequestMetadata;
use outrigger_components_api::secrets::{Secret, SecretStore};
use outrigger_model::{ApiError, GrpcCode};

use crate::components::ComponentStore;
use crate::policy::ComponentPolicies;

/// Decides whether the API may hand out a secret: `(store, secret name)`. References from resources are not
/// asked about.
pub type SecretAccess = Box<dyn Fn(&str, &str) -> bool + Send + Sync>;

/// Secret operations of both APIs.
pub struct SecretService {
    components: Arc<ComponentStore>,
    policies: Arc<ComponentPolicies>,
    allowed: ArcSwap<SecretAccess>,
}

impl SecretService {
    /// The service over these components with the access rules of `spec.secrets.scopes`.
    pub fn new(
        components: Arc<ComponentStore>,
        policies: Arc<ComponentPolicies>,
        allowed: SecretAccess,
    ) -> Self {
        Self {
            components,
            policies,
            allowed: ArcSwap::from_pointee(allowed),
        }
    }

    /// Sets the access rules.
    pub fn set_access(&self, allowed: SecretAccess) {
        self.allowed.store(Arc::new(allowed));
    }

    fn store(&self, name: &str) -> Result<Arc<dyn SecretStore>, ApiError> {
        let snapshot = self.components.snapshot();
        if snapshot.secret_stores.is_empty() {
            return Err(ApiError::legacy(
                "ERR_SECRET_STORES_NOT_CONFIGURED",
                500,
                GrpcCode::FailedPrecondition,
                "secret store is not configured",
            ));
        }
        snapshot.secret_stores.get(name).cloned().ok_or_else(|| {
            ApiError::legacy(
                "ERR_SECRET_STORE_NOT_FOUND",
                401,
                GrpcCode::InvalidArgument,
                format!("failed finding secret store with key {name}"),
            )
        })
    }

    /// One secret; `None` when the store has no data for it.
    ///
    /// # Errors
    /// Unknown store, denied by scope, or the store's failure.
    pub async fn get(
        &self,
        store: &str,
        key: &str,
        metadata: &RequestMetadata,
    ) -> Result<Option<Secret>, ApiError> {
        let found = self.store(store)?;
        if !(self.allowed.load())(store, key) {
            return Err(ApiError::legacy(
                "ERR_PERMISSION_DENIED",
                403,
                GrpcCode::PermissionDenied,
                format!("access denied by policy to get \"{key}\" from \"{store}\""),
            ));
        }
        self.policies
            .secret_store(store, "get")
            .run(|| found.get(key, metadata))
            .await
            .map_err(|error| {
                ApiError::legacy(
                    "ERR_SECRET_GET",
                    500,
                    GrpcCode::Internal,
                    format!("failed getting secret with key {key} from secret store {store}: {error}"),
                )
            })
    }

    /// All secrets that the scopes allow.
    ///
    /// # Errors
    /// Unknown store, or the store's failure.
    pub async fn get_bulk(
        &self,
        store: &str,
        metadata: &RequestMetadata,
    ) -> Result<BTreeMap<String, Secret>, ApiError> {
        let found = self.store(store)?;
        let mut secrets = self
            .policies
            .secret_store(store, "bulk_get")
            .run(|| found.bulk_get(metadata))
            .await
            .map_err(|error| {
                ApiError::legacy(
                    "ERR_SECRET_GET",
                    500,
                    GrpcCode::Internal,
                    format!("failed getting secrets from secret store {store}: {error}"),
                )
            })?;
        secrets.retain(|name, _| (self.allowed.load())(store, name));
        Ok(secrets)
    }
}
