//! The transactional outbox: rows as recorded from Dapr, both sides of the internal topic in Dapr's form, nothing
//! lost to a kill.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

#[path = "outbox/stores.rs"]
mod stores;

use std::collections::BTreeSet;
use std::path::Path;

use outrigger_e2e::ask::{SOON, ask, soon, text};
use outrigger_e2e::http::app::FakeApp;
use outrigger_e2e::http::client::{Request, send};
use outrigger_e2e::process::{Daprd, DaprdOptions, RedisServer};
use outrigger_e2e::sdk::component;
use serde_json::{Value, json};

fn store(kind: &str, place: (&str, &str)) -> String {
    component(
        "store",
        kind,
        &[
            place,
            ("outboxPublishPubsub", "bus"),
            ("outboxPublishTopic", "orders"),
        ],
    )
}

fn bus(redis: &RedisServer) -> String {
    let host = format!("127.0.0.1:{}", redis.port());
    component(
        "bus",
        "pubsub.redis",
        &[
            ("redisHost", &host),
            ("redisPassword", ""),
            ("processingTimeout", "500ms"),
            ("redeliverInterval", "300ms"),
        ],
    )
}

async fn app() -> FakeApp {
    let app = FakeApp::start("app").await;
    app.subscribe(
        &json!([{"pubsubname": "bus", "topic": "orders", "route": "/orders"}]),
        json!([]),
    );
    app
}

/// The events that the app got.
fn events(app: &FakeApp) -> Vec<Value> {
    let calls = app.take_calls().into_iter();
    calls
        .filter(|call| call.path == "/orders")
        .map(|call| serde_json::from_slice(&call.body).unwrap())
        .collect()
}

fn rows(file: &Path) -> Vec<(String, String, i64)> {
    let db = rusqlite::Connection::open(file).unwrap();
    let mut query = db
        .prepare("SELECT key, value, is_binary FROM state ORDER BY key")
        .unwrap();
    let rows = query
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap();
    rows.map(Result::unwrap).collect()
}

async fn redis(server: &RedisServer, words: &[&str]) -> redis::Value {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    server.command(&words).await.unwrap()
}

