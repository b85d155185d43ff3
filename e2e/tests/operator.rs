//! The operator against a real API server: every recorded vector (`operator.json`, `operator-services.json`), and what
//! happens when the API server or the operator goes away. Certificates come from a test authority in the process.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "operator/calls.rs"]
mod calls;
#[path = "operator/stage.rs"]
mod stage;

use std::time::Duration;

use serde_json::{Value, json};

use calls::{Caller, Stream};
use stage::{Stage, cases, eventually, normalised};

/// Cases where we answer otherwise, and why.
const EXCEPTIONS: &[(&str, &str)] = &[(
    "stream-component-secret-gone",
    "the reference ends the stream for a missing Secret; here the others are told, and this one once its Secret is there",
)];
/// How long nothing must come where nothing is recorded.
const SILENCE: Duration = Duration::from_millis(600);

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// Applies every object that some case takes for granted.
fn setup(stage: &Stage, cases: &[Value]) {
    let mut objects: Vec<Value> = Vec::new();
    for case in cases {
        for field in ["resources", "secrets"] {
            for object in case["setup"][field].as_array().into_iter().flatten() {
                if !objects.contains(object) {
                    objects.push(object.clone());
                }
            }
        }
    }
    for object in objects {
        stage.kube.apply(&object.to_string());
    }
}

#[tokio::test]
async fn every_recorded_call_and_stream_is_answered_alike() {
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::start(dir.path()).await;
    let cases = cases("operator.json");
    setup(&stage, &cases);
    let web = stage.caller("spiffe://public/ns/shop/web").await;
    let asked = json!({"namespace": "shop"});
    eventually("the caches have the last object", async || {
        let listed = web.call("ListSubscriptionsV2", &asked).await;
        listed["response"]["subscriptions"].as_array().map_or(0, Vec::len) == 1
    })
    .await;
    let mut wrong = Vec::new();
    for case in &cases {
        let id = text(case, "id");
        let exception = EXCEPTIONS.iter().find(|(name, _)| *name == id);
        let found = match case["setup"]["caller"].as_str() {
            None => stage.refuses_strangers().await,
            Some(caller) => replay(&stage, &stage.caller(caller).await, case).await,
        };
        match (found, exception) {
            (Ok(()), None) | (Err(_), Some(_)) => {}
            (Ok(()), Some(_)) => wrong.push(format!("{id}: passes, so it is no exception")),
            (Err(why), None) => wrong.push(format!("{id}: {why}")),
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    assert_eq!(cases.len(), 68);
}

async fn replay(stage: &Stage, caller: &Caller, case: &Value) -> Result<(), String> {
    let mut stream = None;
    if let Some(rpc) = case["setup"]["stream"].as_str() {
        stream = Some(caller.follow(rpc, &case["setup"]["request"]).await);
    }
    for step in case["steps"].as_array().into_iter().flatten() {
        let (send, want) = (&step["send"], &step["got"]);
        let got = if let Some(stream) = &mut stream {
            for (verb, object) in send.as_object().into_iter().flatten() {
                match verb.as_str() {
                    "apply" => stage.kube.apply(&object.to_string()),
                    "delete" => drop(stage.kube.kubectl(&["delete", "-f", "-"], &object.to_string())),
                    _ => {}
                }
            }
            let wanted = want["events"].as_array().map_or(0, Vec::len);
            json!({"events": events(stream, wanted).await})
        } else {
            caller.call(text(send, "rpc"), &send["request"]).await
        };
        let got = normalised(got);
        if got != *want {
            return Err(format!("{send}\n  want {want}\n  have {got}"));
        }
    }
    Ok(())
}

/// As many events as are wanted; none must come where none is.
async fn events(stream: &mut Stream, wanted: usize) -> Vec<Value> {
    let mut events = Vec::new();
    while events.len() < wanted {
        match tokio::time::timeout(Duration::from_secs(20), stream.next()).await {
            Ok(event) => events.push(event),
            Err(_) => return events,
        }
    }
    if wanted == 0
        && let Ok(event) = tokio::time::timeout(SILENCE, stream.next()).await
    {
        events.push(event);
    }
    events
}

#[tokio::test]
async fn every_recorded_workload_gets_its_service() {
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::start(dir.path()).await;
    let mut wrong = Vec::new();
    for case in cases("operator-services.json") {
        let mut workload = case["setup"]["start_with"].clone();
        if workload.is_object() {
            stage.kube.apply(&workload.to_string());
            eventually("the first Service is there", async || {
                stage
                    .services(&workload)
                    .as_array()
                    .is_some_and(|all| !all.is_empty())
            })
            .await;
        }
        for step in case["steps"].as_array().into_iter().flatten() {
            let send = &step["send"];
            if send["apply"].is_object() {
                workload = send["apply"].clone();
            }
            let annotations = &mut workload["spec"]["template"]["metadata"]["annotations"];
            for (key, value) in send["set_template_annotations"].as_object().into_iter().flatten() {
                annotations[key] = value.clone();
            }
            stage.kube.apply(&workload.to_string());
            let want = &step["got"]["services"];
            let deadline = std::time::Instant::now() + Duration::from_secs(20);
            let is_none_wanted = want.as_array().is_some_and(Vec::is_empty);
            if is_none_wanted {
                tokio::time::sleep(SILENCE).await;
            }
            let mut got = stage.services(&workload);
            while got != *want && !is_none_wanted && std::time::Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(100)).await;
                got = stage.services(&workload);
            }
            if got != *want {
                wrong.push(format!("{} {send}\n  want {want}\n  have {got}", case["id"]));
            }
        }
        stage.forget(&workload);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // A Service that somebody changed or deleted is brought back.
    let workload = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "w", "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"app": "w"}}, "template": {"metadata": {"labels": {"app": "w"},
            "annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": "web"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    stage.kube.apply(&workload.to_string());
    let ports = |services: &Value| services[0]["spec"]["ports"].as_array().map_or(0, Vec::len);
    eventually("the Service", async || ports(&stage.services(&workload)) == 4).await;
    for spoil in [
        vec![
            "patch",
            "service",
            "web-dapr",
            "-n",
            "shop",
            "--type=json",
            "-p",
            "[{\"op\":\"remove\",\"path\":\"/spec/ports/3\"}]",
        ],
        vec!["delete", "service", "web-dapr", "-n", "shop"],
    ] {
        stage.kube.kubectl(&spoil, "").unwrap();
        eventually("the Service is back", async || {
            ports(&stage.services(&workload)) == 4
        })
        .await;
    }
}

fn component(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: dapr.io/v1alpha1, kind: Component, metadata: {{name: {name}, namespace: shop}}, spec: {spec}}}\n"
    )
}

