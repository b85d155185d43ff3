//! What every configuration store must do.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::soon;
use crate::RequestMetadata;
use crate::configuration::{ConfigurationStore, Item, UpdateEvent, UpdateHandler};

/// A handler that keeps what it gets.
#[derive(Debug, Default)]
pub struct Updates {
    events: Mutex<Vec<UpdateEvent>>,
    count: watch::Sender<usize>,
}

impl Updates {
    /// What came so far.
    pub fn events(&self) -> Vec<UpdateEvent> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until an update says of this key what is expected.
    ///
    /// # Panics
    /// If none does within 30 seconds.
    pub async fn wait(&self, key: &str, matches: impl Fn(&Item) -> bool) -> UpdateEvent {
        let mut count = self.count.subscribe();
        soon("an update", async {
            loop {
                count.borrow_and_update();
                let found = self
                    .events()
                    .into_iter()
                    .find(|event| event.items.get(key).is_some_and(&matches));
                if let Some(event) = found {
                    return event;
                }
                // The sender lives in self, so waiting cannot fail.
                let _ = count.changed().await;
            }
        })
        .await
    }
}

#[async_trait]
impl UpdateHandler for Updates {
    async fn handle(&self, event: UpdateEvent) {
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(event);
        self.count.send_modify(|count| *count += 1);
    }
}

/// Changes the store's values behind its back, as its users do.
#[async_trait]
pub trait Source: Send + Sync {
    /// Sets a value with a version.
    async fn set(&self, key: &str, value: &str, version: &str);
    /// Removes a value. `false` = the store cannot tell its subscribers.
    async fn delete(&self, key: &str) -> bool;
}

/// What the suite has to know of a store.
#[derive(Debug, Clone, Copy)]
pub struct Traits<'a> {
    /// The keys that it uses begin so.
    pub prefix: &'a str,
    /// Endings of keys that a store may stumble over.
    pub odd_keys: &'a [&'a str],
    /// Largest value that is read.
    pub largest: usize,
    /// Largest value that subscribers are told.
    pub largest_told: usize,
    /// Its calls need what closing releases.
    pub ends_with_close: bool,
}

/// Runs all checks; `metadata` goes with every request. At the end the store is closed.
///
/// # Panics
/// At the first broken promise.
pub async fn suite(
    store: Arc<dyn ConfigurationStore>,
    source: &dyn Source,
    traits: Traits<'_>,
    metadata: &RequestMetadata,
) {
    let prefix = traits.prefix;
    values_are_read_by_key_and_all_at_once(&*store, source, prefix, metadata).await;
    updates_are_told_until_the_end(&*store, source, prefix, metadata).await;
    subscriptions_do_not_disturb_each_other(&*store, source, prefix, metadata).await;
    odd_keys_and_large_values_come_as_they_are(&*store, source, traits, metadata).await;
    what_is_given_up_does_no_harm(&*store, source, prefix, metadata).await;
    closing_ends_calls(&store, source, traits, metadata).await;
}

async fn odd_keys_and_large_values_come_as_they_are(
    store: &dyn ConfigurationStore,
    source: &dyn Source,
    traits: Traits<'_>,
    metadata: &RequestMetadata,
) {
    let odd = traits.odd_keys.iter().map(|key| (*key, traits.largest_told));
    for (key, told) in [("large", traits.largest_told)].into_iter().chain(odd) {
        let key = format!("{}{key}", traits.prefix);
        let keys = std::slice::from_ref(&key);
        let updates = Arc::new(Updates::default());
        let watch = soon("a subscription", store.subscribe(keys, metadata, updates.clone()));
        let watch = watch.await.unwrap();
        let value = "v".repeat(told);
        source.set(&key, &value, "1").await;
        updates.wait(&key, |item| item.value == value).await;
        soon("the end of the subscription", watch.subscription.close()).await;
        let value = "w".repeat(traits.largest);
        source.set(&key, &value, "2").await;
        let got = soon("a value", store.get(keys, metadata)).await.unwrap();
        assert_eq!(got.keys().collect::<Vec<_>>(), [&key]);
        assert!(got[&key].value == value, "{key}");
    }
}

async fn what_is_given_up_does_no_harm(
    store: &dyn ConfigurationStore,
    source: &dyn Source,
    prefix: &str,
    metadata: &RequestMetadata,
) {
    let key = format!("{prefix}givenup");
    let keys = std::slice::from_ref(&key);
    source.set(&key, "0", "0").await;
    let unwanted = Arc::new(Updates::default());
    for n in 0..10_u64 {
        let limit = Duration::from_micros(n * n * 50);
        let _ = tokio::time::timeout(limit, store.get(keys, metadata)).await;
        let subscribing = store.subscribe(keys, metadata, unwanted.clone());
        if let Ok(Ok(watch)) = tokio::time::timeout(limit, subscribing).await {
            soon("the end of the subscription", watch.subscription.close()).await;
        }
        let got = soon("a value", store.get(keys, metadata)).await.unwrap();
        assert_eq!(got[&key].value, "0");
    }
    let updates = Arc::new(Updates::default());
    let watch = soon("a subscription", store.subscribe(keys, metadata, updates.clone()));
    let watch = watch.await.unwrap();
    source.set(&key, "1", "1").await;
    updates.wait(&key, |item| item.value == "1").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let told = unwanted.events();
    assert!(
        !told.iter().any(|event| event.items[&key].value == "1"),
        "nobody waits for these"
    );
    soon("the end of the subscription", watch.subscription.close()).await;
}

