//! How turns and actors end: idle time, a move, a caller that goes away.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use outrigger_sidecar_actors::ActorError;
use outrigger_sidecar_actors::config::TypeConfig;
use tokio::time::{Instant, sleep};

use crate::node::{Node, call, node_with, order, store};

fn deactivated(node: &Node) -> Vec<String> {
    node.app.deactivated.lock().unwrap().clone()
}

async fn started(config: TypeConfig) -> Node {
    let node = node_with("a:1", &store(), Some(1), config).await;
    node.table(1, &["a:1"]).await;
    node
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_nobody_calls_is_deactivated_after_its_idle_time_and_no_sooner() {
    let node = started(TypeConfig {
        idle_timeout: Duration::from_secs(60),
        ..TypeConfig::default()
    })
    .await;
    node.activate("idle").await;
    node.activate("used").await;
    sleep(Duration::from_secs(50)).await;
    node.activate("used").await;
    sleep(Duration::from_secs(9)).await;
    assert_eq!(deactivated(&node), Vec::<String>::new());
    sleep(Duration::from_secs(2)).await;
    assert_eq!(deactivated(&node), ["T||idle"]);
    // A turn that lasts longer than the idle time is not cut off; the time counts from the start of the last call.
    node.engine.invoke(call("used", 120_500), None).await.unwrap();
    assert_eq!(deactivated(&node), ["T||idle"]);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(deactivated(&node), ["T||idle", "T||used"]);
    assert!(node.engine.status().active.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_the_app_refused_fails_at_once_unless_others_host_the_type() {
    let node = started(TypeConfig::default()).await;
    let unreached = node.engine.unreached();
    node.app.gone.store(true, Ordering::SeqCst);
    let start = Instant::now();
    let error = node.engine.invoke(call("x", 0), None).await.unwrap_err();
    assert!(
        matches!(&error, ActorError::Failed(text) if text == "refused"),
        "{error:?}"
    );
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(!unreached.has_changed().unwrap());

    node.table(2, &["a:1", "b:1"]).await;
    // One that stays here. Nobody withdraws the type, so every retry meets the same.
    for n in 0.. {
        let start = Instant::now();
        let error = node
            .engine
            .invoke(call(&n.to_string(), 0), None)
            .await
            .unwrap_err();
        if error.to_string() == "refused" {
            assert_eq!(start.elapsed(), Duration::from_secs(5));
            break;
        }
    }
    assert!(unreached.has_changed().unwrap());
    node.app.gone.store(false, Ordering::SeqCst);
}

/// Moves everything away while a turn of so many milliseconds runs; how long until the move was acknowledged.
async fn moved(node: &Node, turn: u64) -> Duration {
    let engine = Arc::clone(&node.engine);
    let running = tokio::spawn(async move { engine.invoke(call("x", turn), None).await });
    sleep(Duration::from_millis(10)).await;
    let start = Instant::now();
    for operation in ["lock", "update"] {
        node.orders.send(order(operation, 2, &["b:1"])).await.unwrap();
    }
    loop {
        let said = node.said.lock().unwrap().clone();
        if let Some((_, _, at)) = said
            .iter()
            .find(|(operation, version, _)| (*operation, *version) == (3, 2))
        {
            // Whoever waits for the turn waits for the next table.
            running.abort();
            return *at - start;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_move_waits_for_a_running_turn_and_not_longer_than_the_drain_time() {
    let drain = |seconds, drains| TypeConfig {
        drain_timeout: Duration::from_secs(seconds),
        drain_rebalanced: drains,
        ..TypeConfig::default()
    };
    // The turn, the type's drain time, whether it drains at all; how long it took, and whether the turn ended well.
    for (turn, seconds, drains, least, most, ended) in [
        (1000, 3, true, 900, 1100, true),
        (20_000, 3, true, 3000, 3200, false),
        (1000, 3, false, 0, 100, false),
        // A round has 8 s: draining takes four fifths of them at most.
        (60_000, 100, true, 6400, 6600, false),
    ] {
        let node = started(drain(seconds, drains)).await;
        let took = moved(&node, turn).await.as_millis();
        assert!(
            (least..=most).contains(&took),
            "a turn of {turn} ms, {seconds} s to drain: {took} ms"
        );
        assert_eq!(!node.app.turns.lock().unwrap().is_empty(), ended);
        assert_eq!(deactivated(&node), ["T||x"], "before the move is acknowledged");
    }
}

#[tokio::test(start_paused = true)]
async fn an_actor_stays_locked_when_the_caller_of_its_turn_goes_away() {
    let node = started(TypeConfig::default()).await;
    let engine = Arc::clone(&node.engine);
    let gone = tokio::spawn(async move { engine.invoke(call("x", 5000), None).await });
    sleep(Duration::from_millis(10)).await;
    gone.abort();
    let start = Instant::now();
    node.activate("x").await;
    assert!(
        start.elapsed() >= Duration::from_millis(4900),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(*node.app.turns.lock().unwrap(), ["T||x 5000", "T||x 0"]);
    // One that takes for ever is given up after 30 s.
    let engine = Arc::clone(&node.engine);
    let gone = tokio::spawn(async move { engine.invoke(call("x", 3_600_000), None).await });
    sleep(Duration::from_millis(10)).await;
    gone.abort();
    let start = Instant::now();
    node.activate("x").await;
    assert!(start.elapsed() < Duration::from_secs(31), "{:?}", start.elapsed());
}
