// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use outrigger_components_api::middleware::full;
use outrigger_components_api::testing::init_context;

use super::*;

fn sentinel(name: &str, rules: &str) -> Arc<Sentinel> {
    Arc::new(Sentinel::new(&init_context("sentinel", [(name, rules)])).unwrap())
}

/// A request that takes some milliseconds and is answered with this status.
async fn ask(sentinel: &Sentinel, path: &str, millis: u64, status: u16) -> u16 {
    let request = Request::get(path).body(full("")).unwrap();
    let next: Next<'_> = Box::new(move |_| {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            let mut answer = Response::new(full(""));
            *answer.status_mut() = StatusCode::from_u16(status).unwrap();
            answer
        })
    });
    sentinel.handle(request, next).await.status().as_u16()
}

/// How many of so many requests pass at once.
async fn passing(sentinel: &Sentinel, path: &str, requests: usize) -> usize {
    let mut passed = 0;
    for _ in 0..requests {
        passed += usize::from(ask(sentinel, path, 0, 200).await == 200);
    }
    passed
}

#[tokio::test(start_paused = true)]
async fn requests_above_a_threshold_are_refused_until_the_second_is_over() {
    let rules = r#"[{"resource":"GET:/a b","threshold":5}]"#;
    let sentinel = sentinel("flowRules", rules);
    assert_eq!(passing(&sentinel, "/a%20b", 8).await, 5);
    assert_eq!(passing(&sentinel, "/other", 50).await, 50);
    tokio::time::advance(Duration::from_millis(1001)).await;
    assert_eq!(passing(&sentinel, "/a%20b", 8).await, 5);
}

