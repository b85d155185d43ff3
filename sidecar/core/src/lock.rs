//! The distributed lock building block (contract `bindings-secrets-…`, section 4).

pub mod key;

use std::sync::Arc;

use outrigger_components_api::lock::{TryLockRequest, UnlockRequest, UnlockStatus};
use outrigger_model::{ApiError, GrpcCode};

use crate::components::{ComponentStore, LoadedLock};
use crate::policy::ComponentPolicies;

/// Lock operations of both APIs.
pub struct LockService {
    components: Arc<ComponentStore>,
    policies: Arc<ComponentPolicies>,
}

fn malformed(message: String) -> ApiError {
    ApiError::legacy("ERR_MALFORMED_REQUEST", 400, GrpcCode::InvalidArgument, message)
}

fn failed(code: &'static str, what: &str, error: &dyn std::fmt::Display) -> ApiError {
    ApiError::legacy(code, 500, GrpcCode::Internal, format!("{what}: {error}"))
}

impl LockService {
    /// The service over these components.
    pub const fn new(components: Arc<ComponentStore>, policies: Arc<ComponentPolicies>) -> Self {
        Self { components, policies }
    }

    /// Takes a lock; `false` if it is taken.
    ///
    /// # Errors
    /// An incomplete request, no such store, or the store's failure.
    pub async fn try_lock(
        &self,
        store: &str,
        resource_id: &str,
        owner: &str,
        expiry_seconds: i32,
    ) -> Result<bool, ApiError> {
        const WHAT: &str = "failed to try acquiring lock";
        const CODE: &str = "ERR_TRY_LOCK";
        if expiry_seconds <= 0 {
            return Err(malformed(format!(
                "ExpiryInSeconds is not positive in lock store {store}"
            )));
        }
        let loaded = self.check(store, resource_id, owner)?;
        let stored = loaded.prefix.stored(resource_id);
        let request = TryLockRequest {
            resource_id: stored.map_err(|error| failed(CODE, WHAT, &error))?,
            owner: owner.to_owned(),
            expiry_seconds,
        };
        self.policies
            .lock(store)
            .run(|| loaded.store.try_lock(request.clone()))
            .await
            .map_err(|error| failed(CODE, WHAT, &error))
    }

    /// Gives a lock back.
    ///
    /// # Errors
    /// As [`Self::try_lock`].
    pub async fn unlock(
        &self,
        store: &str,
        resource_id: &str,
        owner: &str,
    ) -> Result<UnlockStatus, ApiError> {
        const WHAT: &str = "failed to release lock";
        const CODE: &str = "ERR_UNLOCK";
        let loaded = self.check(store, resource_id, owner)?;
        let stored = loaded.prefix.stored(resource_id);
        let request = UnlockRequest {
            resource_id: stored.map_err(|error| failed(CODE, WHAT, &error))?,
            owner: owner.to_owned(),
        };
        self.policies
            .lock(store)
            .run(|| loaded.store.unlock(request.clone()))
            .await
            .map_err(|error| failed(CODE, WHAT, &error))
    }

    /// The checks that both requests share, in Dapr's order.
    fn check(&self, store: &str, resource_id: &str, owner: &str) -> Result<LoadedLock, ApiError> {
        let snapshot = self.components.snapshot();
        if snapshot.locks.is_empty() {
            return Err(ApiError::legacy(
                "ERR_LOCK_STORE_NOT_CONFIGURED",
                500,
                GrpcCode::FailedPrecondition,
                "lock store is not configured",
            ));
        }
        if resource_id.is_empty() {
            return Err(malformed(format!("ResourceId is empty in lock store {store}")));
        }
        if owner.is_empty() {
            return Err(malformed(format!("LockOwner is empty in lock store {store}")));
        }
        snapshot.locks.get(store).cloned().ok_or_else(|| {
            ApiError::legacy(
                "ERR_LOCK_STORE_NOT_FOUND",
                400,
                GrpcCode::InvalidArgument,
                format!("lock store {store} not found"),
            )
        })
    }
}
