//! Every part of the Configuration is taken up by the running sidecar, without a new start, and no call fails for it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use outrigger_e2e::actors::Placement;
use outrigger_e2e::ask::{ask, assert_calm, get, soon, text};
use outrigger_e2e::http::app::FakeApp;
use outrigger_e2e::process::{Daprd, DaprdOptions};
use outrigger_e2e::sdk::component;
use serde_json::{Value, json};

use crate::{configuration, edit, lives, metadata, names};

const IN_FORCE: &str = "the Configuration has changed and is in force";

/// A sidecar and how often its Configuration was changed.
struct Changing {
    sidecar: Daprd,
    changes: usize,
}

impl Changing {
    async fn start(options: DaprdOptions, spec: &str, dir: &Path) -> Self {
        let options = DaprdOptions {
            config: Some(configuration(spec)),
            env: vec![("DAPR_HOST_IP".into(), "127.0.0.1".into())],
            ..options
        };
        Self {
            sidecar: Daprd::start_ready(&options, dir).await,
            changes: 0,
        }
    }

    fn write(&self, spec: &str) {
        std::fs::write(self.sidecar.dir().join("config.yaml"), configuration(spec)).unwrap();
    }

    /// Changes the Configuration and waits until it is in force.
    async fn set(&mut self, spec: &str) {
        self.write(spec);
        self.changes += 1;
        let (sidecar, changes) = (&mut self.sidecar, self.changes);
        soon(spec, async || {
            sidecar.process().log().matches(IN_FORCE).count() >= changes
        })
        .await;
    }

    /// Sets one that cannot be in force.
    async fn set_wrong(&mut self, spec: &str, said: &str) {
        self.write(spec);
        let sidecar = &mut self.sidecar;
        soon(said, async || {
            let log = sidecar.process().log();
            log.lines()
                .any(|line| line.contains("it stays as it was") && line.contains(said))
        })
        .await;
    }

    fn port(&self) -> u16 {
        self.sidecar.http_port()
    }

    async fn finish(mut self) {
        assert_eq!(lives(&mut self.sidecar), 1, "nothing was restarted");
        assert_calm(&mut self.sidecar).await;
    }
}

/// An app that answers everything, and `/slow` a while later.
async fn app() -> FakeApp {
    let app = FakeApp::start("app").await;
    app.set_standing(
        serde_json::from_value(json!([
            {"path": "/slow", "status": 200, "body": "late", "delay_ms": 1500},
            {"path": "*", "status": 200, "body": "ok"},
        ]))
        .unwrap(),
    );
    app
}

/// Makes a call that takes a while, and waits until the app has it.
async fn slow_call(app: &FakeApp, port: u16) -> tokio::task::JoinHandle<(u16, String)> {
    let _ = app.take_calls();
    let call = tokio::spawn(async move {
        let answer = get(port, "/v1.0/invoke/changing/method/slow").await;
        (answer.status, text(&answer))
    });
    soon("the app is called", async || app.call_count() > 0).await;
    call
}

