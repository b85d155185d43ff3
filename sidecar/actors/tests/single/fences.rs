//! Fences: what a replaced owner has under way is refused by the store, and nobody else is.

use std::sync::Arc;
use std::time::Duration;

use outrigger_components_api::state::{GetRequest, StateStore as _};
use outrigger_components_memory::MemoryState;
use tokio::time::{Instant, sleep};

use crate::node::{LEASE, Node, node, store, write};

const ROW: &str = "outrigger||fence||default||app||T";

async fn row(store: &MemoryState) -> Option<String> {
    let request = GetRequest {
        key: ROW.into(),
        ..GetRequest::default()
    };
    let found = store.get(request).await.unwrap();
    found.data.map(|data| serde_json::from_slice(&data).unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_a_replaced_owner_has_under_way_is_refused_once_the_next_has_read() {
    let store = store();
    let a = node("a:1", &store, Some(7)).await;
    a.table(1, &["a:1"]).await;
    a.activate("x").await;
    a.write("x", "first").await.unwrap();
    assert_eq!(row(&store).await.as_deref(), Some("7.1"));
    // The write has passed every check of the sidecar and is on its way when the sidecar freezes.
    a.wire.open.send_replace(false);
    let late = tokio::spawn({
        let engine = Arc::clone(&a.engine);
        async move { write(&engine, "x", "late").await }
    });
    sleep(Duration::from_millis(10)).await;
    let b = node("b:1", &store, Some(7)).await;
    b.table(2, &["b:1"]).await;
    b.activate("x").await;
    assert_eq!(b.read("x").await.as_deref(), Some("first"));
    assert_eq!(row(&store).await.as_deref(), Some("7.2"));
    a.grants.send_replace(false);
    sleep(LEASE).await;
    a.wire.open.send_replace(true);
    let refusal = late.await.unwrap().unwrap_err();
    assert_eq!(refusal.error_code(), "ERR_ACTOR_INSTANCE_MISSING");
    assert_eq!(b.read("x").await.as_deref(), Some("first"));
    b.write("x", "second").await.unwrap();
    assert_eq!(b.read("x").await.as_deref(), Some("second"));
}

#[tokio::test(start_paused = true)]
async fn hosts_of_one_type_write_side_by_side_and_ask_for_the_row_once_for_each_table() {
    let store = store();
    let hosts = ["a:1", "b:1"];
    let a = node("a:1", &store, Some(7)).await;
    let b = node("b:1", &store, Some(7)).await;
    for (version, rows) in [(1, "7.1"), (2, "7.1"), (3, "7.1")] {
        for node in [&a, &b] {
            node.table(version, &hosts).await;
        }
        for number in 0..40 {
            let id = number.to_string();
            // Whose it is the ring says; the other one has no instance.
            let tables = [&a, &b].map(|node| node.engine.status());
            assert!(tables.iter().all(|status| status.ready));
            for node in [&a, &b] {
                if owns(node, &hosts, &id) {
                    node.activate(&id).await;
                    node.write(&id, "v").await.unwrap();
                }
            }
        }
        assert_eq!(row(&store).await.as_deref(), Some(rows), "hosts did not change");
    }
    let looked = |node: &Node| {
        node.wire
            .reads
            .lock()
            .unwrap()
            .iter()
            .filter(|key| *key == ROW)
            .count()
    };
    // Before and after writing it, and once more where the other one was later.
    assert!(
        looked(&a) <= 4 && looked(&b) <= 4,
        "{} {}",
        looked(&a),
        looked(&b)
    );
}

/// Whether a host owns an actor, as the ring of its table has it.
fn owns(node: &Node, hosts: &[&str], id: &str) -> bool {
    let entry = |name: &&str| outrigger_ring::Host {
        key: (*name).into(),
        address: (*name).into(),
        app_id: "app".into(),
        port: 0,
    };
    let entries = [("T".into(), hosts.iter().map(entry).collect::<Vec<_>>())];
    let tables = outrigger_ring::Tables::build(1, 100, entries, &Default::default()).unwrap();
    let owner = tables.owner("T", id).unwrap();
    *owner.address == *node.engine.own_address()
}

#[tokio::test(start_paused = true)]
async fn a_host_that_has_not_heard_of_the_newest_table_waits_for_it_and_then_writes() {
    let (store, hosts) = (store(), ["a:1", "b:1"]);
    let a = node("a:1", &store, Some(7)).await;
    let b = node("b:1", &store, Some(7)).await;
    let of = |node| {
        (0..100)
            .map(|id| id.to_string())
            .find(|id| owns(node, &hosts, id))
            .unwrap()
    };
    let (x, y) = (of(&a), of(&b));
    a.table(1, &hosts[..1]).await;
    a.activate(&x).await;
    a.write(&x, "1").await.unwrap();
    b.table(2, &hosts).await;
    b.activate(&y).await;
    b.write(&y, "1").await.unwrap();
    let start = Instant::now();
    let waiting = tokio::spawn({
        let engine = Arc::clone(&a.engine);
        async move { write(&engine, &x, "2").await }
    });
    sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
    a.table(2, &hosts).await;
    waiting.await.unwrap().unwrap();
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(row(&store).await.as_deref(), Some("7.2"));
}

#[tokio::test(start_paused = true)]
async fn a_row_of_a_leader_whose_leases_must_be_over_is_taken_over() {
    let store = store();
    // The clock of the service was set back, or it is another one: its epoch is lower now.
    let before = node("b:1", &store, Some(9)).await;
    before.table(5, &["b:1"]).await;
    before.activate("x").await;
    before.write("x", "old").await.unwrap();
    let a = node("a:1", &store, Some(7)).await;
    a.table(1, &["a:1"]).await;
    a.activate("x").await;
    let start = Instant::now();
    a.write("x", "new").await.unwrap();
    assert!(start.elapsed() >= LEASE + LEASE / 8, "{:?}", start.elapsed());
    assert_eq!(row(&store).await.as_deref(), Some("7.1"));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_lost_its_table_fences_what_it_had_under_way_itself() {
    let store = store();
    let mut a = node("a:1", &store, Some(7)).await;
    a.table(1, &["a:1"]).await;
    a.activate("x").await;
    a.write("x", "first").await.unwrap();
    a.wire.open.send_replace(false);
    let late = tokio::spawn({
        let engine = Arc::clone(&a.engine);
        async move { write(&engine, "x", "late").await }
    });
    sleep(Duration::from_millis(10)).await;
    a.grants.send_replace(false);
    sleep(LEASE + Duration::from_secs(3)).await;
    a.grants.send_replace(true);
    a.orders = a.streams.recv().await.unwrap();
    a.table(1, &["a:1"]).await;
    sleep(Duration::from_secs(30)).await;
    a.activate("x").await;
    assert_eq!(a.read("x").await.as_deref(), Some("first"));
    a.wire.open.send_replace(true);
    late.await.unwrap().unwrap_err();
    assert_eq!(a.read("x").await.as_deref(), Some("first"));
}

#[tokio::test(start_paused = true)]
async fn without_epochs_there_is_no_row() {
    let store = store();
    let a = node("a:1", &store, None).await;
    a.table(1, &["a:1"]).await;
    a.activate("x").await;
    a.write("x", "v").await.unwrap();
    assert_eq!(a.read("x").await.as_deref(), Some("v"));
    assert_eq!(row(&store).await, None);
}
