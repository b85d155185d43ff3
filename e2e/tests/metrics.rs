//! The `dapr_*` metrics, as a scrape shows them (contract `observability`; golden `control-plane/metrics.json`).

use std::collections::{BTreeMap, BTreeSet};

use outrigger_e2e::ask::{ask, assert_calm, expect, get, text};
use outrigger_e2e::process::{Daprd, DaprdOptions};
use serde_json::Value;

const STORE: &str = "apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: st}
spec: {type: state.in-memory, version: v1, metadata: []}
";

/// Families that upstream's sidecar showed for reasons of its own.
const NOT_OURS: [&str; 3] = [
    // Its name resolution could not start in the closed network of the recording.
    "dapr_runtime_component_init_fail_total",
    // It shows these two before there is any workflow; ours come with the first.
    "dapr_runtime_workflow_local_activity_count",
    "dapr_runtime_workflow_local_wake_count",
];

/// A family: its type and the names of its labels.
type Family = (String, BTreeSet<String>);

async fn scrape(sidecar: &Daprd) -> String {
    let answer = get(sidecar.metrics_port(), "/metrics").await;
    assert_eq!(answer.status, 200);
    text(&answer)
}

/// The families of `dapr_*` in a scrape.
fn families(scrape: &str) -> BTreeMap<String, Family> {
    let mut found: BTreeMap<String, Family> = BTreeMap::new();
    for line in scrape.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE dapr_") {
            let (name, kind) = rest.split_once(' ').expect("a type line has a name and a type");
            found.insert(format!("dapr_{name}"), (kind.to_owned(), BTreeSet::new()));
        } else if line.starts_with("dapr_") {
            let (name, rest) = line.split_once('{').expect("every metric has labels");
            let name = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end).filter(|name| found.contains_key(*name)))
                .unwrap_or(name);
            let labels = rest.rsplit_once('}').expect("labels end").0;
            for label in labels.split("\",").filter_map(|label| label.split_once('=')) {
                if label.0 != "le" {
                    let family = found.get_mut(name).expect("its type stands before it");
                    family.1.insert(label.0.to_owned());
                }
            }
        }
    }
    found
}

/// The value of the only series of a metric with all these labels.
fn value(scrape: &str, name: &str, labels: &[&str]) -> f64 {
    let lines: Vec<&str> = scrape
        .lines()
        .filter(|line| {
            line.starts_with(&format!("{name}{{")) && labels.iter().all(|label| line.contains(label))
        })
        .collect();
    assert_eq!(lines.len(), 1, "{name} {labels:?}: {lines:?} in {scrape}");
    let number = lines[0].rsplit_once(' ').expect("a value").1;
    number.parse().expect("a number")
}

async fn sidecar(dir: &std::path::Path, config: &str) -> Daprd {
    let options = DaprdOptions {
        app_id: "shop".into(),
        resources: vec![STORE.into()],
        config: (!config.is_empty()).then(|| {
            format!(
                "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {{name: c}}\nspec:\n{config}"
            )
        }),
        ..Default::default()
    };
    Daprd::start_ready(&options, &dir.join("daprd")).await
}

#[tokio::test]
async fn the_recorded_families_are_shown_after_the_recorded_calls() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/testdata/golden/control-plane/metrics.json"
    );
    let text = std::fs::read_to_string(path).expect("the vectors are here");
    let cases: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let case = cases
        .iter()
        .find(|case| case["id"] == "daprd-after-workload")
        .expect("the case of the sidecar");
    let dir = tempfile::tempdir().unwrap();
    let mut sidecar = sidecar(dir.path(), "").await;
    for step in case["steps"].as_array().expect("steps") {
        let (send, got) = (&step["send"], &step["got"]);
        if let Some(status) = got["status"].as_u64() {
            let body = send["body"].as_str().unwrap_or_default().as_bytes();
            let (method, path) = (&send["method"], &send["path"]);
            let (method, path) = (method.as_str().unwrap(), path.as_str().unwrap());
            let answer = ask(sidecar.http_port(), method, path, body).await;
            assert_eq!(u64::from(answer.status), status, "{method} {path}");
            continue;
        }
        let found = families(&scrape(&sidecar).await);
        let wanted = got["families"].as_object().expect("families");
        let names: BTreeSet<&str> = wanted.keys().map(String::as_str).collect();
        let missing: BTreeSet<&str> = names
            .iter()
            .copied()
            .filter(|name| !found.contains_key(*name))
            .collect();
        assert_eq!(missing, BTreeSet::from(NOT_OURS));
        for (name, family) in &found {
            let recorded = wanted
                .get(name)
                .unwrap_or_else(|| panic!("{name} was not recorded"));
            assert_eq!(recorded["type"], family.0.as_str(), "{name}");
            let labels: BTreeSet<String> = recorded["labels"]
                .as_array()
                .expect("labels")
                .iter()
                .map(|label| label.as_str().expect("a name").to_owned())
                .collect();
            assert_eq!(labels, family.1, "{name}");
        }
    }
    assert_calm(&mut sidecar).await;
}

