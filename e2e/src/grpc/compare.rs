//! Recorded against observed, in words. What we observed is first written the way the recorder wrote it; texts are
//! then compared with the placeholders of the HTTP vectors, and those of these vectors besides.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::frame::unbase64;
use crate::http::compare::{Context, json};
use crate::http::pattern::Values;

/// Lists in metadata answers whose order says nothing.
const SORTED: [&str; 5] = [
    "enabled_features",
    "registered_components",
    "subscriptions",
    "active_actors",
    "active_actors_count",
];
/// Texts of the operating system or of Go's transport: where a message has one, only its code binds.
const SYSTEM_TEXTS: [&str; 6] = [
    "connection refused",
    "no such host",
    "connection reset",
    "broken pipe",
    "i/o timeout",
    "connection error: desc =",
];

/// Compares what came back from one step.
#[must_use]
pub fn got(values: &Values, expected: &Value, actual: &Value) -> Vec<String> {
    let mut expected = expected.clone();
    let mut actual = actual.clone();
    let by_code = expected["message"]
        .as_str()
        .is_some_and(|m| SYSTEM_TEXTS.iter().any(|t| m.contains(t)));
    if by_code {
        for side in [&mut expected, &mut actual] {
            if let Some(members) = side.as_object_mut() {
                members.remove("message");
            }
        }
    }
    let differences = compare(values, "got", &expected, &actual);
    if differences.is_empty() || by_code {
        return differences;
    }
    with_status(differences, &expected, &actual)
}

/// Compares the calls the apps got: in order, or as a set.
#[must_use]
pub fn calls(values: &Values, expected: &[Value], actual: &[Value], unordered: bool) -> Vec<String> {
    let mut actual = actual.to_vec();
    join_as_recorded(expected, &mut actual);
    let actual = &actual[..];
    if !unordered {
        return compare(
            values,
            "app_received",
            &Value::Array(expected.to_vec()),
            &Value::Array(actual.to_vec()),
        );
    }
    let mut left: Vec<&Value> = actual.iter().collect();
    let mut differences = Vec::new();
    for call in expected {
        let found = left.iter().position(|a| compare(values, "", call, a).is_empty());
        match found {
            Some(at) => {
                left.remove(at);
            }
            None => differences.push(format!("app_received: missing {call}")),
        }
    }
    differences.extend(left.iter().map(|call| format!("app_received: too many {call}")));
    differences
}

/// A body that was recorded in several pieces may have come in one.
fn join_as_recorded(expected: &[Value], actual: &mut [Value]) {
    for (expected, actual) in expected.iter().zip(actual) {
        let joined = |messages: &[Value]| messages.iter().any(|m| m.get("payloads_joined").is_some());
        let recorded = expected.get("messages").and_then(Value::as_array);
        let seen = actual.get_mut("messages").and_then(Value::as_array_mut);
        if let (Some(recorded), Some(seen)) = (recorded, seen)
            && joined(recorded)
            && !joined(seen)
        {
            *seen = super::payload::join_all(std::mem::take(seen));
        }
    }
}

fn compare(values: &Values, at: &str, expected: &Value, actual: &Value) -> Vec<String> {
    let mut expected = expected.clone();
    sort(&mut expected);
    let mut actual = actual.clone();
    sort(&mut actual);
    rewrite(&expected, &mut actual);
    let context = Context {
        values,
        unordered: false,
    };
    json(context, at, &expected, &actual)
}

/// When the code differs, the message says why: it goes into the words even if it is expected to be absent.
fn with_status(mut differences: Vec<String>, expected: &Value, actual: &Value) -> Vec<String> {
    if expected["code"] != actual["code"]
        && let Some(message) = actual["message"].as_str()
    {
        differences.push(format!("(the message was {message:?})"));
    }
    differences
}

fn sort(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(sort),
        Value::Object(members) => {
            for (name, member) in members {
                sort(member);
                if let Value::Array(items) = member
                    && SORTED.contains(&name.as_str())
                {
                    items.sort_by_key(Value::to_string);
                }
            }
        }
        _ => {}
    }
}

/// Writes the parts of `actual` the way the recorder wrote the same parts of `expected`.
fn rewrite(expected: &Value, actual: &mut Value) {
    match (expected, actual) {
        (Value::String(text), actual) => {
            if ["<any>", "<user-agent>", "<ignored>"].contains(&text.as_str()) {
                *actual = expected.clone();
            } else if let Some(seen) = actual.as_str().and_then(|seen| rewrite_text(text, seen)) {
                *actual = seen.into();
            }
        }
        (Value::Array(e), Value::Array(a)) => e.iter().zip(a).for_each(|(e, a)| rewrite(e, a)),
        (Value::Object(e), Value::Object(a)) => {
            for (name, member) in a {
                if let Some(expected) = e.get(name) {
                    rewrite(expected, member);
                }
            }
        }
        _ => {}
    }
}

