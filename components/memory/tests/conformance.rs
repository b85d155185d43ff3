//! The suites that every backend passes.

use std::sync::Arc;

use outrigger_components_api::testing::{init_context, pubsub, state};
use outrigger_components_memory::{MemoryPubSub, MemoryState};

#[tokio::test(start_paused = true)]
async fn the_store_keeps_every_promise() {
    let store = Arc::new(MemoryState::new(&init_context("mem", [])));
    state::suite(store, &state::Traits::all("app1||")).await;
}

#[tokio::test(start_paused = true)]
async fn the_broker_keeps_every_promise() {
    let broker = Arc::new(MemoryPubSub::new(&init_context("ps", [])));
    pubsub::suite(broker, "topic-", pubsub::Order::Kept).await;
}
