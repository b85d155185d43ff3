//! Recorded against observed. Every function returns the differences in words; no words mean no difference.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::app::Call;
use super::client::Answer;
use super::pattern::Values;

/// Headers of an answer that say nothing about behaviour.
const ANSWER_LEFT_OUT: [&str; 4] = ["date", "content-length", "connection", "transfer-encoding"];
/// Headers of a call to the app that say nothing about behaviour.
const CALL_LEFT_OUT: [&str; 4] = ["host", "content-length", "connection", "transfer-encoding"];
/// How much of a text is shown in a difference.
const SHOWN: usize = 1500;

/// What comparisons need to know about the case.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Values of this run.
    pub values: &'a Values,
    /// The order of array elements and repeated headers does not count.
    pub unordered: bool,
}

/// Compares a recorded `got` of an HTTP request with what came.
#[must_use]
pub fn answer(context: Context<'_>, got: &Value, actual: &Result<Answer, String>) -> Vec<String> {
    let actual = match actual {
        Ok(actual) if got.get("error").is_some() => {
            return vec![format!("expected no HTTP answer, got {actual:?}")];
        }
        Err(_) if got.get("error").is_some() => return Vec::new(),
        Err(problem) => return vec![format!("no HTTP answer: {problem}")],
        Ok(actual) => actual,
    };
    let mut out = Vec::new();
    if got["status"] != actual.status {
        out.push(format!(
            "status: expected {}, got {}",
            got["status"], actual.status
        ));
    }
    out.extend(headers(
        context,
        &got["headers"],
        &actual.headers,
        &ANSWER_LEFT_OUT,
    ));
    let loose = got["loose"]
        .as_array()
        .is_some_and(|l| l.contains(&Value::from("body.message")));
    if loose {
        out.extend(error_code(got, &actual.body));
    } else {
        out.extend(body(context, got, &actual.body));
    }
    if !out.is_empty() && actual.status >= 400 && !loose {
        out.push(format!(
            "(body was {})",
            show(&String::from_utf8_lossy(&actual.body))
        ));
    }
    out
}

/// In a loose body only the error code binds.
fn error_code(got: &Value, actual: &[u8]) -> Vec<String> {
    let code = |text: &[u8]| {
        serde_json::from_slice::<Value>(text)
            .ok()
            .map(|v| v["errorCode"].clone())
    };
    let expected = code(got["body"].as_str().unwrap_or_default().as_bytes());
    let actual_code = code(actual);
    if expected == actual_code {
        return Vec::new();
    }
    vec![format!(
        "errorCode: expected {expected:?}, got {}",
        show(&String::from_utf8_lossy(actual))
    )]
}

/// Compares the calls the apps got with the recorded ones, as a set. `once`: equal calls were listed once.
#[must_use]
pub fn calls(context: Context<'_>, expected: &[Value], actual: &[Call], once: bool) -> Vec<String> {
    let differences: Vec<Vec<Vec<String>>> = expected
        .iter()
        .map(|e| actual.iter().map(|a| call(context, e, a)).collect())
        .collect();
    let fits = |e: usize, a: usize| differences[e][a].is_empty();
    let (missing, extra): (Vec<usize>, Vec<usize>) = if once {
        let missing = (0..expected.len())
            .filter(|&e| !(0..actual.len()).any(|a| fits(e, a)))
            .collect();
        let extra = (0..actual.len())
            .filter(|&a| !(0..expected.len()).any(|e| fits(e, a)))
            .collect();
        (missing, extra)
    } else {
        unmatched(expected.len(), actual.len(), &fits)
    };
    if let ([e], [a]) = (missing.as_slice(), extra.as_slice()) {
        return differences[*e][*a]
            .iter()
            .map(|d| format!("call to the app: {d}"))
            .collect();
    }
    let missing = missing
        .into_iter()
        .map(|e| format!("call to the app missing: {}", show(&expected[e].to_string())));
    let extra = extra
        .into_iter()
        .map(|a| format!("call to the app too many: {}", show(&actual[a].describe())));
    missing.chain(extra).collect()
}

