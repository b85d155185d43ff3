//! What every keeper of locks must do.

use std::sync::Arc;
use std::time::Duration;

use super::soon;
use crate::lock::{LockStore, TryLockRequest, UnlockRequest, UnlockStatus};

async fn take(store: &dyn LockStore, id: &str, owner: &str, expiry_seconds: i32) -> bool {
    let request = TryLockRequest {
        resource_id: id.to_owned(),
        owner: owner.to_owned(),
        expiry_seconds,
    };
    soon("a lock", store.try_lock(request)).await.unwrap()
}

async fn give(store: &dyn LockStore, id: &str, owner: &str) -> UnlockStatus {
    let request = UnlockRequest {
        resource_id: id.to_owned(),
        owner: owner.to_owned(),
    };
    soon("an unlock", store.unlock(request)).await.unwrap()
}

/// Runs all checks on resources that begin with `prefix`; `pass` lets time pass for the store, which may be
/// virtual.
///
/// # Panics
/// At the first broken promise.
pub async fn suite<F: Future<Output = ()>>(
    store: Arc<dyn LockStore>,
    prefix: &str,
    pass: impl Fn(Duration) -> F,
) {
    for id in ["plain", "with space", "ünï", "a/b||c", "{x}", "'\"\\"] {
        let id = format!("{prefix}{id}");
        held_until_its_owner_gives_it_back(&*store, &id).await;
    }
    one_of_many_gets_it(&store, &format!("{prefix}race")).await;
    a_lock_expires(&*store, &format!("{prefix}expires"), pass).await;
}

async fn held_until_its_owner_gives_it_back(store: &dyn LockStore, id: &str) {
    assert_eq!(give(store, id, "a").await, UnlockStatus::DoesNotExist, "{id}");
    assert!(take(store, id, "a", 60).await, "{id}");
    assert!(!take(store, id, "b", 60).await, "{id}");
    assert!(!take(store, id, "a", 60).await, "{id}: not re-entrant");
    assert_eq!(give(store, id, "b").await, UnlockStatus::BelongsToOthers, "{id}");
    assert!(
        !take(store, id, "b", 60).await,
        "{id}: kept after a stranger's unlock"
    );
    assert_eq!(give(store, id, "a").await, UnlockStatus::Success, "{id}");
    assert_eq!(give(store, id, "a").await, UnlockStatus::DoesNotExist, "{id}");
    assert!(take(store, id, "b", 60).await, "{id}");
    assert_eq!(give(store, id, "b").await, UnlockStatus::Success, "{id}");
}

async fn one_of_many_gets_it(store: &Arc<dyn LockStore>, id: &str) {
    let tries: Vec<_> = (0..32)
        .map(|n| {
            let (store, id) = (store.clone(), id.to_owned());
            tokio::spawn(async move { take(&*store, &id, &n.to_string(), 60).await })
        })
        .collect();
    let mut winners = Vec::new();
    for (n, attempt) in tries.into_iter().enumerate() {
        if soon("an attempt", attempt).await.unwrap() {
            winners.push(n.to_string());
        }
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert_eq!(give(&**store, id, &winners[0]).await, UnlockStatus::Success);
}

async fn a_lock_expires<F: Future<Output = ()>>(
    store: &dyn LockStore,
    id: &str,
    pass: impl Fn(Duration) -> F,
) {
    assert!(take(store, id, "a", 1).await);
    assert!(!take(store, id, "b", 1).await);
    pass(Duration::from_millis(1300)).await;
    assert_eq!(give(store, id, "a").await, UnlockStatus::DoesNotExist);
    assert!(take(store, id, "b", 60).await);
    assert_eq!(give(store, id, "b").await, UnlockStatus::Success);
}
