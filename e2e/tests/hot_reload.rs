//! Resources edited, added, removed, broken and renamed while a sidecar works: it follows, and no call fails.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

#[path = "hot_reload/configuration.rs"]
mod configuration;
#[path = "hot_reload/exclusive.rs"]
mod exclusive;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use outrigger_e2e::ask::{SOON, ask, assert_calm, get, soon, text};
use outrigger_e2e::http::app::FakeApp;
use outrigger_e2e::http::client::{Request, send};
use outrigger_e2e::process::{Daprd, DaprdOptions};
use outrigger_e2e::sdk::component;
use serde_json::{Value, json};

fn file(sidecar: &Daprd, name: &str) -> PathBuf {
    sidecar.dir().join("resources").join(name)
}

/// Writes as editors do: another file takes the place of the old one.
fn edit(sidecar: &Daprd, name: &str, content: &str) {
    let next = sidecar.dir().join("next");
    std::fs::write(&next, content).unwrap();
    std::fs::rename(next, file(sidecar, name)).unwrap();
}

/// A Configuration with this `spec`.
fn configuration(spec: &str) -> String {
    format!("apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {{name: c}}\nspec: {spec}\n")
}

/// How often the runtime of a sidecar began.
fn lives(sidecar: &mut Daprd) -> usize {
    let log = sidecar.process().log();
    log.matches("dapr initialized. Status: Running").count()
}

async fn metadata(sidecar: &Daprd) -> Value {
    let answer = get(sidecar.http_port(), "/v1.0/metadata").await;
    serde_json::from_slice(&answer.body).unwrap()
}

async fn names(sidecar: &Daprd, what: &str) -> Vec<String> {
    let metadata = metadata(sidecar).await;
    let list = metadata[what].as_array().cloned().unwrap_or_default();
    let name = |one: Value| one["name"].as_str().unwrap_or_default().to_owned();
    let mut names: Vec<String> = list.into_iter().map(name).collect();
    names.sort();
    names
}

fn sqlite(name: &str, path: &std::path::Path, busy: &str) -> String {
    let path = path.display().to_string();
    component(
        name,
        "state.sqlite",
        &[("connectionString", &path), ("busyTimeout", busy)],
    )
}

