//! A pluggable component in a process of its own: every kind, errors, and its restart.
//!
//! The process is `pluggable-component` of this crate: no SDK, but a server on the wire's own protos.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use outrigger_e2e::ask::{ask, assert_calm, get, soon, text};
use outrigger_e2e::http::app::FakeApp;
use outrigger_e2e::process::{Daprd, DaprdOptions, Program, Running};
use outrigger_e2e::sdk::component;
use outrigger_proto::common::v1::StateItem;
use outrigger_proto::runtime::v1::{DeleteBulkStateRequest, QueryStateRequest, SaveStateRequest};
use serde_json::{Value, json};

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

/// A sidecar with one component of each kind of the process at the socket.
fn plugged(socket: &Path, app: Option<&FakeApp>) -> DaprdOptions {
    DaprdOptions {
        app_id: "plugged".into(),
        app_port: app.map(FakeApp::port),
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
            socket.parent().unwrap().display().to_string(),
        )],
        ..Default::default()
    }
}

/// The place of a socket, in a folder of its own.
fn place(dir: &Path) -> PathBuf {
    let sockets = dir.join("sockets");
    std::fs::create_dir(&sockets).unwrap();
    sockets.join("mine.sock")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_a_pluggable_component_works_and_survives_its_restart() {
    let dir = tempfile::tempdir().unwrap();
    let socket = place(dir.path());
    std::fs::write(socket.with_extension("txt"), "no socket").unwrap();
    let mut running = process(dir.path(), &socket).await;
    let app = FakeApp::start("app").await;
    app.subscribe(
        &json!([{"pubsubname": "bus", "topic": "news", "route": "/news"}]),
        json!([
            {"path": "/in", "method": "POST", "status": 200, "headers": {"content-type": "application/json"}, "body": "\"answered\""},
            {"path": "/news", "status": 500},
        ]),
    );
    let mut sidecar = Daprd::start_ready(&plugged(&socket, Some(&app)), &dir.path().join("sidecar")).await;
    let port = sidecar.http_port();
    let metadata = get(port, "/v1.0/metadata").await;
    let metadata: Value = serde_json::from_slice(&metadata.body).unwrap();
    let loaded = metadata["components"].as_array().unwrap();
    assert_eq!(loaded.len(), 5, "{metadata}");
    let store = loaded.iter().find(|one| one["name"] == "store").unwrap();
    assert_eq!(
        store["capabilities"],
        json!(["ETAG", "TRANSACTIONAL", "TTL", "QUERY_API", "ACTOR"])
    );

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
    soon("all events arrive", async || {
        let calls = app.take_calls().into_iter();
        events.extend(
            calls
                .filter(|call| call.path == "/in" && call.method == "POST")
                .map(|call| call.body),
        );
        events.len() >= 3
    })
    .await;
    assert_eq!(events[..2], [b"\"first\"".to_vec(), b"\"answered\"".to_vec()]);
    // More than gRPC's usual limit, both ways.
    assert_eq!(events[2].len(), 5 << 20);
    let large = invoke("large").await;
    assert_eq!((large.status, large.body.len()), (200, 5 << 20));

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
    let socket = place(dir.path());
    let _running = process(dir.path(), &socket).await;
    let options = DaprdOptions {
        resources: vec![component("store", "state.mine", &[("refuse", "no such colour")])],
        ..plugged(&socket, None)
    };
    let mut sidecar = Daprd::start(&options, &dir.path().join("sidecar"));
    soon("the sidecar ends", async || sidecar.process().exited().is_some()).await;
    let log = sidecar.process().log();
    assert!(log.contains("no such colour"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_takes_the_place_of_a_built_in_type_unless_that_has_versions() {
    let dir = tempfile::tempdir().unwrap();
    let sockets = place(dir.path());
    let (memory, postgres) = (
        sockets.with_file_name("in-memory.sock"),
        sockets.with_file_name("postgresql.sock"),
    );
    let mut running = Vec::new();
    for socket in [&memory, &postgres] {
        let name = socket.file_stem().unwrap();
        let folder = dir.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        running.push(process(&folder, socket).await);
    }
    let options = DaprdOptions {
        resources: vec![
            component("store", "state.in-memory", &[]),
            component("other", "state.postgresql", &[]).replace("spec:", "spec:\n  ignoreErrors: true"),
        ],
        ..plugged(&sockets, None)
    };
    let mut sidecar = Daprd::start_ready(&options, &dir.path().join("sidecar")).await;
    let metadata = get(sidecar.http_port(), "/v1.0/metadata").await;
    let metadata: Value = serde_json::from_slice(&metadata.body).unwrap();
    let loaded = metadata["components"].as_array().unwrap();
    assert_eq!(
        loaded.len(),
        1,
        "PostgreSQL wants a connection string: {metadata}"
    );
    assert_eq!(
        loaded[0]["capabilities"],
        json!(["ETAG", "TRANSACTIONAL", "TTL", "QUERY_API", "ACTOR"])
    );
    let log = sidecar.process().log();
    assert!(log.contains("is a built-in type with versions"), "{log}");
    assert_calm(&mut sidecar).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_limits_bulks_and_queries_of_a_pluggable_component_are_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let socket = place(dir.path());
    let _running = process(dir.path(), &socket).await;
    let app = FakeApp::start("app").await;
    app.subscribe(
        &json!([{"pubsubname": "bus", "topic": "news", "route": "/news"}]),
        json!([]),
    );
    let mut sidecar = Daprd::start_ready(&plugged(&socket, Some(&app)), &dir.path().join("sidecar")).await;
    let port = sidecar.http_port();
    let mut client = sidecar.grpc_client().await;
    let post = async |path: &str, body: Value| {
        let answer = ask(port, "POST", path, body.to_string().as_bytes()).await;
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        (answer.status, body)
    };
    const RICH: &str = "api error: code = AlreadyExists desc = worded by the component";

    // An error that the component words: its status, and its text in ours.
    let (status, error) = post("/v1.0/state/store", json!([{"key": "rich", "value": 1}])).await;
    assert_eq!(status, 418, "{error}");
    assert_eq!(
        error,
        json!({"errorCode": "ERR_STATE_SAVE", "message": format!("failed saving state in state store store: {RICH}")})
    );
    let item = StateItem {
        key: "rich".into(),
        value: "1".into(),
        ..Default::default()
    };
    let request = SaveStateRequest {
        store_name: "store".into(),
        states: vec![item],
    };
    let refused = client.save_state(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::AlreadyExists, "{refused}");
    let (status, error) = post("/v1.0/publish/bus/rich", json!(1)).await;
    assert_eq!(
        (status, &error["errorCode"], &error["message"]),
        (
            500,
            &json!("ERR_PUBSUB_PUBLISH_MESSAGE"),
            &json!(format!(
                "error when publishing to topic rich in pubsub bus: {RICH}"
            ))
        )
    );
    let (status, error) = post("/v1.0/bindings/out", json!({"operation": "rich"})).await;
    assert_eq!(
        (status, &error["message"]),
        (500, &json!(format!("error invoking output binding out: {RICH}")))
    );

    // ETags, rows, limits.
    let (status, error) = post(
        "/v1.0/state/store",
        json!([{"key": "a", "value": 1, "etag": "x"}]),
    )
    .await;
    assert_eq!(status, 400, "{error}");
    assert_eq!(
        error["message"],
        "failed saving state in state store store: invalid etag value: no number"
    );
    let people = json!([
        {"key": "ann", "value": {"name": "Ann", "city": "Rome", "age": 1}},
        {"key": "bob", "value": {"name": "Bob", "city": "Oslo", "age": 2}},
        {"key": "cid", "value": {"name": "Cid", "city": "Rome", "age": 3}},
    ]);
    assert_eq!(post("/v1.0/state/store", people).await.0, 204);
    let delete = |keys: &[&str]| DeleteBulkStateRequest {
        store_name: "store".into(),
        states: keys
            .iter()
            .map(|&key| StateItem {
                key: key.into(),
                ..Default::default()
            })
            .collect(),
    };
    let refused = client.delete_bulk_state(delete(&["x", "y"])).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (
            tonic::Code::Internal,
            "failed deleting state in state store store: delete affected only 0 rows, expected 2"
        )
    );
    let remove = |key: &str| json!({"operation": "delete", "request": {"key": key}});
    let many = json!({"operations": [remove("1"), remove("2"), remove("3"), remove("4")]});
    let (status, error) = post("/v1.0/state/store/transaction", many).await;
    assert_eq!(
        (status, &error["errorCode"]),
        (400, &json!("ERR_STATE_STORE_TOO_MANY_TRANSACTIONS")),
        "{error}"
    );

    // Queries: filter, order, pages.
    let query = "/v1.0-alpha1/state/store/query";
    let (status, found) = post(
        query,
        json!({"filter": {"EQ": {"city": "Rome"}}, "sort": [{"key": "age", "order": "DESC"}]}),
    )
    .await;
    assert_eq!(status, 200, "{found}");
    let keys = |found: &Value| -> Vec<String> {
        let results = found["results"].as_array().unwrap().iter();
        results
            .map(|one| one["key"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(keys(&found), ["cid", "ann"]);
    assert_eq!(
        found["results"][0]["data"],
        json!({"name": "Cid", "city": "Rome", "age": 3})
    );
    assert!(found["results"][0]["etag"].is_string(), "{found}");
    let page = json!({"sort": [{"key": "age"}], "page": {"limit": 1, "token": "1"}});
    let (_, found) = post(query, page).await;
    assert_eq!(
        (keys(&found), &found["token"]),
        (vec!["bob".to_owned()], &json!("2"))
    );
    let request = QueryStateRequest {
        store_name: "store".into(),
        query: json!({"filter": {"EQ": {"name": "Bob"}}}).to_string(),
        ..Default::default()
    };
    let found = client.query_state_alpha1(request).await.unwrap().into_inner();
    assert_eq!((found.results.len(), found.results[0].key.as_str()), (1, "bob"));
    let (status, error) = post(query, json!({"filter": {"GT": {"age": 1}}})).await;
    assert_eq!(status, 500);
    assert!(
        error["message"].as_str().unwrap().contains("no filter GT"),
        "{error}"
    );

    // Bulks: what fails is named, the rest arrives.
    let entries = json!([
        {"entryId": "1", "event": "one", "contentType": "text/plain"},
        {"entryId": "2", "event": "two", "contentType": "text/plain", "metadata": {"bad": "yes"}},
        {"entryId": "3", "event": "three", "contentType": "text/plain"},
    ]);
    let (status, failed) = post("/v1.0/publish/bulk/bus/news", entries).await;
    assert_eq!(status, 500);
    assert_eq!(
        failed,
        json!({"failedEntries": [{"entryId": "2", "error": "it is bad"}], "errorCode": "ERR_PUBSUB_PUBLISH_MESSAGE"})
    );
    let mut data = Vec::new();
    soon("the others arrive", async || {
        let calls = app.take_calls().into_iter().filter(|call| call.path == "/news");
        data.extend(calls.map(|call| {
            let event: Value = serde_json::from_slice(&call.body).unwrap();
            event["data"].clone()
        }));
        data.len() >= 2
    })
    .await;
    assert_eq!(data, ["one", "three"]);
    let all = get(port, "/v1.0/secrets/vault/bulk").await;
    let all: Value = serde_json::from_slice(&all.body).unwrap();
    assert_eq!(
        all,
        json!({"password": {"password": "hidden"}, "who": {"who": "plugged"}})
    );
    assert_calm(&mut sidecar).await;
}
