//! Every recorded admission, answered without a network. What the webhook's HTTP and the webhook object look like is in
//! `e2e/tests/injector.rs`.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::HashMap;
use std::path::Path;

use base64::Engine as _;
use outrigger_injector::patch::{ComponentContainer, Situation};
use outrigger_injector::review::Review;
use outrigger_injector::settings::Settings;
use serde_json::{Value, json};

/// Cases that are about HTTP or the API server, not about an admission; the end-to-end test has them.
const ELSEWHERE: &[&str] = &[
    "raw-charset",
    "raw-empty",
    "raw-get",
    "raw-root",
    "raw-text",
    "webhook-ca",
];

/// Cases where we answer otherwise, and why.
const EXCEPTIONS: &[(&str, &str)] = &[
    (
        "raw-empty-object",
        "the reference closes the connection; we refuse with a text",
    ),
    (
        "raw-other-kind",
        "the reference closes the connection; we refuse with a text",
    ),
    (
        "inject-plug-novol-plug",
        "the reference replaces the pod's volumes with a second add; we append",
    ),
    (
        "ann-pluggable-components-2-web-db",
        "the reference replaces the pod's volumes with a second add; we append",
    ),
];

fn cases() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden");
    (1..=4)
        .flat_map(|n| {
            let text = std::fs::read_to_string(folder.join(format!("injector-{n}.json"))).unwrap();
            serde_json::from_str::<Vec<Value>>(&text).unwrap()
        })
        .collect()
}

fn settings(case: &Value) -> Settings {
    let env: HashMap<String, String> = serde_json::from_value(case["setup"]["injector_env"].clone()).unwrap();
    let flags = case["setup"]["injector_flags"].to_string();
    Settings::read(
        |name| env.get(name).cloned(),
        !flags.contains("--scheduler-enabled=false"),
    )
    .unwrap()
}

fn components(case: &Value, namespace: &str) -> Vec<ComponentContainer> {
    let mut found: Vec<ComponentContainer> = case["setup"]["components"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|component| component["metadata"]["namespace"] == namespace)
        .filter_map(|component| {
            let text = component.pointer("/metadata/annotations/dapr.io~1component-container")?;
            Some(ComponentContainer {
                component: component["metadata"]["name"].as_str()?.to_owned(),
                scopes: serde_json::from_value(component["scopes"].clone()).unwrap_or_default(),
                container: text.as_str()?.to_owned(),
            })
        })
        .collect();
    // The API server lists by name.
    found.sort_by(|a, b| a.component.cmp(&b.component));
    found
}

fn answer(case: &Value, body: &[u8]) -> Value {
    let settings = settings(case);
    let review = match Review::read(body) {
        Ok(review) => review,
        Err(answer) => return answer.body,
    };
    let components = components(case, review.namespace());
    let wanted = review.wanted(&settings.allowed);
    let situation = Situation {
        settings: &settings,
        namespace: review.namespace(),
        trust_anchors: "<cert-pem>",
        mtls: case["setup"]["mtls_enabled"].as_bool().unwrap_or(true),
        native_supported: true,
        components: &components,
    };
    let answer = match wanted {
        Ok(wanted) => {
            let listed = if wanted.wants_components() {
                &components[..]
            } else {
                &[]
            };
            wanted.answer(&Situation {
                components: listed,
                ..situation
            })
        }
        Err(answer) => answer,
    };
    let mut body = answer.body;
    if let Some(patch) = body.pointer_mut("/response/patch") {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(patch.as_str().unwrap())
            .unwrap();
        *patch = serde_json::from_slice(&bytes).unwrap();
    }
    // Ours alone: advice for whoever creates the pod.
    if let Some(response) = body["response"].as_object_mut() {
        response.remove("warnings");
    }
    body
}

/// Texts of Go's JSON library need not be equal.
fn loosen(mut body: Value) -> Value {
    if let Some(message) = body.pointer_mut("/response/status/message")
        && let Some(text) = message.as_str()
    {
        for start in [
            "could not unmarshal raw object: ",
            "couldn't get version/kind; json parse error: ",
        ] {
            if text.starts_with(start) {
                *message = json!(start);
                break;
            }
        }
    }
    body
}

#[test]
fn recorded_admissions_are_answered_alike() {
    let (mut passed, mut failed) = (0, Vec::new());
    for case in cases() {
        let id = case["id"].as_str().unwrap().to_owned();
        if ELSEWHERE.contains(&id.as_str()) || EXCEPTIONS.iter().any(|(name, _)| id == *name) {
            continue;
        }
        for step in case["steps"].as_array().unwrap() {
            let send = &step["send"];
            let body = match send.get("text") {
                Some(text) => text.as_str().unwrap().to_owned(),
                None => send["body"].to_string(),
            };
            let got = loosen(answer(&case, body.as_bytes()));
            let want = loosen(step["got"]["body"].clone());
            if got == want {
                passed += 1;
            } else {
                failed.push(format!("{id}:\n got {got}\nwant {want}"));
            }
        }
    }
    assert!(
        failed.is_empty(),
        "{} failed, {passed} passed\n{}",
        failed.len(),
        failed.join("\n")
    );
    assert!(passed >= 205, "only {passed} cases ran");
}

#[test]
fn exceptions_still_differ_and_are_safe() {
    for case in cases() {
        let id = case["id"].as_str().unwrap().to_owned();
        let Some((_, reason)) = EXCEPTIONS.iter().find(|(name, _)| id == *name) else {
            continue;
        };
        let step = &case["steps"][0];
        let body = step["send"]
            .get("text")
            .and_then(Value::as_str)
            .map_or_else(|| step["send"]["body"].to_string(), str::to_owned);
        let got = answer(&case, body.as_bytes());
        if reason.contains("connection") {
            assert_eq!(got["response"]["allowed"], false, "{id}");
        } else {
            // No operation may replace the list of volumes once it is there.
            let operations = got["response"]["patch"].as_array().unwrap();
            let adds = operations
                .iter()
                .filter(|operation| operation["path"] == "/spec/volumes")
                .count();
            assert!(adds <= 1, "{id}: {operations:?}");
            assert_ne!(got, step["got"]["body"], "{id} needs no exception: {reason}");
        }
    }
}