async fn closing_ends_calls(
    store: &Arc<dyn ConfigurationStore>,
    source: &dyn Source,
    traits: Traits<'_>,
    metadata: &RequestMetadata,
) {
    let key = format!("{}closed", traits.prefix);
    source.set(&key, "1", "1").await;
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (store, key, metadata) = (store.clone(), key.clone(), metadata.clone());
        readers.spawn(async move {
            for _ in 0..200 {
                if store.get(std::slice::from_ref(&key), &metadata).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    soon("the end of the store", store.close()).await;
    while let Some(ended) = soon("the end of a call", readers.join_next()).await {
        ended.unwrap();
    }
    let after = soon("an answer", store.get(&[key], metadata)).await;
    assert_eq!(
        after.is_err(),
        traits.ends_with_close,
        "a call after the end: {after:?}"
    );
}

async fn values_are_read_by_key_and_all_at_once(
    store: &dyn ConfigurationStore,
    source: &dyn Source,
    prefix: &str,
    metadata: &RequestMetadata,
) {
    let (a, b, missing) = (
        format!("{prefix}a"),
        format!("{prefix}b"),
        format!("{prefix}missing"),
    );
    source.set(&a, "1", "7").await;
    source.set(&b, "ünï <\"'>", "8").await;
    let got = store
        .get(&[a.clone(), missing.clone(), b.clone(), a.clone()], metadata)
        .await
        .unwrap();
    assert_eq!(got.keys().collect::<Vec<_>>(), [&a, &b]);
    assert_eq!((got[&a].value.as_str(), got[&a].version.as_str()), ("1", "7"));
    assert_eq!(
        (got[&b].value.as_str(), got[&b].version.as_str()),
        ("ünï <\"'>", "8")
    );
    assert!(store.get(&[missing], metadata).await.unwrap().is_empty());
    let all = store.get(&[], metadata).await.unwrap();
    assert!(all.contains_key(&a) && all.contains_key(&b));
}

async fn updates_are_told_until_the_end(
    store: &dyn ConfigurationStore,
    source: &dyn Source,
    prefix: &str,
    metadata: &RequestMetadata,
) {
    let (key, other) = (format!("{prefix}watched"), format!("{prefix}unwatched"));
    source.set(&key, "old", "1").await;
    let updates = Arc::new(Updates::default());
    let watch = store
        .subscribe(std::slice::from_ref(&key), metadata, updates.clone())
        .await
        .unwrap();
    source.set(&other, "x", "1").await;
    source.set(&key, "new", "2").await;
    let event = updates
        .wait(&key, |item| item.value == "new" && item.version == "2")
        .await;
    assert_eq!(event.id, watch.id);
    if source.delete(&key).await {
        updates.wait(&key, |item| item.value.is_empty()).await;
    }
    assert!(
        updates
            .events()
            .iter()
            .all(|event| !event.items.contains_key(&other))
    );
    soon("the end of the subscription", watch.subscription.close()).await;
    let count = updates.events().len();
    source.set(&key, "after", "3").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(updates.events().len(), count, "told after the end");
}

async fn subscriptions_do_not_disturb_each_other(
    store: &dyn ConfigurationStore,
    source: &dyn Source,
    prefix: &str,
    metadata: &RequestMetadata,
) {
    let key = format!("{prefix}shared");
    source.set(&key, "0", "0").await;
    let (first, second) = (Arc::new(Updates::default()), Arc::new(Updates::default()));
    let keys = std::slice::from_ref(&key);
    let one = store.subscribe(keys, metadata, first.clone()).await.unwrap();
    let two = store.subscribe(keys, metadata, second.clone()).await.unwrap();
    assert_ne!(one.id, two.id);
    source.set(&key, "1", "1").await;
    first.wait(&key, |item| item.value == "1").await;
    second.wait(&key, |item| item.value == "1").await;
    soon("the end of a subscription", one.subscription.close()).await;
    source.set(&key, "2", "2").await;
    second.wait(&key, |item| item.value == "2").await;
    assert!(first.events().iter().all(|event| event.items[&key].value != "2"));
    soon("the end of a subscription", two.subscription.close()).await;
}