fn rewrite_text(expected: &str, actual: &str) -> Option<String> {
    if expected.starts_with("text:") {
        let decoded = String::from_utf8(unbase64(actual)?).ok()?;
        return Some(format!("text:{decoded}"));
    }
    if expected.starts_with("<base64 ") {
        return Some(format!("<base64 {} bytes>", unbase64(actual)?.len()));
    }
    if expected.starts_with('<') && expected.contains(" characters, sha256 ") {
        let digest = Sha256::digest(actual.as_bytes());
        let digest: String = digest.iter().map(|b| format!("{b:02x}")).collect();
        return Some(format!(
            "<{} characters, sha256 {digest}>",
            actual.chars().count()
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn differ(expected: Value, actual: Value) -> bool {
        !got(&Values::default(), &expected, &actual).is_empty()
    }

    #[test]
    fn equal_is_equal_and_every_difference_is_found() {
        let got = json!({"code": "OK", "response": {"data": "eA=="}, "headers": {"x": ["1", "2"]}});
        assert!(!differ(got.clone(), got.clone()));
        for other in [
            json!({"code": "INTERNAL", "response": {"data": "eA=="}, "headers": {"x": ["1", "2"]}}),
            json!({"code": "OK", "response": {"data": "eB=="}, "headers": {"x": ["1", "2"]}}),
            json!({"code": "OK", "response": {"data": "eA==", "etag": ""}, "headers": {"x": ["1", "2"]}}),
            json!({"code": "OK", "response": {"data": "eA=="}, "headers": {"x": ["2", "1"]}}),
            json!({"code": "OK", "response": {"data": "eA=="}}),
        ] {
            assert!(differ(got.clone(), other));
        }
    }

    #[test]
    fn abbreviated_values_are_compared_in_full() {
        let long = "z".repeat(100_000);
        let short =
            "<100000 characters, sha256 7e9470bdc2048db4667681aed70b1dd034b5310feac2f34e96220565d47638b2>";
        assert!(!differ(json!({"m": short}), json!({"m": long})));
        assert!(differ(json!({"m": short}), json!({"m": "y".repeat(100_000)})));
        assert!(!differ(json!("text:{\"id\":\"<uuid>\"}"), {
            let id = "{\"id\":\"123e4567-e89b-12d3-a456-426614174000\"}";
            json!(super::super::frame::base64(id.as_bytes()))
        }));
        assert!(differ(json!("text:a"), json!("Yg==")));
        assert!(!differ(json!("<base64 2 bytes>"), json!("AAA=")));
        assert!(differ(json!("<base64 2 bytes>"), json!("AAAA")));
        assert!(!differ(
            json!({"user-agent": "<user-agent>"}),
            json!({"user-agent": {"values": ["me"]}})
        ));
    }

    #[test]
    fn lists_of_the_metadata_are_sorted_and_other_lists_are_not() {
        let list = |name: &str, a: &str, b: &str| json!({name: [{"name": a}, {"name": b}]});
        assert!(!differ(
            list("registered_components", "a", "b"),
            list("registered_components", "b", "a")
        ));
        assert!(differ(list("items", "a", "b"), list("items", "b", "a")));
    }

    #[test]
    fn texts_of_the_system_do_not_bind_but_the_code_does() {
        let refused = |code: &str, text: &str| json!({"code": code, "message": text});
        let recorded = refused(
            "UNAVAILABLE",
            "connection error: desc = \"dial tcp: connect: connection refused\"",
        );
        assert!(!differ(recorded.clone(), refused("UNAVAILABLE", "other words")));
        assert!(differ(recorded, refused("INTERNAL", "other words")));
        assert!(differ(refused("INTERNAL", "a"), refused("INTERNAL", "b")));
    }

    #[test]
    fn a_body_recorded_in_pieces_may_come_in_one() {
        let joined = json!({"data": "YQ==", "seq_consecutive_from_zero": true});
        let recorded = json!({"messages": [{"request": {}}, {"payloads_joined": joined}]});
        let seen = json!({"messages": [{"request": {}, "payload": {"data": "YQ=="}}]});
        assert!(
            calls(
                &Values::default(),
                std::slice::from_ref(&recorded),
                &[seen],
                false
            )
            .is_empty()
        );
        let other = json!({"messages": [{"request": {}, "payload": {"data": "Yg=="}}]});
        assert!(!calls(&Values::default(), &[recorded], &[other], false).is_empty());
    }

    #[test]
    fn calls_count_in_order_or_as_a_set() {
        let values = Values::default();
        let one = json!({"call": "A", "id": "<uuid>"});
        let two = json!({"call": "B"});
        let seen_one = json!({"call": "A", "id": "123e4567-e89b-12d3-a456-426614174000"});
        let expected = [one, two.clone()];
        let swapped = [two.clone(), seen_one.clone()];
        assert!(!calls(&values, &expected, &swapped, false).is_empty());
        assert!(calls(&values, &expected, &swapped, true).is_empty());
        assert_eq!(calls(&values, &expected, &[two.clone(), two], true).len(), 2);
        assert!(calls(&values, &expected, &[seen_one], false).len() == 1);
    }
}
