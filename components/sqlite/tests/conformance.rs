//! The suite that every store passes, on files and in memory.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use outrigger_components_api::state::StateFeature;
use outrigger_components_api::testing::{init_context, state};
use outrigger_components_sqlite::SqliteState;

const FEATURES: [StateFeature; 4] = [
    StateFeature::Etag,
    StateFeature::Transactional,
    StateFeature::Ttl,
    StateFeature::KeysLike,
];

async fn check(connection_string: &str, extra: (&str, &str)) {
    let context = init_context("sq", [("connectionString", connection_string), extra]);
    let store = SqliteState::open(&context).await.unwrap();
    state::suite(Arc::new(store), &state::Traits::all("app1||", &FEATURES)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_keeps_every_promise() {
    let dir = tempfile::tempdir().unwrap();
    check(dir.path().join("s.db").to_str().unwrap(), ("none", "")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_without_write_ahead_log_keeps_every_promise() {
    let dir = tempfile::tempdir().unwrap();
    check(dir.path().join("s.db").to_str().unwrap(), ("disableWAL", "true")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_in_memory_keeps_every_promise() {
    check(":memory:", ("none", "")).await;
}
