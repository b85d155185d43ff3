//! A pluggable component in a process of its own: every kind, errors, and its restart.
//!
//! The process is `pluggable-component` of this crate: no SDK, but a server on the wire's own protos.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::{Duration, Instant};

use outrigger_e2e::ask::{ask, assert_calm, get, text};
use outrigger_e2e::http::app::FakeApp;
use outrigger_e2e::process::{Daprd, DaprdOptions, Program, Running};
use outrigger_e2e::sdk::component;
use serde_json::{Value, json};

/// Far beyond what a busy machine needs.
const SOON: Duration = Duration::from_secs(60);

async fn soon(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done().await {
        assert!(Instant::now() < deadline, "{what}: not within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn process(dir: &Path, socket: &Path) -> Running {
    let path = Path::new(env!("CARGO_BIN_EXE_pluggable-component"));
    let running = Program::new("component", path, dir)
        .args([socket.display().to_string()])
        .start();
    soon("the component listens", async || {
        tokio::net::UnixStream::connect(socket).await.is_ok()
    })
    .await;
    running
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_a_pluggable_component_works_and_survives_its_restart() {
    let dir = tempfile::tempdir().unwrap();
    let sockets = dir.path().join("sockets");
    std::fs::create_dir(&sockets).unwrap();
    std::fs::write(sockets.join("note.txt"), "no socket").unwrap();
    let socket = sockets.join("mine.sock");
    let mut running = process(dir.path(), &socket).await;
    let app = FakeApp::start("app").await;
    app.set_standing(
        serde_json::from_value(json!([
            {"path": "/dapr/subscribe", "status": 200, "headers": {"content-type": "application/json"},
                "body": r#"[{"pubsubname": "bus", "topic": "news", "route": "/news"}]"#},
            {"path": "/in", "method": "POST", "status": 200, "headers": {"content-type": "application/json"}, "body": "\"answered\""},
            {"path": "/news", "status": 500},
            {"path": "*", "status": 200},
        ]))
        .unwrap(),
    );
    let options = DaprdOptions {
        app_id: "plugged".into(),
        app_port: Some(app.port()),
        resources: vec![
            component(
                "vault",
                "secretstores.mine",
                &[("password", "hidden"), ("who", "{appID}")],
            ),
            component("store", "state.mine", &[]),
            component("bus", "pubsub.mine", &[]),
            component("out", "bindings.mine", &[("direction", "output")]),
            component("in", "bindings.mine", &[("direction", "input")]),
        ],
        env: vec![(
            "DAPR_COMPONENTS_SOCKETS_FOLDER".into(),
            sockets.display().to_string(),
        )],
        ..Default::default()
    };
    let mut sidecar = Daprd::start_ready(&options, &dir.path().join("sidecar")).await;
    let port = sidecar.http_port();
    let metadata = get(port, "/v1.0/metadata").await;
    let metadata: Value = serde_json::from_slice(&metadata.body).unwrap();
    let loaded = metadata["components"].as_array().unwrap();
    assert_eq!(loaded.len(), 5, "{metadata}");
    let store = loaded.iter().find(|one| one["name"] == "store").unwrap();
    assert_eq!(store["capabilities"], json!(["ETAG", "TRANSACTIONAL", "ACTOR"]));

    // Secrets: properties arrive with their placeholders replaced.
    let secret = get(port, "/v1.0/secrets/vault/who").await;
    assert_eq!(
        (secret.status, text(&secret)),
        (200, r#"{"who":"plugged"}"#.to_owned())
    );
    let secret = get(port, "/v1.0/secrets/vault/nosuch").await;
    assert_eq!(secret.status, 500, "{}", text(&secret));

    // State: values, ETags and their errors, bulk, transactions.
    let save = async |body: Value| ask(port, "POST", "/v1.0/state/store", body.to_string().as_bytes()).await;
    assert_eq!(save(json!([{"key": "a", "value": {"x": 1}}])).await.status, 204);
    let found = get(port, "/v1.0/state/store/a").await;
    assert_eq!((found.status, text(&found)), (200, r#"{"x":1}"#.to_owned()));
    let stale = save(json!([{"key": "a", "value": 2, "etag": "99"}])).await;
    assert_eq!(stale.status, 409, "{}", text(&stale));
    assert!(
        text(&stale).contains("another writer was first"),
        "{}",
        text(&stale)
    );
    assert_eq!(
        save(json!([{"key": "b", "value": 1}, {"key": "c", "value": 2}]))
            .await
            .status,
        204
    );
    let transaction = json!({"operations": [
        {"operation": "upsert", "request": {"key": "d", "value": 3}},
        {"operation": "delete", "request": {"key": "b"}},
    ]});
    let done = ask(
        port,
        "POST",
        "/v1.0/state/store/transaction",
        transaction.to_string().as_bytes(),
    )
    .await;
    assert_eq!(done.status, 204, "{}", text(&done));
    let bulk = ask(
        port,
        "POST",
        "/v1.0/state/store/bulk",
        br#"{"keys":["b","c","d"]}"#,
    )
    .await;
    let bulk: Value = serde_json::from_slice(&bulk.body).unwrap();
    assert_eq!(
        (&bulk[1]["data"], &bulk[2]["data"]),
        (&json!(2), &json!(3)),
        "{bulk}"
    );
    let query = ask(port, "POST", "/v1.0-alpha1/state/store/query", b"{}").await;
    assert_eq!(query.status, 500, "it says that it cannot be queried");

    // Bindings: an answer, a failure, an operation it does not have; events and what the app answers to them.
    let invoke = async |operation: &str| {
        let body = json!({"operation": operation, "data": "hello"}).to_string();
        ask(port, "POST", "/v1.0/bindings/out", body.as_bytes()).await
    };
    let echo = invoke("echo").await;
    assert_eq!((echo.status, text(&echo)), (200, "\"hello\"".to_owned()));
    assert!(text(&invoke("fail").await).contains("as you wish"));
    assert!(text(&invoke("other").await).contains("does not support operation other"));
    let mut events = Vec::new();
    soon("both events arrive", async || {
        let calls = app.take_calls().into_iter();
        events.extend(
            calls
                .filter(|call| call.path == "/in" && call.method == "POST")
                .map(|call| call.body),
        );
        events.len() >= 2
    })
    .await;
    assert_eq!(events[..2], [b"\"first\"".to_vec(), b"\"answered\"".to_vec()]);

    // Events: one that the app refuses comes again.
    let publish = async || ask(port, "POST", "/v1.0/publish/bus/news", b"1").await.status;
    assert_eq!(publish().await, 204);
    let mut tries = 0;
    soon("a refused event comes again", async || {
        tries += app
            .take_calls()
            .iter()
            .filter(|call| call.path == "/news")
            .count();
        tries >= 2
    })
    .await;

    // The process goes: calls fail. It comes back: it is initialised again, and everything goes on.
    running.kill();
    drop(running);
    assert_eq!(save(json!([{"key": "a", "value": 1}])).await.status, 500);
    let _running = process(dir.path(), &socket).await;
    soon("state works again", async || {
        save(json!([{"key": "a", "value": 1}])).await.status == 204
    })
    .await;
    soon("secrets work again", async || {
        get(port, "/v1.0/secrets/vault/who").await.status == 200
    })
    .await;
    soon("bindings work again", async || invoke("echo").await.status == 200).await;
    app.take_calls().clear();
    soon("events arrive again", async || {
        publish().await;
        app.take_calls().iter().any(|call| call.path == "/news")
    })
    .await;
    assert_calm(&mut sidecar).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_that_refuses_its_settings_stops_the_start_with_its_words() {
    let dir = tempfile::tempdir().unwrap();
    let sockets = dir.path().join("sockets");
    std::fs::create_dir(&sockets).unwrap();
    let socket = sockets.join("mine.sock");
    let _running = process(dir.path(), &socket).await;
    let options = DaprdOptions {
        app_id: "refused".into(),
        resources: vec![component("store", "state.mine", &[("refuse", "no such colour")])],
        env: vec![(
            "DAPR_COMPONENTS_SOCKETS_FOLDER".into(),
            sockets.display().to_string(),
        )],
        ..Default::default()
    };
    let mut sidecar = Daprd::start(&options, &dir.path().join("sidecar"));
    soon("the sidecar ends", async || sidecar.process().exited().is_some()).await;
    let log = sidecar.process().log();
    assert!(log.contains("no such colour"), "{log}");
}
