//! Metrics that follow the Configuration.

use prometheus::{Encoder as _, Registry, TextEncoder};
use serde_json::json;

use super::*;

fn metrics() -> (Registry, Metrics) {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry, "shop", "ns").unwrap();
    (registry, metrics)
}

fn configure(metrics: &Metrics, settings: serde_json::Value) -> Result<(), MetricsError> {
    metrics.configure(&serde_json::from_value(settings).unwrap())
}

/// What is shown, a series a line.
fn shown(registry: &Registry) -> Vec<String> {
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

#[test]
fn families_that_a_change_does_not_concern_go_on_counting() {
    let (registry, metrics) = metrics();
    let counter = metrics.counter("a/count", &["who"]).unwrap();
    let other = metrics.counter("b/count", &["who"]).unwrap();
    let latency = metrics.histogram("a/ms", &[], Buckets::Latency).unwrap();
    let size = metrics
        .histogram("a/bytes", &[], Buckets::Bounds(&[1.0]))
        .unwrap();
    let optional = metrics
        .counter_if(
            |settings| settings.record_error_codes == Some(true),
            "c/count",
            &[],
        )
        .unwrap();
    let record = || {
        counter.inc(&["x1"]);
        other.inc(&["x1"]);
        latency.observe(&[], 5.0);
        size.observe(&[], 5.0);
        optional.inc(&[]);
    };
    record();
    assert!(
        shown(&registry).is_empty() && !metrics.is_enabled(),
        "nothing before the settings"
    );
    configure(&metrics, json!({})).unwrap();
    record();
    let settings = json!({"recordErrorCodes": true, "latencyDistributionBuckets": [7],
        "rules": [{"name": "dapr_a_count", "labels": [{"name": "who", "regex": {"X": "x[0-9]"}}]}]});
    configure(&metrics, settings).unwrap();
    record();
    let lines = shown(&registry);
    for line in [
        r#"dapr_a_count{app_id="shop",who="X"} 1"#,
        r#"dapr_b_count{app_id="shop",who="x1"} 2"#,
        r#"dapr_a_ms_bucket{app_id="shop",le="7"} 1"#,
        r#"dapr_a_bytes_count{app_id="shop"} 2"#,
        r#"dapr_c_count{app_id="shop"} 1"#,
    ] {
        assert!(lines.iter().any(|shown| shown == line), "{line}\n{lines:#?}");
    }
    assert!(!lines.iter().any(|line| line.contains("le=\"6\"")), "{lines:#?}");

    // What makes no sense changes nothing, not even in part.
    for wrong in [
        json!({"enabled": false, "rules": [{"name": "x", "labels": [{"name": "y", "regex": {"z": "("}}]}]}),
        json!({"recordErrorCodes": false, "latencyDistributionBuckets": [2, 1]}),
    ] {
        configure(&metrics, wrong).unwrap_err();
        assert_eq!(shown(&registry), lines);
    }
    assert!(
        metrics.counter("a/count", &["who"]).is_err(),
        "a name is taken once"
    );
}

#[test]
fn metrics_that_are_off_show_nothing_and_levels_are_right_when_they_are_on_again() {
    let (registry, metrics) = metrics();
    let other = prometheus::Counter::new("dapr_other", "Of another part.").unwrap();
    metrics
        .others()
        .unwrap()
        .register(Box::new(other.clone()))
        .unwrap();
    let counter = metrics.counter("a/count", &[]).unwrap();
    let level = metrics.level("a/level", "kind").unwrap();
    level.add("cat", 1.0);
    configure(&metrics, json!({})).unwrap();
    level.add("dog", 1.0);
    level.add("cat", 1.0);
    counter.inc(&[]);
    assert_eq!(
        shown(&registry),
        [
            r#"dapr_a_count{app_id="shop"} 1"#,
            r#"dapr_a_level{app_id="shop",kind="cat"} 2"#,
            r#"dapr_a_level{app_id="shop",kind="dog"} 1"#,
            "dapr_other 0",
        ]
    );
    configure(&metrics, json!({"enabled": false})).unwrap();
    level.add("cat", -1.0);
    counter.inc(&[]);
    other.inc();
    assert!(shown(&registry).is_empty() && counter.series(&[]).is_none());
    let merging =
        json!({"rules": [{"name": "a/level", "labels": [{"name": "kind", "regex": {"pet": "cat|dog"}}]}]});
    configure(&metrics, merging).unwrap();
    assert_eq!(
        shown(&registry),
        [r#"dapr_a_level{app_id="shop",kind="pet"} 2"#, "dapr_other 1"]
    );
}

#[test]
fn series_that_were_found_before_a_change_are_not_used_after_it() {
    let (registry, metrics) = metrics();
    configure(&metrics, json!({})).unwrap();
    let call = || {
        let request = ::http::Request::get("/v1.0/state/store/k")
            .body(crate::Body::Empty)
            .unwrap();
        let call = metrics.http.server_call(&request).unwrap();
        drop(call.answer(::http::Response::new(crate::Body::Empty)));
    };
    let counted = || {
        let lines = shown(&registry).into_iter();
        let counts = lines.filter(|line| line.starts_with("dapr_http_server_request_count"));
        counts.collect::<Vec<_>>()
    };
    call();
    call();
    let under_way = {
        let request = ::http::Request::get("/v1.0/state/store/k")
            .body(crate::Body::Empty)
            .unwrap();
        metrics.http.server_call(&request).unwrap()
    };
    let rule = |store: &str| {
        json!({"rules": [{"name": "http/server/request_count",
            "labels": [{"name": "path", "regex": {store: "/v1.0/state/.*"}}]}]})
    };
    configure(&metrics, rule("one")).unwrap();
    call();
    configure(&metrics, rule("two")).unwrap();
    drop(under_way);
    call();
    assert_eq!(
        counted(),
        [r#"dapr_http_server_request_count{app_id="shop",method="GET",path="two",status="200"} 2"#]
    );
}
