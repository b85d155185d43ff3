//! Distributed locks (contract `bindings-secrets-…`, section 4).

use async_trait::async_trait;

use crate::ComponentError;

/// Take a lock. The resource id is already prefixed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TryLockRequest {
    /// What to lock, as the store names it.
    pub resource_id: String,
    /// Who takes it.
    pub owner: String,
    /// After how many seconds the lock is free again; positive.
    pub expiry_seconds: i32,
}

/// Give a lock back. The resource id is already prefixed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnlockRequest {
    /// What to unlock, as the store names it.
    pub resource_id: String,
    /// Who took it.
    pub owner: String,
}

/// How an attempt to unlock ended; the numbers are those of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnlockStatus {
    /// The lock is free now.
    Success = 0,
    /// Nobody holds it.
    DoesNotExist = 1,
    /// Somebody else holds it.
    BelongsToOthers = 2,
    /// The store failed.
    InternalError = 3,
}

/// A keeper of locks. Locks are not re-entrant.
#[async_trait]
pub trait LockStore: Send + Sync + 'static {
    /// Takes a lock if it is free; `false` if somebody (the same owner included) holds it.
    async fn try_lock(&self, request: TryLockRequest) -> Result<bool, ComponentError>;

    /// Gives a lock back, if it is the owner's.
    async fn unlock(&self, request: UnlockRequest) -> Result<UnlockStatus, ComponentError>;

    /// Releases connections; called once.
    async fn close(&self) {}
}
