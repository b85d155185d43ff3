//! Redis, PostgreSQL, RabbitMQ, Mosquitto, Kafka, a mail server and Vault's KV engine killed, paused and started again while
//! a real `daprd` works on them: no write, event or mail that it acknowledged is lost, it connects again by itself, its
//! memory stays bounded and its metrics tell of the failures.
//!
//! Its readiness does not: by the contract (`flags-env-annotations`) `/v1.0/healthz` says whether the sidecar's own parts
//! are up, and a server behind a component is none of them. If it did, Kubernetes would take all pods of an app out of
//! service whenever one of its databases is away.
//!
//! The same faults without a process around them are in `components/*/tests`. The longer form is the ignored test at the
//! end: `cargo test -p outrigger-e2e --test server_faults -- --ignored`.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

#[path = "server_faults/load.rs"]
mod load;

use std::time::Duration;

use load::{Load, Work};
use outrigger_e2e::process::{Daprd, DaprdOptions};
use outrigger_e2e::sdk::component;
use outrigger_e2e::servers::{Kind, Server};

/// What the sidecar, debug build, may have in memory above what it has at rest: calls and events under way, and what
/// the allocator keeps. All that is sent is several times as much.
const ALLOWANCE: u64 = 24 << 20;
/// A short pause, which a call just waits for.
const SHORT: Duration = Duration::from_secs(2);

/// Longer than any of a component's own limits: the call that waits is given up, and the connection with it.
fn long_pause(kind: Kind) -> Duration {
    Duration::from_secs(match kind {
        // `readTimeout` is 3 s.
        Kind::RedisState | Kind::RedisStreams => 5,
        // `timeout` is 1 s here.
        Kind::Postgres => 3,
        // A heart beat is missed after 10 s, a confirmation waited for 30 s.
        Kind::RabbitMq => 32,
        Kind::Mosquitto => 12,
        // `readTimeout` is 4 s here.
        Kind::Kafka => 6,
        Kind::Vault => 32,
        Kind::Smtp => 12,
    })
}

/// Acknowledgements that are waited for each time.
const fn many(work: Work) -> usize {
    if matches!(work, Work::Writes | Work::Events) {
        500
    } else {
        50
    }
}

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
        ("secretstores", of_type, pairs) => (
            Work::Secrets,
            vec![component("vault", of_type, &pairs_of(&pairs))],
            "dapr_component_secret_count",
        ),
        ("bindings", of_type, pairs) => (
            Work::Mails,
            vec![component("mail", of_type, &pairs_of(&pairs))],
            "dapr_component_output_binding_count",
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
    let many = many(work);
    load.more("before the faults", many).await;
    let mut recovery = Duration::ZERO;
    for round in 0..rounds {
        server.kill();
        load.failures(3).await;
        server.start_again().await;
        recovery = recovery.max(load.again("after the kill", many).await);
        server.pause();
        tokio::time::sleep(if round == 0 { long_pause(kind) } else { SHORT }).await;
        server.resume();
        recovery = recovery.max(load.again("after the pause", many).await);
    }
    let outcome = load.stop().await;
    assert!(
        sidecar.process().exited().is_none(),
        "{}",
        sidecar.process().log_tail()
    );
    load::nothing_is_lost(&sidecar, work, &outcome, &app, &server).await;
    let grown = outcome.most_memory.saturating_sub(outcome.memory_at_rest);
    assert!(
        outcome.memory_at_rest > 0 && grown < ALLOWANCE,
        "the sidecar used {} MiB more than the {} MiB at rest",
        grown >> 20,
        outcome.memory_at_rest >> 20
    );
    let sent = (outcome.acknowledged.len() + outcome.failed) * load::PAYLOAD;
    assert!(
        !work.is_heavy() || sent as u64 > 3 * ALLOWANCE,
        "{} MiB were sent: too little to tell whether they stay in memory",
        sent >> 20
    );
    assert!(
        outcome.health_answers > 0 && outcome.health_failures == 0,
        "readiness is about the sidecar's own parts: {} answers, {} not ready",
        outcome.health_answers,
        outcome.health_failures
    );
    let told = load::failures_in_metrics(&sidecar, metric).await;
    assert!(
        told > 0.0 || outcome.failed == 0,
        "{metric} tells of no failure, although {} calls failed",
        outcome.failed
    );
    eprintln!(
        "{kind:?}: {} acknowledged, {} failed, {} MiB sent, {} MiB at rest, {} MiB more at most, longest wait for a server \
         that is back {recovery:?}",
        outcome.acknowledged.len(),
        outcome.failed,
        if work.is_heavy() { sent >> 20 } else { 0 },
        outcome.memory_at_rest >> 20,
        grown >> 20,
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
async fn a_sidecar_survives_its_vault() {
    survives(Kind::Vault, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_survives_its_mail_server() {
    survives(Kind::Smtp, 1).await;
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
        Kind::Vault,
        Kind::Smtp,
    ] {
        survives(kind, 10).await;
    }
}