#[tokio::test(start_paused = true)]
async fn a_path_is_one_resource_in_whatever_way_it_is_written() {
    let sentinel = sentinel("flowRules", r#"[{"resource":"GET:/a/b","threshold":3}]"#);
    for path in ["//a/b", "/a/%62", "/a/x/../b/"] {
        assert_eq!(passing(&sentinel, path, 1).await, 1, "{path}");
    }
    for path in ["/a/b", "/a//b", "/a/%2562", "/%61%2fb"] {
        assert_eq!(passing(&sentinel, path, 1).await, 0, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_own_interval_and_another_resources_count_are_respected() {
    let rules = r#"[{"resource":"GET:/slow","threshold":2,"statIntervalInMs":10000},
        {"resource":"GET:/read","threshold":1,"relationStrategy":1,"refResource":"GET:/write"}]"#;
    let sentinel = sentinel("flowRules", rules);
    assert_eq!(passing(&sentinel, "/slow", 3).await, 2);
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(passing(&sentinel, "/slow", 3).await, 0);
    tokio::time::advance(Duration::from_secs(6)).await;
    assert_eq!(passing(&sentinel, "/slow", 3).await, 2);
    assert_eq!(passing(&sentinel, "/read", 9).await, 9);
    assert_eq!(passing(&sentinel, "/write", 1).await, 1);
    assert_eq!(passing(&sentinel, "/read", 9).await, 0);
}

#[tokio::test(start_paused = true)]
async fn requests_queue_at_even_distances_as_long_as_they_may() {
    let rules = r#"[{"resource":"GET:/q","threshold":10,"controlBehavior":1,"maxQueueingTimeMs":300}]"#;
    let sentinel = sentinel("flowRules", rules);
    let start = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let sentinel = sentinel.clone();
        running.spawn(async move { (ask(&sentinel, "/q", 0, 200).await, start.elapsed()) });
    }
    let mut answers = running.join_all().await;
    answers.sort();
    let waited: Vec<_> = answers
        .iter()
        .filter(|(status, _)| *status == 200)
        .map(|(_, time)| time.as_millis())
        .collect();
    assert_eq!(waited, [0, 100, 200, 300]);
}

#[tokio::test(start_paused = true)]
async fn a_cold_resource_warms_up() {
    let rules = r#"[{"resource":"GET:/w","threshold":30,"tokenCalculateStrategy":1,"warmUpPeriodSec":10}]"#;
    let sentinel = sentinel("flowRules", rules);
    let mut passed = Vec::new();
    for _ in 0..30 {
        passed.push(passing(&sentinel, "/w", 60).await);
        tokio::time::advance(Duration::from_millis(1000)).await;
    }
    assert!(
        (8..=12).contains(&passed[0]),
        "a third of the threshold at first: {passed:?}"
    );
    assert!(
        passed.windows(2).all(|pair| pair[0] <= pair[1] + 1),
        "it only grows: {passed:?}"
    );
    assert!(passed[29] >= 29, "the whole threshold at the end: {passed:?}");
}

#[tokio::test(start_paused = true)]
async fn only_so_many_run_at_a_time() {
    let sentinel = sentinel("isolationRules", r#"[{"resource":"GET:/i","threshold":3}]"#);
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let sentinel = sentinel.clone();
        running.spawn(async move { ask(&sentinel, "/i", 100, 200).await });
    }
    let passed = running
        .join_all()
        .await
        .into_iter()
        .filter(|status| *status == 200)
        .count();
    assert_eq!(passed, 3);
    // One that is given up is counted out, too.
    for _ in 0..5 {
        let given_up = tokio::time::timeout(Duration::from_millis(10), ask(&sentinel, "/i", 100, 200)).await;
        assert!(given_up.is_err());
    }
    assert_eq!(ask(&sentinel, "/i", 0, 200).await, 200);
}

#[tokio::test(start_paused = true)]
async fn slow_answers_open_the_circuit_and_a_quick_one_closes_it() {
    let rules = r#"[{"resource":"GET:/s","strategy":0,"maxAllowedRtMs":50,"threshold":0.5,"minRequestAmount":4,
        "statIntervalMs":10000,"retryTimeoutMs":3000}]"#;
    let sentinel = sentinel("circuitBreakerRules", rules);
    for _ in 0..3 {
        assert_eq!(ask(&sentinel, "/s", 100, 200).await, 200);
    }
    assert_eq!(ask(&sentinel, "/s", 0, 200).await, 200, "too few so far");
    assert_eq!(ask(&sentinel, "/s", 0, 200).await, 429);
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(ask(&sentinel, "/s", 100, 200).await, 200, "the probe");
    assert_eq!(ask(&sentinel, "/s", 0, 200).await, 429, "it was slow");
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(ask(&sentinel, "/s", 0, 200).await, 200);
    assert_eq!(passing(&sentinel, "/s", 20).await, 20);
}

/// A request in a task of its own, begun when this returns.
async fn begin(sentinel: &Arc<Sentinel>, path: &'static str, millis: u64) -> tokio::task::JoinHandle<u16> {
    let sentinel = sentinel.clone();
    let asking = tokio::spawn(async move { ask(&sentinel, path, millis, 200).await });
    tokio::task::yield_now().await;
    asking
}

#[tokio::test(start_paused = true)]
async fn one_request_finds_out_while_the_others_are_refused() {
    let slow = r#"{"resource":"GET:/p","strategy":0,"maxAllowedRtMs":50,"threshold":0.5,"minRequestAmount":1,
        "statIntervalMs":10000,"retryTimeoutMs":3000}"#;
    let sentinel = sentinel("circuitBreakerRules", &format!("[{slow}]"));
    assert_eq!(ask(&sentinel, "/p", 100, 200).await, 200);
    tokio::time::advance(Duration::from_secs(3)).await;
    let probe = begin(&sentinel, "/p", 40).await;
    assert_eq!(passing(&sentinel, "/p", 20).await, 0, "the probe is on its way");
    assert_eq!(probe.await.unwrap(), 200);
    assert_eq!(passing(&sentinel, "/p", 20).await, 20, "it was quick");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_another_breaker_refuses_is_no_probe() {
    let rule = |retry: u32| {
        format!(
            r#"{{"resource":"GET:/p","strategy":0,"maxAllowedRtMs":50,"threshold":0.5,"minRequestAmount":1,
        "statIntervalMs":100000,"retryTimeoutMs":{retry}}}"#
        )
    };
    let sentinel = sentinel("circuitBreakerRules", &format!("[{},{}]", rule(1000), rule(5000)));
    assert_eq!(ask(&sentinel, "/p", 100, 200).await, 200);
    // The first would let somebody find out, the second does not.
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(passing(&sentinel, "/p", 3).await, 0);
    tokio::time::advance(Duration::from_secs(4)).await;
    let probe = begin(&sentinel, "/p", 40).await;
    assert_eq!(passing(&sentinel, "/p", 3).await, 0);
    assert_eq!(probe.await.unwrap(), 200);
    assert_eq!(passing(&sentinel, "/p", 5).await, 5);
}

