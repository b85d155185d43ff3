//! Redis, PostgreSQL, RabbitMQ, Mosquitto and Kafka killed, paused and started again while a real `daprd` works on them:
//! no write or event that it acknowledged is lost, it connects again by itself, its memory stays bounded, its health
//! endpoint answers all the time and its metrics tell of the failures.
//!
//! The same faults without a process around them are in `components/*/tests`. The longer form is the ignored test at the
//! end: `cargo test -p outrigger-e2e --test server_faults -- --ignored`.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

#[path = "server_faults/load.rs"]
mod load;
#[path = "server_faults/servers.rs"]
mod servers;

use std::time::Duration;

use load::{Load, Work};
use outrigger_e2e::process::{Daprd, DaprdOptions};
use outrigger_e2e::sdk::component;
use servers::{Kind, Server};

/// How long a server is stopped in the middle of what it does.
const PAUSE: Duration = Duration::from_secs(2);
/// Resident memory of the sidecar, debug build, whatever happens to the server. Without a fault it is about 40 MiB.
const MOST_MEMORY: u64 = 150 << 20;

const SUBSCRIPTION: &str = "apiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata: {name: sub}\nspec:\n  \
                            pubsubname: ps\n  topic: t\n  routes: {default: /event}\n";

/// A kill and a pause, `rounds` times.
async fn survives(kind: Kind, rounds: usize) {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(kind).await;
    let app = load::App::start().await;
    let (work, resources, metric) = match server.component() {
        ("state", of_type, pairs) => (
            Work::Writes,
            vec![component("st", of_type, &pairs_of(&pairs))],
            "dapr_component_state_count",
        ),
        (_, of_type, pairs) => (
            Work::Events,
            vec![
                component("ps", of_type, &pairs_of(&pairs)),
                SUBSCRIPTION.to_owned(),
            ],
            "dapr_component_pubsub_egress_count",
        ),
    };
    let options = DaprdOptions {
        app_id: "faults".into(),
        app_port: (work == Work::Events).then(|| app.port()),
        resources,
        ..Default::default()
    };
    let mut sidecar = Daprd::start_ready(&options, &dir.path().join("sidecar")).await;
    let load = Load::start(&sidecar, work);
    load.more("before the faults", 50).await;
    let mut recovery = Duration::ZERO;
    for _ in 0..rounds {
        server.kill();
        load.failures(3).await;
        server.start_again().await;
        recovery = recovery.max(load.again("after the kill").await);
        server.pause();
        tokio::time::sleep(PAUSE).await;
        server.resume();
        recovery = recovery.max(load.again("after the pause").await);
    }
    let outcome = load.stop().await;
    assert!(
        sidecar.process().exited().is_none(),
        "{}",
        sidecar.process().log_tail()
    );
    load::nothing_is_lost(&sidecar, work, &outcome, &app).await;
    assert!(
        outcome.most_memory < MOST_MEMORY,
        "the sidecar used {} MiB",
        outcome.most_memory >> 20
    );
    assert!(
        outcome.health_answers > 0 && outcome.health_failures == 0,
        "{outcome:?}"
    );
    let told = load::failures_in_metrics(&sidecar, metric).await;
    assert!(
        told > 0.0 || outcome.failed == 0,
        "{metric} tells of no failure, although {} calls failed",
        outcome.failed
    );
    eprintln!(
        "{kind:?}: {} acknowledged, {} failed, at most {} MiB, longest wait for a server that is back {recovery:?}",
        outcome.acknowledged.len(),
        outcome.failed,
        outcome.most_memory >> 20,
    );
}

fn pairs_of<'a>(pairs: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    pairs
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_survives_its_redis_store() {
    survives(Kind::RedisState, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_survives_its_redis_streams() {
    survives(Kind::RedisStreams, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_survives_its_postgresql() {
    survives(Kind::Postgres, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_survives_its_rabbitmq() {
    survives(Kind::RabbitMq, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_survives_its_mosquitto() {
    survives(Kind::Mosquitto, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_survives_its_kafka() {
    survives(Kind::Kafka, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "ten rounds for each server, about ten minutes: run it with --ignored before a release"]
async fn sidecars_survive_many_faults() {
    for kind in [
        Kind::RedisState,
        Kind::RedisStreams,
        Kind::Postgres,
        Kind::RabbitMq,
        Kind::Mosquitto,
        Kind::Kafka,
    ] {
        survives(kind, 10).await;
    }
}