/// Writes and reads until told to stop; panics at the first call that fails.
async fn load(port: u16, client: usize, stop: Arc<AtomicBool>, count: Arc<AtomicUsize>) {
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let write = Request {
            method: "POST".into(),
            path: "/v1.0/state/store".into(),
            headers: vec![("content-type".into(), "application/json".into())],
            body: Some(format!(r#"[{{"key":"{client}","value":{n}}}]"#).into_bytes()),
            chunked: false,
        };
        let answer = send(port, &write, SOON).await.unwrap();
        assert_eq!(answer.status, 204, "write {n} of {client}: {}", text(&answer));
        let answer = get(port, &format!("/v1.0/state/store/{client}")).await;
        assert_eq!((answer.status, text(&answer)), (200, n.to_string()));
        count.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_is_edited_broken_and_mended_under_load_without_a_failed_call() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("state.db");
    let options = DaprdOptions {
        app_id: "reloaded".into(),
        resources: vec![sqlite("store", &db, "2s")],
        ..Default::default()
    };
    let mut sidecar = Daprd::start_ready(&options, &dir.path().join("sidecar")).await;
    let port = sidecar.http_port();
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..4 {
        clients.spawn(load(port, client, stop.clone(), count.clone()));
    }
    let reloaded = |sidecar: &mut Daprd| {
        sidecar
            .process()
            .log()
            .matches("Component reloaded: store")
            .count()
    };
    for round in 1..=5 {
        let before = count.load(Ordering::Relaxed);
        edit(
            &sidecar,
            "000.yaml",
            &sqlite("store", &db, &format!("{}s", round + 2)),
        );
        soon("the edit takes effect", async || reloaded(&mut sidecar) >= round).await;
        soon("calls go on", async || {
            count.load(Ordering::Relaxed) > before + 20
        })
        .await;
    }
    // Broken YAML, a store that cannot start, an unknown type: the old one stays each time.
    let elsewhere = std::path::Path::new("/does/not/exist/state.db");
    for (broken, said) in [
        ("kind: [".to_owned(), "while reloading"),
        (
            sqlite("store", elsewhere, "2s"),
            "the version that was loaded before stays in use",
        ),
        (
            component("store", "state.nosuch", &[]),
            "couldn't find state store state.nosuch/v1",
        ),
    ] {
        let before = count.load(Ordering::Relaxed);
        edit(&sidecar, "000.yaml", &broken);
        soon(said, async || sidecar.process().log().contains(said)).await;
        soon("calls go on", async || {
            count.load(Ordering::Relaxed) > before + 20
        })
        .await;
        assert_eq!(names(&sidecar, "components").await, ["store"]);
    }
    let answer = get(sidecar.metrics_port(), "/metrics").await;
    assert!(
        text(&answer).contains("dapr_runtime_component_init_fail_total"),
        "a failed reload is counted"
    );
    edit(&sidecar, "000.yaml", &sqlite("store", &db, "9s"));
    soon("it is mended", async || reloaded(&mut sidecar) >= 6).await;
    // Another one comes, is renamed, and goes.
    let second = dir.path().join("second.db");
    edit(&sidecar, "second.yaml", &sqlite("second", &second, "2s"));
    soon("one is added", async || {
        names(&sidecar, "components").await == ["second", "store"]
    })
    .await;
    let body = br#"[{"key":"k","value":1}]"#;
    assert_eq!(ask(port, "POST", "/v1.0/state/second", body).await.status, 204);
    edit(&sidecar, "second.yaml", &sqlite("third", &second, "2s"));
    soon("one is renamed", async || {
        names(&sidecar, "components").await == ["store", "third"]
    })
    .await;
    assert_eq!(ask(port, "POST", "/v1.0/state/third", body).await.status, 204);
    assert_eq!(get(port, "/v1.0/state/second/k").await.status, 400);
    std::fs::remove_file(file(&sidecar, "second.yaml")).unwrap();
    soon("one is removed", async || {
        names(&sidecar, "components").await == ["store"]
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    clients.join_all().await;
    assert!(
        !sidecar
            .process()
            .log()
            .contains("was closed although it was still in use")
    );
    assert_calm(&mut sidecar).await;
}

const SUBSCRIPTION: &str = "apiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata: {name: sub}\nspec:\n  pubsubname: bus\n  topic: news\n  routes: {default: ROUTE}\n";

/// An app that names no topics and takes every event.
async fn subscriber() -> FakeApp {
    let app = FakeApp::start("app").await;
    app.set_standing(
        serde_json::from_value(json!([
            {"path": "/dapr/subscribe", "status": 200, "body": "[]"},
            {"path": "*", "status": 200},
        ]))
        .unwrap(),
    );
    app
}

fn paths(app: &FakeApp, prefix: &str) -> Vec<String> {
    let calls = app.take_calls().into_iter();
    calls
        .map(|call| call.path)
        .filter(|path| path.starts_with(prefix))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_brokers_and_bindings_come_change_and_go() {
    let app = subscriber().await;
    let dir = tempfile::tempdir().unwrap();
    let options = DaprdOptions {
        app_id: "subscriber".into(),
        app_port: Some(app.port()),
        ..Default::default()
    };
    let mut sidecar = Daprd::start_ready(&options, dir.path()).await;
    let port = sidecar.http_port();
    edit(&sidecar, "bus.yaml", &component("bus", "pubsub.in-memory", &[]));
    edit(&sidecar, "sub.yaml", &SUBSCRIPTION.replace("ROUTE", "/one"));
    // Publishing until it arrives: in memory an event without a subscriber is gone.
    let arrives = async |path: &str| {
        soon(path, async || {
            ask(port, "POST", "/v1.0/publish/bus/news", b"1").await;
            paths(&app, path).len() > 1
        })
        .await;
    };
    arrives("/one").await;
    edit(&sidecar, "sub.yaml", &SUBSCRIPTION.replace("ROUTE", "/two"));
    arrives("/two").await;
    assert!(paths(&app, "/one").is_empty(), "the old route is no longer used");
    // A new broker under the name: the subscription goes over to it.
    edit(
        &sidecar,
        "bus.yaml",
        &component("bus", "pubsub.in-memory", &[("x", "y")]),
    );
    soon("the broker is made anew", async || {
        sidecar.process().log().contains("Component reloaded: bus")
    })
    .await;
    arrives("/two").await;
    // Without it publishing is refused; when it comes back, the subscription is still wanted.
    std::fs::remove_file(file(&sidecar, "bus.yaml")).unwrap();
    soon("the broker is gone", async || {
        ask(port, "POST", "/v1.0/publish/bus/news", b"1").await.status == 404
    })
    .await;
    edit(&sidecar, "bus.yaml", &component("bus", "pubsub.in-memory", &[]));
    arrives("/two").await;
    std::fs::remove_file(file(&sidecar, "sub.yaml")).unwrap();
    soon("the subscription is gone", async || {
        metadata(&sidecar).await["subscriptions"]
            .as_array()
            .is_none_or(Vec::is_empty)
    })
    .await;
    let _ = app.take_calls();
    let answer = ask(port, "POST", "/v1.0/publish/bus/news", b"1").await;
    assert_eq!(answer.status, 204);
    edit(
        &sidecar,
        "cron.yaml",
        &component(
            "ticks",
            "bindings.cron",
            &[("schedule", "@every 1s"), ("direction", "input")],
        ),
    );
    let mut came = Vec::new();
    soon("the binding calls the app", async || {
        came.extend(app.take_calls().into_iter().map(|call| call.path));
        came.iter().any(|path| path == "/ticks")
    })
    .await;
    assert!(!came.iter().any(|path| path == "/two"), "{came:?}");
    assert_calm(&mut sidecar).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_watches_a_configuration_store_is_told_when_its_values_are_edited() {
    let app = FakeApp::start("app").await;
    app.set_standing(serde_json::from_value(json!([{"path": "*", "status": 200}])).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let values = |value: &str| {
        component(
            "values",
            "configuration.in-memory",
            &[("k", value), ("same", "s")],
        )
    };
    let options = DaprdOptions {
        app_id: "watcher".into(),
        app_port: Some(app.port()),
        resources: vec![values("one||1")],
        ..Default::default()
    };
    let mut sidecar = Daprd::start_ready(&options, dir.path()).await;
    let answer = get(sidecar.http_port(), "/v1.0/configuration/values/subscribe").await;
    let subscription: Value = serde_json::from_slice(&answer.body).unwrap();
    for (value, version) in [("two", "2"), ("three", "3")] {
        edit(&sidecar, "000.yaml", &values(&format!("{value}||{version}")));
        let mut told = Vec::new();
        soon("the new value is told", async || {
            let calls = app.take_calls().into_iter();
            told.extend(calls.filter(|call| call.path.starts_with("/configuration/")));
            !told.is_empty()
        })
        .await;
        let event: Value = serde_json::from_slice(&told[0].body).unwrap();
        assert_eq!(told[0].path, "/configuration/values/k");
        assert_eq!(event["id"], subscription["id"]);
        assert_eq!(event["items"], json!({"k": {"value": value, "version": version}}));
    }
    assert_calm(&mut sidecar).await;
}

fn endpoint(port: u16) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata: {{name: other}}\nspec: {{baseUrl: \"http://127.0.0.1:{port}\"}}\n"
    )
}

const RESILIENCY: &str = "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: policy}\nspec:\n  policies:\n    retries:\n      more: {policy: constant, duration: 1ms, maxRetries: RETRIES}\n  targets:\n    apps:\n      other: {retry: more}\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_policies_and_the_configuration_change_without_a_restart() {
    let (one, two) = (FakeApp::start("one").await, FakeApp::start("two").await);
    for (app, status) in [(&one, 200), (&two, 503)] {
        app.set_standing(serde_json::from_value(json!([{"path": "*", "status": status}])).unwrap());
    }
    let dir = tempfile::tempdir().unwrap();
    let options = DaprdOptions {
        app_id: "changing".into(),
        resources: vec![component("store", "state.in-memory", &[])],
        config: Some(configuration("{}")),
        ..Default::default()
    };
    let mut sidecar = Daprd::start_ready(&options, dir.path()).await;
    let port = sidecar.http_port();
    let invoke = async || get(port, "/v1.0/invoke/other/method/x").await.status;
    edit(&sidecar, "endpoint.yaml", &endpoint(one.port()));
    soon("the endpoint is there", async || invoke().await == 200).await;
    assert_eq!(names(&sidecar, "httpEndpoints").await, ["other"]);
    edit(&sidecar, "endpoint.yaml", &endpoint(two.port()));
    soon("the endpoint changes", async || invoke().await == 503).await;
    // No retries without a policy; as many as it says with one.
    for retries in [2, 4] {
        edit(
            &sidecar,
            "policy.yaml",
            &RESILIENCY.replace("RETRIES", &retries.to_string()),
        );
        soon("the policy is in force", async || {
            let _ = two.take_calls();
            invoke().await;
            two.call_count() == retries + 1
        })
        .await;
    }
    assert_eq!(names(&sidecar, "resiliencies").await, ["policy"]);
    edit(&sidecar, "policy.yaml", &RESILIENCY.replace("1ms", "soon"));
    soon("a broken policy is told", async || {
        sidecar
            .process()
            .log()
            .contains("while reloading: resiliency policies in")
    })
    .await;
    let _ = two.take_calls();
    invoke().await;
    assert_eq!(two.call_count(), 5, "the policies before stay");

    let set = |spec: &str| std::fs::write(dir.path().join("config.yaml"), configuration(spec)).unwrap();
    let state = async || get(port, "/v1.0/state/store/k").await.status;
    assert_eq!(state().await, 204);
    set("{api: {denied: [{name: state, version: v1.0, protocol: http}]}}");
    soon("the API is closed", async || state().await == 404).await;
    set("{api: {denied: [}}");
    soon("a broken Configuration is told", async || {
        sidecar
            .process()
            .log()
            .contains("the Configuration stays as it was")
    })
    .await;
    assert_eq!(state().await, 404);
    set("{components: {deny: [state.in-memory]}}");
    soon("a component is forbidden", async || state().await == 500).await;
    set("{}");
    soon("all is allowed again", async || state().await == 204).await;
    assert_eq!(lives(&mut sidecar), 1, "nothing was restarted");
    assert_calm(&mut sidecar).await;
}
