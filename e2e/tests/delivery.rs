//! Events on a real broker when the app cannot or will not take them: they wait for an app that is not well, and go to the
//! dead letter topic where the subscription names one.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use outrigger_e2e::ask::{ask, assert_calm, get, soon};
use outrigger_e2e::http::app::FakeApp;
use outrigger_e2e::process::{APP_HEALTH_CHECKS, Daprd, DaprdOptions, RedisServer};
use outrigger_e2e::sdk::component;
use serde_json::{Value, json};

async fn sidecar(app: &FakeApp, server: &RedisServer, dir: &Path, more: &[&str], flags: &[&str]) -> Daprd {
    let host = format!("127.0.0.1:{}", server.port());
    let bus = component(
        "bus",
        "pubsub.redis",
        &[
            ("redisHost", &host),
            ("processingTimeout", "1000"),
            ("redeliverInterval", "200"),
        ],
    );
    let options = DaprdOptions {
        app_id: "taker".into(),
        app_port: Some(app.port()),
        resources: [bus]
            .into_iter()
            .chain(more.iter().map(|&one| one.to_owned()))
            .collect(),
        flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
        ..Default::default()
    };
    Daprd::start_ready(&options, dir).await
}

async fn publish(sidecar: &Daprd, topic: &str, data: &str) {
    let path = format!("/v1.0/publish/bus/{topic}");
    let answer = ask(sidecar.http_port(), "POST", &path, data.as_bytes()).await;
    assert_eq!(answer.status, 204);
}

/// `data` of the events that the app got on a path.
fn taken(app: &FakeApp, path: &str) -> Vec<Value> {
    let calls = app.take_calls().into_iter().filter(|call| call.path == path);
    calls
        .map(|call| serde_json::from_slice::<Value>(&call.body).unwrap()["data"].clone())
        .collect()
}

/// `data` of the events of a stream.
async fn stream(server: &RedisServer, name: &str) -> Vec<Value> {
    let words = ["XRANGE", name, "-", "+"].map(str::to_owned);
    let answer = server.command(&words).await.unwrap();
    let entries: Vec<(String, Vec<(String, String)>)> = redis::from_redis_value(answer).unwrap();
    let fields = entries.into_iter().flat_map(|(_, fields)| fields);
    fields
        .filter(|(name, _)| name == "data")
        .map(|(_, data)| serde_json::from_str::<Value>(&data).unwrap()["data"].clone())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_wait_while_the_app_is_not_well() {
    let dir = tempfile::tempdir().unwrap();
    let server = RedisServer::start(dir.path()).await;
    let app = FakeApp::start("app").await;
    let subscription = json!([{"pubsubname": "bus", "topic": "news", "route": "/news"}]);
    app.subscribe(&subscription, json!([]));
    let mut sidecar = sidecar(&app, &server, &dir.path().join("daprd"), &[], &APP_HEALTH_CHECKS).await;
    let port = sidecar.http_port();
    let reachable = async || get(port, "/v1.0/invoke/taker/method/x").await.status == 200;
    let mut expected = Vec::new();
    for round in 0..2 {
        let (first, second) = (format!("{round}-well"), format!("{round}-sick"));
        soon("the app is well", async || reachable().await).await;
        publish(&sidecar, "news", &first).await;
        let mut got = Vec::new();
        soon("an event arrives", async || {
            got.extend(taken(&app, "/news"));
            got.iter().any(|data| *data == first)
        })
        .await;
        app.subscribe(&subscription, json!([{"path": "/healthz", "status": 503}]));
        soon("the app is not well", async || !reachable().await).await;
        let _ = app.take_calls();
        publish(&sidecar, "news", &second).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(
            taken(&app, "/news").is_empty(),
            "an app that is not well gets no events"
        );
        app.subscribe(&subscription, json!([]));
        let mut got = Vec::new();
        soon("the event that waited arrives", async || {
            got.extend(taken(&app, "/news"));
            got.iter().any(|data| *data == second)
        })
        .await;
        expected.extend([first, second]);
    }
    assert_eq!(stream(&server, "news").await, expected);
    assert_calm(&mut sidecar).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_app_refuses_or_is_not_there_for_goes_to_the_dead_letter_topic() {
    let dir = tempfile::tempdir().unwrap();
    let server = RedisServer::start(dir.path()).await;
    let app = FakeApp::start("app").await;
    let subscription = json!([
        {"pubsubname": "bus", "topic": "news", "route": "/news", "deadLetterTopic": "dead"},
        {"pubsubname": "bus", "topic": "dead", "route": "/dead"},
    ]);
    app.subscribe(
        &subscription,
        json!([
            {"path": "/news", "status": 500},
            {"path": "/news", "status": 500},
            {"path": "/news", "status": 500},
            {"path": "/news", "status": 200, "body": "{\"status\":\"DROP\"}"},
        ]),
    );
    let policy = "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: r}\nspec:\n  policies:\n    \
        retries: {again: {policy: constant, duration: 1ms, maxRetries: 2}}\n  \
        targets: {components: {bus: {inbound: {retry: again}}}}\n";
    let sidecar = sidecar(&app, &server, &dir.path().join("daprd"), &[policy], &[]).await;
    let mut dead = Vec::new();
    for (data, tries) in [("refused", 3), ("dropped", 1)] {
        publish(&sidecar, "news", data).await;
        let (mut asked, mut buried) = (0, Vec::new());
        soon("the app gets the dead letter", async || {
            for call in app.take_calls() {
                let event = || serde_json::from_slice::<Value>(&call.body).unwrap();
                match call.path.as_str() {
                    "/news" => asked += 1,
                    "/dead" => buried.push(event()),
                    _ => {}
                }
            }
            !buried.is_empty()
        })
        .await;
        assert_eq!((asked, buried.len()), (tries, 1), "{data}");
        // As it came, so that it can be sent again.
        assert_eq!(
            (&buried[0]["data"], &buried[0]["topic"]),
            (&json!(data), &json!("news"))
        );
        dead.push(data);
    }
    // An app that is gone.
    drop(app);
    publish(&sidecar, "news", "unheard").await;
    dead.push("unheard");
    soon("the event is kept as a dead letter", async || {
        stream(&server, "dead").await == dead
    })
    .await;
}
