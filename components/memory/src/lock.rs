//! `lock.in-memory`: locks within one sidecar. Dapr has no such type; it serves tests and single-sidecar apps.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use outrigger_components_api::ComponentError;
use outrigger_components_api::lock::{LockStore, TryLockRequest, UnlockRequest, UnlockStatus};
use tokio::time::Instant;

/// Owners with the end of their time.
type Held = HashMap<String, (String, Instant)>;

/// A keeper of locks in memory.
#[derive(Debug, Default)]
pub struct InMemoryLock {
    held: Mutex<Held>,
}

impl InMemoryLock {
    /// The locks that are held now.
    fn held(&self) -> MutexGuard<'_, Held> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        held.retain(|_, (_, end)| *end > now);
        held
    }
}

#[async_trait]
impl LockStore for InMemoryLock {
    async fn try_lock(&self, request: TryLockRequest) -> Result<bool, ComponentError> {
        let seconds = u64::try_from(request.expiry_seconds)
            .map_err(|_| ComponentError::new("the expiry of a lock must be positive"))?;
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut held = self.held();
        if held.contains_key(&request.resource_id) {
            return Ok(false);
        }
        held.insert(request.resource_id, (request.owner, end));
        Ok(true)
    }

    async fn unlock(&self, request: UnlockRequest) -> Result<UnlockStatus, ComponentError> {
        let mut held = self.held();
        match held.get(&request.resource_id) {
            None => Ok(UnlockStatus::DoesNotExist),
            Some((owner, _)) if *owner != request.owner => Ok(UnlockStatus::BelongsToOthers),
            Some(_) => {
                held.remove(&request.resource_id);
                Ok(UnlockStatus::Success)
            }
        }
    }
}