fn call(context: Context<'_>, expected: &Value, actual: &Call) -> Vec<String> {
    let mut out = Vec::new();
    let mut text = |what: &str, expected: Option<&str>, actual: &str| {
        if expected.is_some_and(|e| !context.values.matches(e, actual)) {
            out.push(format!("{what}: expected {expected:?}, got {actual:?}"));
        }
    };
    text("app", expected["app"].as_str(), &actual.app);
    text("method", expected["method"].as_str(), &actual.method);
    text("path", expected["path"].as_str(), &actual.path);
    let observed: Vec<(String, String)> = actual
        .headers
        .iter()
        .filter(|h| !of_the_client(h))
        .cloned()
        .collect();
    out.extend(headers(context, &expected["headers"], &observed, &CALL_LEFT_OUT));
    out.extend(body(context, expected, &actual.body));
    out
}

/// Headers an HTTP client adds by itself, which depend on the client.
fn of_the_client((name, value): &(String, String)) -> bool {
    match name.as_str() {
        "user-agent" => ["Go-http-client/", "dapr", "outrigger"]
            .iter()
            .any(|p| value.starts_with(p)),
        "accept-encoding" => value == "gzip",
        _ => false,
    }
}

fn headers(
    context: Context<'_>,
    expected: &Value,
    actual: &[(String, String)],
    left_out: &[&str],
) -> Vec<String> {
    let mut expected_values: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, value) in expected.as_object().into_iter().flatten() {
        let values = value
            .as_array()
            .map_or_else(|| vec![value], |list| list.iter().collect());
        expected_values.insert(name, values.into_iter().filter_map(Value::as_str).collect());
    }
    let mut actual_values: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, value) in actual
        .iter()
        .filter(|(name, _)| !left_out.contains(&name.as_str()))
    {
        actual_values.entry(name).or_default().push(value);
    }
    let names: BTreeSet<&&str> = expected_values.keys().chain(actual_values.keys()).collect();
    let mut out = Vec::new();
    for name in names {
        match (expected_values.get(*name), actual_values.get(*name)) {
            (Some(e), None) => out.push(format!("header {name} missing: expected {e:?}")),
            (None, Some(a)) => out.push(format!("header {name} too many: {a:?}")),
            (Some(e), Some(a)) if !same_header(context, e, a) => {
                out.push(format!("header {name}: expected {e:?}, got {a:?}"));
            }
            _ => {}
        }
    }
    out
}

fn same_header(context: Context<'_>, expected: &[&str], actual: &[&str]) -> bool {
    let fits = |e: usize, a: usize| context.values.matches(expected[e], actual[a]);
    expected.len() == actual.len()
        && if context.unordered {
            unmatched(expected.len(), actual.len(), &fits).0.is_empty()
        } else {
            (0..expected.len()).all(|i| fits(i, i))
        }
}

/// Compares a body with the members `body`, `body_b64` or `body_sha256` + `body_len` of `expected`.
#[must_use]
pub fn body(context: Context<'_>, expected: &Value, actual: &[u8]) -> Vec<String> {
    if let Some(digest) = expected["body_sha256"].as_str() {
        let actual_digest: String = Sha256::digest(actual)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        if expected["body_len"] == actual.len() && digest == actual_digest {
            return Vec::new();
        }
        let length = &expected["body_len"];
        return vec![format!(
            "body: expected {length} bytes, sha256 {digest}; got {}, {actual_digest}",
            actual.len()
        )];
    }
    if let Some(encoded) = expected["body_b64"].as_str() {
        let bytes = super::vector::unbase64(encoded).expect("a vector's base64 is right");
        return if bytes == actual {
            Vec::new()
        } else {
            vec![format!("body: expected {bytes:?}, got {actual:?}")]
        };
    }
    let Some(text) = expected["body"].as_str() else {
        return Vec::new();
    };
    let Ok(actual_text) = std::str::from_utf8(actual) else {
        return vec![format!("body: expected {}, got bytes {actual:?}", show(text))];
    };
    text_body(context, text, actual_text)
}

fn text_body(context: Context<'_>, expected: &str, actual: &str) -> Vec<String> {
    let Ok(expected_json) = serde_json::from_str::<Value>(expected) else {
        return if context.values.matches(expected, actual) {
            Vec::new()
        } else {
            vec![format!("body: expected {}, got {}", show(expected), show(actual))]
        };
    };
    match serde_json::from_str::<Value>(actual) {
        Ok(actual) => json(context, "body", &expected_json, &actual),
        Err(_) => vec![format!(
            "body: expected JSON {}, got {}",
            show(expected),
            show(actual)
        )],
    }
}