#[tokio::test]
async fn calls_are_counted_once_with_their_labels() {
    let dir = tempfile::tempdir().unwrap();
    let sidecar = sidecar(dir.path(), "  metrics: {recordErrorCodes: true}\n").await;
    let port = sidecar.http_port();
    for _ in 0..3 {
        expect(&get(port, "/v1.0/state/st/key").await, 204, "");
    }
    let body = b"[{\"key\":\"k\",\"value\":\"0123456789\"}]";
    expect(&ask(port, "POST", "/v1.0/state/st", body).await, 204, "");
    assert_eq!(get(port, "/v1.0/state/none/k").await.status, 400);
    let scrape = scrape(&sidecar).await;
    let reads = [
        "method=\"GET\"",
        "path=\"/v1.0/state/st\"",
        "status=\"204\"",
        "app_id=\"shop\"",
    ];
    assert_eq!(value(&scrape, "dapr_http_server_request_count", &reads), 3.0);
    assert_eq!(value(&scrape, "dapr_http_server_response_count", &reads), 3.0);
    assert_eq!(value(&scrape, "dapr_http_server_latency_count", &reads), 3.0);
    let sum = value(&scrape, "dapr_http_server_request_bytes_sum", &[]);
    assert_eq!(sum, body.len() as f64);
    let gets = [
        "component=\"st\"",
        "namespace=\"default\"",
        "operation=\"get\"",
        "success=\"true\"",
    ];
    assert_eq!(value(&scrape, "dapr_component_state_count", &gets), 3.0);
    let code = ["error_code=\"ERR_STATE_STORE_NOT_FOUND\"", "category=\"state\""];
    assert_eq!(value(&scrape, "dapr_error_code_total", &code), 1.0);
    let kind = ["component=\"state.in-memory\""];
    assert_eq!(value(&scrape, "dapr_runtime_component_init_total", &kind), 1.0);
}

#[tokio::test]
async fn the_configuration_decides_about_labels_and_buckets() {
    let dir = tempfile::tempdir().unwrap();
    let config = "  metrics:
    latencyDistributionBuckets: [5, 50]
    http: {increasedCardinality: false, excludeVerbs: true, pathMatching: ['/v1.0/state/{store}/{key}']}
    rules:
    - name: dapr_component_state_count
      labels:
      - name: component
        regex: {store: '^s[a-z]$'}
";
    let sidecar = sidecar(dir.path(), config).await;
    expect(&get(sidecar.http_port(), "/v1.0/state/st/key").await, 204, "");
    expect(&get(sidecar.http_port(), "/v1.0/healthz").await, 204, "");
    let scrape = scrape(&sidecar).await;
    let read = ["path=\"/v1.0/state/{store}/{key}\"", "method=\"\""];
    assert_eq!(value(&scrape, "dapr_http_server_request_count", &read), 1.0);
    assert!(!scrape.contains("dapr_http_server_response_count"));
    let rewritten = ["component=\"store\"", "operation=\"get\""];
    assert_eq!(value(&scrape, "dapr_component_state_count", &rewritten), 1.0);
    let bounds: BTreeSet<&str> = scrape
        .lines()
        .filter(|line| line.starts_with("dapr_http_server_latency_bucket"))
        .filter_map(|line| line.split_once("le=\"")?.1.split_once('"'))
        .map(|(bound, _)| bound)
        .collect();
    assert_eq!(bounds, BTreeSet::from(["+Inf", "5", "50"]));
}

#[tokio::test]
async fn metrics_that_are_off_or_wrongly_ruled_leave_the_process_alone() {
    let bad_rule = "  metrics:
    rules:
    - {name: dapr_http_server_latency, labels: [{name: path, regex: {x: '('}}]}
";
    for config in ["  metrics: {enabled: false}\n", bad_rule] {
        let dir = tempfile::tempdir().unwrap();
        let mut sidecar = sidecar(dir.path(), config).await;
        assert_calm(&mut sidecar).await;
        let scrape = scrape(&sidecar).await;
        assert!(scrape.contains("process_resident_memory_bytes"));
        assert!(!scrape.contains("dapr_"), "{scrape}");
        let told = sidecar.process().log().contains("is no regular expression");
        assert_eq!(told, config == bad_rule);
    }
}
