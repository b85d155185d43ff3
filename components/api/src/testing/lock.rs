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
/// virtual. At the end the store is closed; `ends_with_close` if its calls need what that releases.
///
/// # Panics
/// At the first broken promise.
pub async fn suite<F: Future<Output = ()>>(
    store: Arc<dyn LockStore>,
    prefix: &str,
    pass: impl Fn(Duration) -> F,
    ends_with_close: bool,
) {
    let long = "x".repeat(100_000);
    held_until_its_owner_gives_it_back(&*store, &format!("{prefix}{long}")).await;
    assert!(take(&*store, &format!("{prefix}owner"), &long, 60).await);
    let given = give(&*store, &format!("{prefix}owner"), &long).await;
    assert_eq!(given, UnlockStatus::Success);
    for id in ["plain", "with space", "ünï", "a/b||c", "{x}", "'\"\\"] {
        let id = format!("{prefix}{id}");
        held_until_its_owner_gives_it_back(&*store, &id).await;
    }
    one_of_many_gets_it(&store, &format!("{prefix}race")).await;
    a_lock_expires(&*store, &format!("{prefix}expires"), pass).await;
    what_is_given_up_does_no_harm(&*store, prefix).await;
    closing_ends_calls(&store, prefix, ends_with_close).await;
}

fn try_lock(id: String, owner: &str) -> TryLockRequest {
    TryLockRequest {
        resource_id: id,
        owner: owner.to_owned(),
        expiry_seconds: 60,
    }
}

async fn what_is_given_up_does_no_harm(store: &dyn LockStore, prefix: &str) {
    for n in 0..20_u64 {
        let id = format!("{prefix}given up {n}");
        let call = store.try_lock(try_lock(id.clone(), "a"));
        let _ = tokio::time::timeout(Duration::from_micros(n * n * 10), call).await;
        // Taken or not, but nobody else's answer comes.
        let other = format!("{prefix}after the one given up {n}");
        assert!(take(store, &other, "b", 60).await);
        assert!(!take(store, &other, "c", 60).await);
        assert_eq!(give(store, &other, "b").await, UnlockStatus::Success);
        assert_ne!(give(store, &id, "b").await, UnlockStatus::Success);
    }
}

async fn closing_ends_calls(store: &Arc<dyn LockStore>, prefix: &str, ends_with_close: bool) {
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..8 {
        let (store, id) = (store.clone(), format!("{prefix}closed {n}"));
        callers.spawn(async move {
            for turn in 0..200 {
                let request = try_lock(format!("{id} {turn}"), "a");
                if store.try_lock(request).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    soon("the end of the store", store.close()).await;
    while let Some(ended) = soon("the end of a call", callers.join_next()).await {
        ended.unwrap();
    }
    let after = store.try_lock(try_lock(format!("{prefix}afterwards"), "a"));
    let after = soon("an answer", after).await;
    assert_eq!(after.is_err(), ends_with_close, "a call after the end: {after:?}");
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