/// Whether a text is what was recorded: as JSON if it parses, else as text.
#[must_use]
pub fn same_text(values: &Values, expected: &str, actual: &str) -> bool {
    text_body(
        Context {
            values,
            unordered: false,
        },
        expected,
        actual,
    )
    .is_empty()
}

/// Compares JSON; `at` names the place in differences.
#[must_use]
pub fn json(context: Context<'_>, at: &str, expected: &Value, actual: &Value) -> Vec<String> {
    match (expected, actual) {
        (Value::Object(e), Value::Object(a)) => {
            let names: BTreeSet<&String> = e.keys().chain(a.keys()).collect();
            let member = |name: &String| match (e.get(name), a.get(name)) {
                (Some(e), Some(a)) => json(context, &format!("{at}.{name}"), e, a),
                (Some(e), None) => vec![format!("{at}.{name} missing: expected {}", show(&e.to_string()))],
                (None, Some(a)) => vec![format!("{at}.{name} too many: {}", show(&a.to_string()))],
                (None, None) => Vec::new(),
            };
            names.into_iter().flat_map(member).collect()
        }
        (Value::Array(e), Value::Array(a)) if e.len() == a.len() && !context.unordered => e
            .iter()
            .zip(a)
            .enumerate()
            .flat_map(|(i, (e, a))| json(context, &format!("{at}[{i}]"), e, a))
            .collect(),
        (Value::Array(e), Value::Array(a)) if e.len() == a.len() => {
            let (missing, extra) = unmatched(e.len(), a.len(), &|i, j| {
                json(context, "", &e[i], &a[j]).is_empty()
            });
            let missing = missing
                .into_iter()
                .map(|i| format!("{at}: {} missing", show(&e[i].to_string())));
            missing
                .chain(
                    extra
                        .into_iter()
                        .map(|j| format!("{at}: {} too many", show(&a[j].to_string()))),
                )
                .collect()
        }
        _ if same_scalar(context, expected, actual) => Vec::new(),
        _ => vec![format!(
            "{at}: expected {}, got {}",
            show(&expected.to_string()),
            show(&actual.to_string())
        )],
    }
}

fn same_scalar(context: Context<'_>, expected: &Value, actual: &Value) -> bool {
    match (expected, actual) {
        (Value::String(e), Value::String(a)) => context.values.matches(e, a),
        // A number turned into a placeholder was recorded as a string.
        (Value::String(e), Value::Number(a)) => {
            e.starts_with('<') && context.values.matches(e, &a.to_string())
        }
        (Value::Number(e), Value::Number(a)) => {
            e == a || (e.as_f64() == a.as_f64() && (e.is_f64() || a.is_f64()))
        }
        _ => expected == actual,
    }
}

/// Pairs up two sets as far as possible (each element once) and returns the indices left over on both sides.
fn unmatched(
    expected: usize,
    actual: usize,
    fits: &dyn Fn(usize, usize) -> bool,
) -> (Vec<usize>, Vec<usize>) {
    fn place(
        e: usize,
        fits: &dyn Fn(usize, usize) -> bool,
        seen: &mut [bool],
        taken: &mut [Option<usize>],
    ) -> bool {
        for a in 0..taken.len() {
            if !seen[a] && fits(e, a) {
                seen[a] = true;
                // Free, or its present partner can move to another one.
                if taken[a].is_none_or(|other| place(other, fits, seen, taken)) {
                    taken[a] = Some(e);
                    return true;
                }
            }
        }
        false
    }
    let mut taken = vec![None; actual];
    let missing = (0..expected)
        .filter(|&e| !place(e, fits, &mut vec![false; actual], &mut taken))
        .collect();
    let extra = (0..actual).filter(|&a| taken[a].is_none()).collect();
    (missing, extra)
}

/// A text for people: quoted, and not endless.
fn show(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => format!("{text:?}"),
        Some((at, _)) => format!("{:?}... ({} bytes)", &text[..at], text.len()),
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