/// `data` of the entries of a stream.
async fn stream(server: &RedisServer, name: &str) -> Vec<Value> {
    let answer = redis(server, &["XRANGE", name, "-", "+"]).await;
    let entries: Vec<(String, Vec<(String, String)>)> = redis::from_redis_value(answer).unwrap();
    let data = entries.into_iter().flat_map(|(_, fields)| fields);
    data.filter(|(name, _)| name == "data")
        .map(|(_, data)| serde_json::from_str(&data).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_and_internal_events_are_daprs_and_wait_for_a_sidecar_with_an_app() {
    let dir = tempfile::tempdir().unwrap();
    let server = RedisServer::start(dir.path()).await;
    let vectors = outrigger_e2e::sdk::root().join("e2e/testdata/golden/data/outbox-rows.json");
    let vectors: Vec<Value> = serde_json::from_slice(&std::fs::read(vectors).unwrap()).unwrap();
    assert_eq!(vectors.len(), 3);
    // Its app never listens, so that it consumes nothing and the markers stay.
    let nobody = outrigger_e2e::process::dead_port();
    for vector in &vectors {
        let id = vector["id"].as_str().unwrap();
        let file = dir.path().join(format!("{id}.db"));
        let options = DaprdOptions {
            app_id: "app1".into(),
            app_port: Some(nobody.number()),
            resources: vec![
                bus(&server),
                store("state.sqlite", ("connectionString", &file.display().to_string())),
            ],
            env: vec![("NAMESPACE".into(), "ns1".into())],
            ..Default::default()
        };
        let mut sidecar = Daprd::start(&options, &dir.path().join(id));
        let port = sidecar.http_port();
        let body = vector["input"]["request"].to_string();
        let request = Request {
            method: "POST".into(),
            path: "/v1.0/state/store/transaction".into(),
            headers: vec![("content-type".into(), "application/json".into())],
            body: Some(body.into_bytes()),
            chunked: false,
        };
        let mut status = 0;
        soon("the API is up", async || match send(port, &request, SOON).await {
            Ok(answer) => {
                status = answer.status;
                true
            }
            Err(_) => false,
        })
        .await;
        assert_eq!(
            u64::from(status),
            vector["output"]["status"],
            "{}",
            sidecar.process().log_tail()
        );
        let mut want: Vec<(String, String, i64)> = Vec::new();
        for row in vector["output"]["rows"].as_array().unwrap() {
            let text = |name: &str| row[name].as_str().unwrap().to_owned();
            want.push((text("key"), text("value"), row["is_binary"].as_i64().unwrap()));
        }
        let got: Vec<_> = rows(&file)
            .into_iter()
            .map(|(key, value, binary)| {
                let key = if key.starts_with("outbox-") {
                    "outbox-<uuid>".into()
                } else {
                    key
                };
                (key, value, binary)
            })
            .collect();
        assert_eq!(got, want, "{id}");
    }
    let told = stream(&server, "ns1app1ordersoutbox").await;
    assert_eq!(told.len(), 3);
    for (event, want) in told.iter().zip(["42", "map[a:map[y:[2] z:1.25] b:1]", "hello"]) {
        let mut event = event.clone();
        let members = event.as_object_mut().unwrap();
        assert!(
            members
                .remove("id")
                .unwrap()
                .as_str()
                .unwrap()
                .starts_with("outbox-")
        );
        assert!(members.remove("time").is_some() && members.remove("traceid").is_some());
        assert_eq!(
            event,
            json!({
                "data": want, "datacontenttype": "text/plain", "pubsubname": "bus", "source": "app1",
                "specversion": "1.0", "topic": "", "traceparent": "", "tracestate": "", "type": "com.dapr.event.sent",
            })
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn projections_attributes_and_failures_are_as_in_dapr() {
    let dir = tempfile::tempdir().unwrap();
    let server = RedisServer::start(dir.path()).await;
    let app = app().await;
    let file = dir.path().join("state.db");
    let options = DaprdOptions {
        app_id: "shop".into(),
        app_port: Some(app.port()),
        resources: vec![
            bus(&server),
            store("state.sqlite", ("connectionString", &file.display().to_string())),
            component(
                "lost",
                "state.in-memory",
                &[
                    ("outboxPublishPubsub", "nosuch"),
                    ("outboxPublishTopic", "orders"),
                ],
            ),
        ],
        ..Default::default()
    };
    let sidecar = Daprd::start_ready(&options, &dir.path().join("one")).await;
    let port = sidecar.http_port();
    let transaction = json!({"operations": [
        {"operation": "upsert", "request": {"key": "k", "value": {"a": 1}, "contentType": "application/json",
            "metadata": {"type": "order.placed", "mine": "x"}}},
        {"operation": "upsert", "request": {"key": "k", "value": {"shown": 2.50}, "contentType": "application/json",
            "metadata": {"outbox.projection": "true"}}},
        {"operation": "delete", "request": {"key": "other"}},
    ]});
    let answer = ask(
        port,
        "POST",
        "/v1.0/state/store/transaction",
        transaction.to_string().as_bytes(),
    )
    .await;
    assert_eq!(answer.status, 204, "{}", text(&answer));
    let mut got = Vec::new();
    soon("the event arrives", async || {
        got.extend(events(&app));
        !got.is_empty()
    })
    .await;
    let event = &got[0];
    assert_eq!(event["data"], json!({"shown": 2.5}));
    for (name, want) in [
        ("type", "order.placed"),
        ("mine", "x"),
        ("topic", "orders"),
        ("pubsubname", "bus"),
        ("source", "shop"),
        ("datacontenttype", "application/json"),
    ] {
        assert_eq!(event[name], want, "{name} of {event}");
    }
    // The projection is not stored, and the marker is gone.
    soon("the marker is removed", async || {
        rows(&file) == [("shop||k".to_owned(), r#"{"a":1}"#.to_owned(), 0)]
    })
    .await;
    // An event and its marker as a Go sidecar leaves them.
    let marker = "outbox-6ba7b810-9dad-11d1-80b4-00c04fd430c8";
    let go = json!({
        "data": "of go", "datacontenttype": "text/plain", "id": marker, "pubsubname": "bus", "source": "shop",
        "specversion": "1.0", "time": "2026-01-01T00:00:00Z", "topic": "", "traceid": "", "traceparent": "",
        "tracestate": "", "type": "com.dapr.event.sent",
    });
    let db = rusqlite::Connection::open(&file).unwrap();
    db.execute(
        "INSERT INTO state (key, value, is_binary, etag, update_time) VALUES (?1, '\"0\"', 0, 'e', CURRENT_TIMESTAMP)",
        [marker],
    )
    .unwrap();
    redis(
        &server,
        &["XADD", "defaultshopordersoutbox", "*", "data", &go.to_string()],
    )
    .await;
    soon("Go's event arrives", async || {
        events(&app)
            .iter()
            .any(|event| event["data"] == "of go" && event["topic"] == "orders")
    })
    .await;
    soon("Go's marker is removed", async || rows(&file).len() == 1).await;
    // A broker that is not there: nothing is stored.
    let one = br#"{"operations":[{"operation":"upsert","request":{"key":"k","value":1}}]}"#;
    let answer = ask(port, "POST", "/v1.0/state/lost/transaction", one).await;
    let error: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(
        (answer.status, &error["errorCode"]),
        (500, &json!("ERR_PUBLISH_OUTBOX"))
    );
    assert_eq!(
        error["message"],
        "error while publishing outbox message: pubsub 'nosuch' not found"
    );
    assert_eq!(ask(port, "GET", "/v1.0/state/lost/k", b"").await.status, 204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_transaction_and_event_loses_no_event() {
    let dir = tempfile::tempdir().unwrap();
    let server = RedisServer::start(dir.path()).await;
    let app = app().await;
    let host = format!("127.0.0.1:{}", server.port());
    let options = DaprdOptions {
        app_id: "killed".into(),
        app_port: Some(app.port()),
        resources: vec![bus(&server), store("state.redis", ("redisHost", &host))],
        ..Default::default()
    };
    let (mut acknowledged, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for life in 0..3 {
        let mut sidecar = Daprd::start_ready(&options, &dir.path().join(life.to_string())).await;
        let port = sidecar.http_port();
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..4 {
            clients.spawn(async move {
                let mut done = Vec::new();
                for n in 0..1_000 {
                    let name = format!("{life}-{client}-{n}");
                    let body = json!({"operations": [
                        {"operation": "upsert", "request": {"key": name, "value": name}}]});
                    let request = Request {
                        method: "POST".into(),
                        path: "/v1.0/state/store/transaction".into(),
                        headers: vec![("content-type".into(), "application/json".into())],
                        body: Some(body.to_string().into_bytes()),
                        chunked: false,
                    };
                    match send(port, &request, SOON).await {
                        Ok(answer) if answer.status == 204 => done.push(name),
                        _ => break,
                    }
                }
                done
            });
        }
        let before = seen.len();
        soon("events flow", async || {
            seen.extend(
                events(&app)
                    .iter()
                    .map(|event| event["data"].as_str().unwrap().to_owned()),
            );
            seen.len() > before + 20
        })
        .await;
        sidecar.process().kill();
        acknowledged.extend(clients.join_all().await.into_iter().flatten());
    }
    assert!(acknowledged.len() > 60, "{}", acknowledged.len());
    let _sidecar = Daprd::start_ready(&options, &dir.path().join("after")).await;
    soon("every event of an acknowledged transaction arrives", async || {
        seen.extend(
            events(&app)
                .iter()
                .map(|event| event["data"].as_str().unwrap().to_owned()),
        );
        acknowledged.is_subset(&seen)
    })
    .await;
}