fn options(app: Option<&FakeApp>) -> DaprdOptions {
    DaprdOptions {
        app_id: "changing".into(),
        app_port: app.map(FakeApp::port),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tracing_changes_and_a_call_under_way_keeps_its_collector() {
    let dir = tempfile::tempdir().unwrap();
    let (app, one, two) = (app().await, app().await, app().await);
    let zipkin = |to: &FakeApp, rate: &str| {
        format!(
            "{{tracing: {{samplingRate: \"{rate}\", zipkin: {{endpointAddress: \"http://127.0.0.1:{}/spans\"}}}}}}",
            to.port()
        )
    };
    let mut changing = Changing::start(options(Some(&app)), &zipkin(&one, "1"), dir.path()).await;
    let port = changing.port();
    let call = slow_call(&app, port).await;
    changing.set(&zipkin(&two, "1")).await;
    let _ = get(port, "/v1.0/invoke/changing/method/quick").await;
    assert_eq!(call.await.unwrap(), (200, "late".to_owned()));
    let mut collected: [Vec<String>; 2] = Default::default();
    let mut collect = async |n: usize, what: &str| {
        soon(what, async || {
            for (collector, collected) in [&one, &two].into_iter().zip(&mut collected) {
                let calls = collector.take_calls().into_iter();
                collected.extend(calls.map(|call| String::from_utf8_lossy(&call.body).into_owned()));
            }
            collected[n].iter().any(|spans| spans.contains(what))
        })
        .await;
        let other = &collected[1 - n];
        assert!(!other.iter().any(|spans| spans.contains(what)), "{other:?}");
    };
    collect(0, "method/slow").await;
    collect(1, "method/quick").await;

    // Rate and headers: each follows at once.
    let traced = async |path: &str| {
        let _ = app.take_calls();
        let answer = get(port, &format!("/v1.0/invoke/changing/method/{path}")).await;
        assert_eq!(answer.status, 200);
        let call = app.take_calls().remove(0);
        let parent = call.headers.iter().find(|(name, _)| name == "traceparent");
        parent.map(|(_, parent)| parent.ends_with("-01"))
    };
    assert_eq!(traced("a").await, Some(true));
    changing.set(&zipkin(&two, "0")).await;
    assert_eq!(traced("b").await, None);
    changing
        .set("{tracing: {samplingRate: \"1\", stdout: true}}")
        .await;
    assert_eq!(traced("printed").await, Some(true));
    let sidecar = &mut changing.sidecar;
    soon("spans are logged", async || {
        sidecar.process().log().contains("CallLocal/changing/printed")
    })
    .await;
    // What makes no sense is told by its field, and changes nothing.
    let wrong = "{tracing: {samplingRate: \"0\", otel: {endpointAddress: \"127.0.0.1:1\", protocol: smoke}}}";
    changing.set_wrong(wrong, "spec.tracing.otel.protocol").await;
    assert_eq!(traced("c").await, Some(true));
    changing.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_change_and_those_not_concerned_go_on_counting() {
    let dir = tempfile::tempdir().unwrap();
    let app = app().await;
    let with_store = DaprdOptions {
        resources: vec![component("store", "state.in-memory", &[])],
        ..options(Some(&app))
    };
    let mut changing = Changing::start(with_store, "{}", dir.path()).await;
    let (port, metrics) = (changing.port(), changing.sidecar.metrics_port());
    let scrape = async || text(&get(metrics, "/metrics").await);
    let read = async || assert_eq!(get(port, "/v1.0/state/store/k").await.status, 204);
    let has = |scrape: &str, name: &str, labels: &str, value: u32| {
        let line = scrape
            .lines()
            .find(|line| line.starts_with(&format!("{name}{{")) && line.contains(labels));
        assert_eq!(
            line.map(|line| line.rsplit_once(' ').unwrap().1),
            (value > 0).then(|| value.to_string()).as_deref(),
            "{name} {labels}\n{scrape}"
        );
    };
    read().await;
    read().await;
    let shown = scrape().await;
    has(&shown, "dapr_component_state_count", "operation=\"get\"", 2);
    has(
        &shown,
        "dapr_http_server_request_count",
        "path=\"/v1.0/state/store\"",
        2,
    );
    has(&shown, "dapr_http_server_latency_bucket", "le=\"34\"", 0);

    // Paths are left out, latencies have other buckets; a call under way ends under what is in force then.
    let call = slow_call(&app, port).await;
    changing
        .set("{metrics: {http: {increasedCardinality: false}, latencyDistributionBuckets: [34, 99999]}}")
        .await;
    assert_eq!(call.await.unwrap(), (200, "late".to_owned()));
    read().await;
    let shown = scrape().await;
    has(&shown, "dapr_component_state_count", "operation=\"get\"", 3);
    has(
        &shown,
        "dapr_http_server_request_count",
        "path=\"/v1.0/state/store\"",
        2,
    );
    has(
        &shown,
        "dapr_http_server_request_count",
        "path=\"\",status=\"204\"",
        1,
    );
    has(
        &shown,
        "dapr_http_client_completed_count",
        "path=\"\",status=\"200\"",
        1,
    );
    has(&shown, "dapr_component_state_latencies_bucket", "le=\"34\"", 1);
    assert!(!shown.contains("dapr_http_server_response_count"), "{shown}");

    // Labels are rewritten from now on, and errors are counted.
    changing
        .set(
            "{metrics: {recordErrorCodes: true, rules: [{name: dapr_component_state_count, labels: \
             [{name: component, regex: {shop: sto.*}}]}]}}",
        )
        .await;
    read().await;
    assert_eq!(get(port, "/v1.0/state/nosuch/k").await.status, 400);
    let shown = scrape().await;
    has(&shown, "dapr_component_state_count", "component=\"shop\"", 1);
    has(
        &shown,
        "dapr_error_code_total",
        "error_code=\"ERR_STATE_STORE_NOT_FOUND\"",
        1,
    );
    has(&shown, "dapr_component_state_latencies_bucket", "le=\"34\"", 0);

    let wrong = "{metrics: {rules: [{name: x, labels: [{name: y, regex: {z: \"(\"}}]}]}}";
    changing.set_wrong(wrong, "no regular expression").await;
    has(
        &scrape().await,
        "dapr_component_state_count",
        "component=\"shop\"",
        1,
    );
    changing
        .set_wrong(
            "{metrics: {latencyDistributionBuckets: [2, 1]}}",
            "spec.metrics.latencyDistributionBuckets",
        )
        .await;

    // Off, and on again.
    changing.set("{metrics: {enabled: false}}").await;
    read().await;
    let shown = scrape().await;
    assert!(!shown.contains("dapr_") && shown.contains("process_"), "{shown}");
    changing.set("{}").await;
    read().await;
    has(
        &scrape().await,
        "dapr_component_state_count",
        "operation=\"get\"",
        1,
    );
    changing.finish().await;
}

fn sqlite(file: &Path, interval: u32) -> String {
    format!(
        "{{nameResolution: {{component: sqlite, configuration: {{connectionString: \"{}\", updateInterval: {interval}s}}}}}}",
        file.display()
    )
}

/// The app ids of the sidecars that announced themselves.
fn announced(file: &Path) -> Vec<String> {
    let db = rusqlite::Connection::open(file).unwrap();
    let mut query = db.prepare("SELECT app_id FROM hosts ORDER BY app_id").unwrap();
    let rows = query.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn name_resolution_changes_under_calls_of_which_none_fails() {
    let dir = tempfile::tempdir().unwrap();
    let app = app().await;
    let file = |name: &str| -> PathBuf { dir.path().join(name) };
    let (here, there) = (file("here.db"), file("there.db"));
    let mut caller = Changing::start(options(None), &sqlite(&here, 5), &file("caller")).await;
    let callee = DaprdOptions {
        app_id: "callee".into(),
        ..options(Some(&app))
    };
    let mut callee = Changing::start(callee, &sqlite(&here, 5), &file("callee")).await;
    assert_eq!(announced(&here), ["callee", "changing"]);
    let (port, stop) = (caller.port(), tokio_util::sync::CancellationToken::new());
    let calls = tokio::spawn({
        let stop = stop.clone();
        async move {
            let mut count = 0;
            while !stop.is_cancelled() {
                let answer = get(port, "/v1.0/invoke/callee/method/x").await;
                assert_eq!(
                    (answer.status, text(&answer)),
                    (200, "ok".to_owned()),
                    "call {count}"
                );
                count += 1;
            }
            count
        }
    });
    // The same place again, other resolvers, and what cannot be.
    for interval in [6, 7, 5] {
        caller.set(&sqlite(&here, interval)).await;
        assert_eq!(announced(&here), ["callee", "changing"]);
    }
    let list =
        json!({"appInstances": {"callee": [{"ipv4": "127.0.0.1", "port": callee.sidecar.internal_port()}]}});
    let list = json!({"nameResolution": {"component": "structuredformat", "configuration":
        {"structuredType": "jsonString", "stringValue": list.to_string()}}});
    caller.set(&list.to_string()).await;
    assert_eq!(announced(&here), ["callee"], "the announcement was withdrawn");
    for (wrong, said) in [
        (
            "{nameResolution: {component: pigeons}}",
            "couldn't find name resolver pigeons/v1",
        ),
        (
            &sqlite(Path::new("/does/not/exist/x.db"), 5),
            "error initializing name resolution sqlite",
        ),
    ] {
        caller.set_wrong(wrong, said).await;
    }
    // Both move, the caller first: the callee is known in the old place until it is in the new one.
    callee.set(&sqlite(&there, 5)).await;
    assert_eq!(
        (announced(&here), announced(&there)),
        (vec![], vec!["callee".to_owned()])
    );
    caller.set(&sqlite(&there, 5)).await;
    assert_eq!(announced(&there), ["callee", "changing"]);
    stop.cancel();
    let count = calls.await.unwrap();
    assert!(count > 20, "{count} calls");
    // The resolver in force is what counts.
    caller.set(&sqlite(&here, 5)).await;
    assert_eq!(get(port, "/v1.0/invoke/callee/method/x").await.status, 500);
    // In the end as well.
    caller.sidecar.process().terminate();
    caller.sidecar.process().wait_exit(Duration::from_secs(20)).await;
    assert_eq!(
        (announced(&here), announced(&there)),
        (vec![], vec!["callee".to_owned()])
    );
    callee.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn features_change_and_the_last_change_may_be_that_nothing_is_followed_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let app = FakeApp::start("app").await;
    app.set_standing(
        serde_json::from_value(json!([
            {"path": "/dapr/config", "status": 200, "body": "{\"entities\":[\"T\"]}",
                "headers": {"content-type": "application/json"}},
            {"path": "*", "status": 200},
        ]))
        .unwrap(),
    );
    let placement = Placement::start(1, dir.path());
    let hosting = DaprdOptions {
        resources: vec![component(
            "store",
            "state.in-memory",
            &[("actorStateStore", "true")],
        )],
        flags: vec!["--placement-host-address".into(), placement.addresses()],
        ..options(Some(&app))
    };
    let mut changing = Changing::start(hosting, "{}", &dir.path().join("daprd")).await;
    let port = changing.port();
    let woken = ask(port, "PUT", "/v1.0/actors/T/1/method/wake", b"").await;
    assert_eq!(woken.status, 200, "{}", text(&woken));
    let write = async || {
        let body =
            br#"[{"operation":"upsert","request":{"key":"k","value":1,"metadata":{"ttlInSeconds":"100"}}}]"#;
        ask(port, "POST", "/v1.0/actors/T/1/state", body).await.status
    };
    assert_eq!(write().await, 500);
    changing
        .set("{features: [{name: ActorStateTTL, enabled: true}, {name: Mine, enabled: true}]}")
        .await;
    assert_eq!(write().await, 204);
    let features = metadata(&changing.sidecar).await["enabledFeatures"].clone();
    let mut features: Vec<Value> = features.as_array().unwrap().clone();
    features.sort_by_key(ToString::to_string);
    assert_eq!(
        features,
        [
            "ActorStateTTL",
            "HotReload",
            "Mine",
            "WorkflowsRemoteActivityReminder"
        ]
    );
    // Parts that mean nothing to this version are said to.
    changing
        .set("{wasm: {strictSandbox: true}, mtls: {enabled: false}}")
        .await;
    assert_eq!(write().await, 500);
    let log = changing.sidecar.process().log();
    assert!(log.contains("spec.wasm is set in the Configuration"), "{log}");

    changing
        .set("{features: [{name: HotReload, enabled: false}]}")
        .await;
    let sidecar = &mut changing.sidecar;
    soon("what to do is told", async || {
        let log = sidecar.process().log();
        log.contains("resources are no longer followed") && log.contains("SIGHUP")
    })
    .await;
    edit(
        sidecar,
        "second.yaml",
        &component("second", "state.in-memory", &[]),
    );
    changing.write("{}");
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(names(&changing.sidecar, "components").await, ["store"]);
    // As it was told.
    assert_eq!(lives(&mut changing.sidecar), 1);
    changing.sidecar.process().signal("HUP");
    let sidecar = &mut changing.sidecar;
    soon("the runtime starts anew", async || lives(sidecar) == 2).await;
    changing.sidecar.wait_ready(&[204]).await;
    soon("resources are followed again", async || {
        names(&changing.sidecar, "components").await == ["second", "store"]
    })
    .await;
    assert_calm(&mut changing.sidecar).await;
}
