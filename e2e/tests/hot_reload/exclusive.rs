//! Components that cannot be there twice: the old one is closed before the new one is made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use outrigger_e2e::ask::{ask, assert_calm, soon, text};
use outrigger_e2e::process::{Daprd, DaprdOptions};
use outrigger_e2e::sdk::component;
use outrigger_e2e::servers::{Kind, Server};

use super::{edit, subscriber};

fn count(sidecar: &mut Daprd, what: &str) -> usize {
    sidecar.process().log().matches(what).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binding_on_a_queue_of_its_own_is_reloaded_and_no_call_fails() {
    let server = Server::start(Kind::RabbitMq).await;
    let host = format!("amqp://guest:guest@127.0.0.1:{}", server.port());
    let jobs = |prefetch: &str| {
        component(
            "jobs",
            "bindings.rabbitmq",
            &[
                ("host", &host),
                ("queueName", "jobs"),
                ("exclusive", "true"),
                ("direction", "output"),
                ("prefetchCount", prefetch),
            ],
        )
    };
    let dir = tempfile::tempdir().unwrap();
    let options = DaprdOptions {
        app_id: "exclusive".into(),
        resources: vec![jobs("1")],
        ..Default::default()
    };
    let mut sidecar = Daprd::start_ready(&options, dir.path()).await;
    let port = sidecar.http_port();
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (stop, sent) = (stop.clone(), sent.clone());
        clients.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let body = br#"{"operation":"create","data":"x"}"#;
                let answer = ask(port, "POST", "/v1.0/bindings/jobs", body).await;
                assert_eq!(answer.status, 204, "{}", text(&answer));
                sent.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let goes_on = async |what: &str| {
        let before = sent.load(Ordering::Relaxed);
        soon(what, async || sent.load(Ordering::Relaxed) > before + 50).await;
    };
    goes_on("calls begin").await;
    for round in 2..=4 {
        edit(&sidecar, "000.yaml", &jobs(&round.to_string()));
        soon("the edit takes effect", async || {
            count(&mut sidecar, "Component loaded: jobs") >= round
        })
        .await;
        goes_on("calls go on").await;
    }
    // One that cannot be made: it is as it was.
    edit(&sidecar, "000.yaml", &jobs("many"));
    soon("the old one is made again", async || {
        count(&mut sidecar, "is made as it was before") == 1
            && count(&mut sidecar, "Component loaded: jobs") >= 5
    })
    .await;
    goes_on("calls go on").await;
    edit(&sidecar, "000.yaml", &jobs("7"));
    soon("it is mended", async || {
        count(&mut sidecar, "Component loaded: jobs") >= 6
    })
    .await;
    goes_on("calls go on").await;
    stop.store(true, Ordering::Relaxed);
    clients.join_all().await;
    assert_eq!(count(&mut sidecar, "still in use"), 0);
    assert_calm(&mut sidecar).await;
}

const SUBSCRIPTION: &str = "apiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata: {name: sub}\nspec:\n  pubsubname: bus\n  topic: news\n  routes: {default: /news}\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_with_an_id_is_reloaded_without_another_of_its_id_beside_it() {
    let server = Server::start(Kind::Mosquitto).await;
    let url = format!("mqtt://127.0.0.1:{}", server.port());
    let bus = |retain: &str| {
        component(
            "bus",
            "pubsub.mqtt3",
            &[("url", &url), ("consumerID", "the one"), ("x", retain)],
        )
    };
    let app = subscriber().await;
    let dir = tempfile::tempdir().unwrap();
    let options = DaprdOptions {
        app_id: "subscriber".into(),
        app_port: Some(app.port()),
        resources: vec![bus("1"), SUBSCRIPTION.to_owned()],
        ..Default::default()
    };
    let mut sidecar = Daprd::start_ready(&options, dir.path()).await;
    let port = sidecar.http_port();
    let arrives = async |what: &str| {
        soon(what, async || {
            ask(port, "POST", "/v1.0/publish/bus/news", b"1").await;
            app.take_calls().iter().any(|call| call.path == "/news")
        })
        .await;
    };
    arrives("an event").await;
    for round in 2..=3 {
        edit(&sidecar, "000.yaml", &bus(&round.to_string()));
        soon("the edit takes effect", async || {
            count(&mut sidecar, "Component loaded: bus") >= round
        })
        .await;
        arrives("an event after the edit").await;
    }
    // Two of one id would throw each other out.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(count(&mut sidecar, "connection to MQTT broker lost"), 0);
    assert_eq!(count(&mut sidecar, "still in use"), 0);
    assert_calm(&mut sidecar).await;
}
