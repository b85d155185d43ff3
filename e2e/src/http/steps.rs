//! Performs one case on a running group.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::app::Call;
use super::client::{Answer, Request, send};
use super::compare::{self, Context};
use super::group::Group;
use super::vector::{Case, Script, Send, Step, fill_in, header_pairs, unbase64};

/// How long an answer may take; the slowest recorded ones wait for name resolution.
const ANSWER_LIMIT: Duration = Duration::from_secs(40);
/// How long a call to the app that was recorded may be late on a busy machine.
const LATE: Duration = Duration::from_secs(2);
/// How long a sidecar may take to end.
const EXIT_LIMIT: Duration = Duration::from_secs(20);

/// Performs the case (as recorded, with `{{…}}` in it) and returns the differences, each with its step.
pub async fn run(group: &mut Group, case: &Value) -> Vec<String> {
    let mut names = group.names().clone();
    let mut filled = case.clone();
    fill_in(&mut filled, &names);
    let parsed: Case = match serde_json::from_value(filled) {
        Ok(case) => case,
        Err(e) => return vec![format!("the vector cannot be read: {e}")],
    };
    script(group, &parsed.answers);
    // Late calls that belong to the case before.
    drop(group.take_calls());
    let mut out = Vec::new();
    for (index, step) in parsed.steps.into_iter().enumerate() {
        // Captured values are known only now.
        let mut step_json = case["steps"][index].clone();
        fill_in(&mut step_json, &names);
        let step = serde_json::from_value(step_json).unwrap_or(step);
        let differences = run_step(group, &step, parsed.unordered, &mut names).await;
        out.extend(differences.into_iter().map(|d| format!("step {index}: {d}")));
    }
    script(group, &[]);
    out
}

fn script(group: &Group, answers: &[Script]) {
    for (index, (app_id, app)) in group.apps().iter().enumerate() {
        let meant = |script: &&Script| script.app.as_ref().map_or(index == 0, |id| id == app_id);
        app.script(answers.iter().filter(meant).cloned().collect());
    }
}

async fn run_step(
    group: &mut Group,
    step: &Step,
    unordered: bool,
    names: &mut BTreeMap<String, String>,
) -> Vec<String> {
    let mut out = if step.send.start {
        Vec::new()
    } else if step.send.method.is_some() {
        let answer = send(port(group, &step.send), &request(&step.send), ANSWER_LIMIT).await;
        capture(step, &answer, names);
        compare::answer(
            Context {
                values: group.values(),
                unordered,
            },
            &step.got,
            &answer,
        )
    } else {
        let observed = look(group, &step.send).await;
        compare::json(
            Context {
                values: group.values(),
                unordered,
            },
            "got",
            &step.got,
            &observed,
        )
    };
    let late = if out.is_empty() { LATE } else { Duration::ZERO };
    let calls = if step.send.start {
        group.start_calls().to_vec()
    } else {
        listen(group, step, late).await
    };
    if let Some(expected) = step.app_received.as_ref().filter(|_| !step.app_varies) {
        let context = Context {
            values: group.values(),
            unordered,
        };
        out.extend(compare::calls(context, expected, &calls, step.send.start));
    }
    out
}

fn port(group: &mut Group, send: &Send) -> u16 {
    if let Some(name) = &send.port {
        let number = group.names().get(name).and_then(|p| p.parse().ok());
        return number.unwrap_or_else(|| panic!("a vector names the unknown port {name}"));
    }
    group.sidecar(send.on.as_deref()).http_port()
}

fn request(send: &Send) -> Request {
    let method = send.method.clone().unwrap_or_default();
    let mut body = send.body.bytes();
    // As every client does: a method that may have a body says that it has none.
    if body.is_none() && matches!(method.as_str(), "POST" | "PUT" | "PATCH") {
        body = Some(Vec::new());
    }
    Request {
        method,
        path: send.path.clone(),
        headers: header_pairs(&send.headers),
        body,
        chunked: send.chunked,
    }
}