#[tokio::test(start_paused = true)]
async fn errors_open_the_circuit_by_ratio_and_by_number() {
    let ratio = r#"[{"resource":"GET:/e","strategy":1,"threshold":0.4,"minRequestAmount":5,"statIntervalMs":1000,
        "retryTimeoutMs":1000}]"#;
    let by_ratio = sentinel("circuitBreakerRules", ratio);
    let number =
        r#"[{"resource":"GET:/e","strategy":2,"threshold":3,"statIntervalMs":1000,"retryTimeoutMs":1000}]"#;
    let by_number = sentinel("circuitBreakerRules", number);
    for (sentinel, statuses) in [
        (by_ratio, [200, 404, 500, 503, 500]),
        (by_number, [500, 200, 503, 404, 502]),
    ] {
        for status in statuses {
            assert_eq!(ask(&sentinel, "/e", 0, status).await, status);
        }
        assert_eq!(ask(&sentinel, "/e", 0, 200).await, 429);
    }
}

#[tokio::test(start_paused = true)]
async fn rules_about_the_whole_sidecar_count_every_path() {
    let second = sentinel("systemRules", r#"[{"metricType":3,"triggerCount":4}]"#);
    let passed = passing(&second, "/a", 3).await + passing(&second, "/b", 3).await;
    assert_eq!(passed, 4);
    let slow = sentinel("systemRules", r#"[{"metricType":1,"triggerCount":50}]"#);
    assert_eq!(ask(&slow, "/a", 100, 200).await, 200);
    assert_eq!(ask(&slow, "/b", 0, 200).await, 429);
    tokio::time::advance(Duration::from_millis(1500)).await;
    assert_eq!(ask(&slow, "/b", 0, 200).await, 200);
    let machine = sentinel(
        "systemRules",
        r#"[{"metricType":0,"triggerCount":100000},{"metricType":4,"triggerCount":1}]"#,
    );
    assert_eq!(passing(&machine, "/a", 20).await, 20);
}

#[test]
fn what_is_no_rule_is_named() {
    for (name, rules, expected) in [
        ("flowRules", "{", "flowRules is no JSON list"),
        (
            "flowRules",
            r#"[{"threshold":1}]"#,
            "flowRules[0]: resource is empty",
        ),
        (
            "flowRules",
            r#"[{"resource":"a"},{"resource":"b","tokenCalculateStrategy":2}]"#,
            "flowRules[1]: tokenCalculateStrategy",
        ),
        (
            "flowRules",
            r#"[{"resource":"a","tokenCalculateStrategy":1}]"#,
            "warmUpPeriodSec",
        ),
        (
            "isolationRules",
            r#"[{"resource":"a"}]"#,
            "threshold must be above zero",
        ),
        (
            "circuitBreakerRules",
            r#"[{"resource":"a","threshold":7}]"#,
            "ratio",
        ),
        ("systemRules", r#"[{"metricType":9}]"#, "metricType"),
        ("hotSpotParamRules", "7", "hotSpotParamRules"),
    ] {
        let error = Sentinel::new(&init_context("sentinel", [(name, rules)]))
            .unwrap_err()
            .0;
        assert!(error.contains(expected), "{error}");
    }
    let without = Sentinel::new(&init_context("sentinel", [("hotSpotParamRules", "[{}]")])).unwrap();
    assert!(without.resources.is_empty() && without.system.is_none());
}