#[tokio::test]
async fn nobody_notices_that_the_api_server_or_the_operator_was_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut stage = Stage::start(dir.path()).await;
    let web = stage.caller("spiffe://public/ns/shop/web").await;
    let asked = json!({"namespace": "shop"});
    let names = async |web: &Caller| -> Vec<String> {
        let listed = web.call("ListComponents", &asked).await;
        let listed = listed["response"]["components"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        listed
            .iter()
            .map(|one| text(&one["metadata"], "name").to_owned())
            .collect()
    };
    stage.kube.apply(&component(
        "a",
        "{type: state.x, version: v1, metadata: [{name: p, secretKeyRef: {name: s, key: k}}]}",
    ));
    // A missing Secret fails a list by name, and lets a stream go on.
    eventually("the list fails for the missing Secret", async || {
        let listed = web.call("ListComponents", &asked).await;
        text(&listed["error"], "message").contains("Secret shop/s not found")
    })
    .await;
    let mut stream = web.follow("ComponentUpdate", &asked).await;
    stage
        .kube
        .apply(&component("b", "{type: state.x, version: v1, metadata: []}"));
    let told = stream.within().await;
    assert_eq!(text(&told["component"]["metadata"], "name"), "b");
    stage
        .kube
        .apply("{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: shop}, stringData: {k: v}}");
    eventually("the list has both", async || names(&web).await == ["a", "b"]).await;

    // The API server stands still: what is known is still told.
    stage.kube.process().signal("STOP");
    for _ in 0..5 {
        assert_eq!(names(&web).await, ["a", "b"]);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    stage.kube.process().signal("CONT");
    stage
        .kube
        .apply(&component("c", "{type: state.x, version: v1, metadata: []}"));
    let told = stream.within().await;
    assert_eq!(
        (text(&told["component"]["metadata"], "name"), text(&told, "type")),
        ("c", "CREATED")
    );

    // The operator is killed and comes back at the same place: the same connection finds it again.
    let holder = [
        "get",
        "lease",
        "operator.dapr.io",
        "-n",
        "dapr-system",
        "-o",
        "jsonpath={.spec.holderIdentity}",
    ];
    let mut killed = String::new();
    eventually("a replica leads", async || {
        killed = stage.kube.kubectl(&holder, "").unwrap_or_default();
        !killed.is_empty()
    })
    .await;
    stage.restart().await;
    let ended = stream.within().await;
    assert!(ended.get("end").is_some(), "{ended}");
    eventually("the new operator answers", async || {
        names(&web).await == ["a", "b", "c"]
    })
    .await;
    let mut stream = web.follow("ComponentUpdate", &asked).await;
    stage
        .kube
        .kubectl(&["delete", "component", "c", "-n", "shop"], "")
        .unwrap();
    let told = stream.within().await;
    assert_eq!(
        (text(&told["component"]["metadata"], "name"), text(&told, "type")),
        ("c", "DELETED")
    );

    // The lease of the one that was killed runs out, and is the new one's.
    eventually("the new operator leads", async || {
        let leads = stage.kube.kubectl(&holder, "").unwrap_or_default();
        !leads.is_empty() && leads != killed
    })
    .await;
    // In order, and the lease is given back.
    stage.operator.terminate();
    let status = stage.operator.wait_exit(Duration::from_secs(20)).await;
    assert_eq!(
        status.and_then(|status| status.code()),
        Some(0),
        "{}",
        stage.operator.log_tail()
    );
    assert_eq!(stage.kube.kubectl(&holder, "").unwrap(), "");
}
