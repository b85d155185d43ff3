//! The suites that every backend passes.

use std::sync::Arc;

use async_trait::async_trait;
use outrigger_components_api::RequestMetadata;
use outrigger_components_api::configuration::{ConfigurationStore as _, Item};
use outrigger_components_api::pubsub::PubSubFeature;
use outrigger_components_api::state::StateFeature;
use outrigger_components_api::testing::{configuration, init_context, lock, pubsub, state};
use outrigger_components_memory::{InMemoryConfiguration, InMemoryLock, MemoryPubSub, MemoryState};

const FEATURES: [StateFeature; 5] = [
    StateFeature::Etag,
    StateFeature::Transactional,
    StateFeature::Ttl,
    StateFeature::DeleteWithPrefix,
    StateFeature::KeysLike,
];

#[tokio::test(start_paused = true)]
async fn the_store_keeps_every_promise() {
    let store = Arc::new(MemoryState::new(&init_context("mem", [])));
    state::suite(store, &state::Traits::all("app1||", &FEATURES)).await;
}

#[tokio::test(start_paused = true)]
async fn the_broker_keeps_every_promise() {
    let broker = Arc::new(MemoryPubSub::new(&init_context("ps", [])));
    let traits = pubsub::Traits {
        redelivers: false,
        ..pubsub::Traits::all(
            "topic-",
            pubsub::Order::Kept,
            &[PubSubFeature::SubscribeWildcards],
        )
    };
    pubsub::suite(broker, traits).await;
}

#[tokio::test(start_paused = true)]
async fn locks_keep_every_promise() {
    lock::suite(Arc::new(InMemoryLock::default()), "t:", tokio::time::sleep, false).await;
}

struct Values(Arc<InMemoryConfiguration>);

#[async_trait]
impl configuration::Source for Values {
    async fn set(&self, key: &str, value: &str, version: &str) {
        let item = Item {
            value: value.to_owned(),
            version: version.to_owned(),
            metadata: RequestMetadata::new(),
        };
        self.0.set(key, Some(item)).await;
    }

    async fn delete(&self, key: &str) -> bool {
        self.0.set(key, None).await;
        true
    }
}

#[tokio::test(start_paused = true)]
async fn configuration_keeps_every_promise() {
    let context = init_context("cfg", [("given", "v||3")]);
    let store = Arc::new(InMemoryConfiguration::new(&context));
    let none = RequestMetadata::new();
    let given = store.get(&["given".to_owned()], &none).await.unwrap();
    assert_eq!((&*given["given"].value, &*given["given"].version), ("v", "3"));
    let traits = configuration::Traits {
        prefix: "t:",
        odd_keys: &["", "with space", "ünï", "a/b||c", "*", "'\"\\"],
        largest: 5 << 20,
        largest_told: 1 << 20,
        ends_with_close: false,
    };
    configuration::suite(store.clone(), &Values(store.clone()), traits, &none).await;
}