/// The calls of a step: those that come within `wait_ms`, or, up to `late` more, until the recorded number is there.
async fn listen(group: &mut Group, step: &Step, late: Duration) -> Vec<Call> {
    if group.apps().is_empty() {
        return Vec::new();
    }
    tokio::time::sleep(Duration::from_millis(step.wait_ms)).await;
    let wanted = step.app_received.as_ref().map_or(0, Vec::len);
    let deadline = Instant::now() + late;
    while group.call_count() < wanted && Instant::now() < deadline && !step.app_varies {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    group.take_calls()
}

fn capture(step: &Step, answer: &Result<Answer, String>, names: &mut BTreeMap<String, String>) {
    let Ok(answer) = answer else { return };
    for (name, place) in &step.capture {
        let value = match place.split_once(':') {
            Some(("header", header)) => answer
                .headers
                .iter()
                .find(|(n, _)| n.eq_ignore_ascii_case(header))
                .map(|(_, v)| v.clone()),
            Some(("body", member)) => {
                let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                body.get(member)
                    .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
            }
            _ => None,
        };
        names.insert(
            name.clone(),
            value.unwrap_or_else(|| format!("<nothing captured from {place}>")),
        );
    }
}

/// The steps that are no requests; the result has the form of the recorded `got`.
async fn look(group: &mut Group, send: &Send) -> Value {
    if let Some(ms) = send.sleep_ms {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        return Value::Object(serde_json::Map::new());
    }
    let seen = if let Some(words) = &send.redis {
        match group.redis() {
            Some(redis) => redis
                .command(words)
                .await
                .map(|v| ("reply", reply(v)))
                .map_err(|e| e.to_string()),
            None => Err("the setup has no Redis".to_owned()),
        }
    } else if let (Some(query), Some(db)) = (&send.sqlite, &send.db) {
        rows(db, query)
            .map(|rows| ("rows", rows))
            .map_err(|e| e.to_string())
    } else if let Some(path) = &send.file {
        std::fs::read(path)
            .map_err(|e| e.to_string())
            .map(|bytes| match String::from_utf8(bytes) {
                Ok(text) => ("content", Value::from(text)),
                Err(e) => ("content_b64", Value::from(base64_of(e.as_bytes()))),
            })
    } else if let Some(app_id) = &send.exit_of {
        let status = group.sidecar(Some(app_id)).process().wait_exit(EXIT_LIMIT).await;
        status
            .map(|s| ("exit_code", s.code().into()))
            .ok_or_else(|| format!("still running after {EXIT_LIMIT:?}"))
    } else {
        Err(format!("unknown kind of step {send:?}"))
    };
    let (name, value) = seen.unwrap_or_else(|problem| ("error", Value::from(problem)));
    Value::Object([(name.to_owned(), value)].into_iter().collect())
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
    debug_assert_eq!(unbase64(&text).as_deref(), Some(bytes));
    text
}

fn reply(value: redis::Value) -> Value {
    match value {
        redis::Value::Nil => Value::Null,
        redis::Value::Int(number) => number.into(),
        redis::Value::Okay => "OK".into(),
        redis::Value::SimpleString(text) => text.into(),
        redis::Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned().into(),
        redis::Value::Array(items) => items.into_iter().map(reply).collect(),
        other => format!("{other:?}").into(),
    }
}

fn rows(db: &str, query: &str) -> Result<Value, rusqlite::Error> {
    use rusqlite::types::ValueRef;
    use rusqlite::{Connection, OpenFlags};
    let connection = Connection::open_with_flags(db, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    let mut statement = connection.prepare(query)?;
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| {
        let cell = |index| {
            Ok(match row.get_ref(index)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(number) => number.into(),
                ValueRef::Real(number) => number.into(),
                ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned().into(),
                ValueRef::Blob(bytes) => format!("blob {}", base64_of(bytes)).into(),
            })
        };
        (0..columns).map(cell).collect::<Result<Value, _>>()
    })?;
    rows.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_and_replies_take_the_recorded_form() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("x.db");
        let connection = rusqlite::Connection::open(&db).unwrap();
        connection
            .execute_batch("CREATE TABLE t (a, b, c); INSERT INTO t VALUES ('x', 1, NULL), ('y', 2, 'z')")
            .unwrap();
        let got = rows(db.to_str().unwrap(), "SELECT * FROM t ORDER BY a").unwrap();
        assert_eq!(got, json!([["x", 1, null], ["y", 2, "z"]]));
        assert!(rows(db.to_str().unwrap(), "SELECT * FROM u").is_err());
        let nested = redis::Value::Array(vec![redis::Value::Nil, redis::Value::Int(3), redis::Value::Okay]);
        assert_eq!(reply(nested), json!([null, 3, "OK"]));
        assert_eq!(reply(redis::Value::BulkString(b"v".to_vec())), json!("v"));
    }

    #[test]
    fn values_are_captured_from_headers_and_bodies() {
        let step: Step = serde_json::from_value(json!({
            "send": {"method": "GET", "path": "/"}, "got": {},
            "capture": {"et": "header:etag", "sid": "body:id", "none": "header:x"}
        }))
        .unwrap();
        let headers = vec![("etag".to_owned(), "7".to_owned())];
        let answer = Ok(Answer {
            status: 200,
            headers,
            body: b"{\"id\":\"i\"}".to_vec(),
        });
        let mut names = BTreeMap::new();
        capture(&step, &answer, &mut names);
        assert_eq!((names["et"].as_str(), names["sid"].as_str()), ("7", "i"));
        assert!(names["none"].starts_with("<nothing captured"));
    }

    #[test]
    fn a_post_without_a_body_says_so_and_a_get_does_not() {
        let send = |v: Value| request(&serde_json::from_value::<Send>(v).unwrap());
        assert_eq!(
            send(json!({"method": "POST", "path": "/"})).body,
            Some(Vec::new())
        );
        assert_eq!(send(json!({"method": "GET", "path": "/"})).body, None);
        let full = send(
            json!({"method": "GET", "path": "/", "headers": {"A": ["1", "2"]}, "body": "b", "chunked": true}),
        );
        assert_eq!(
            (full.headers.len(), full.body.as_deref(), full.chunked),
            (2, Some(&b"b"[..]), true)
        );
    }
}
