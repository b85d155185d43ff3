//! Fake apps of either kind, and what an HTTP app got in the words of the gRPC vectors.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::app::{Answers, GrpcApp};
use super::frame::BYTES;
use super::vector::SidecarSetup;
use crate::http::app::{Call, FakeApp};
use crate::http::vector::Script;

/// Headers of a call to an HTTP app that belong to the connection or to the client.
const HTTP_LEFT_OUT: [&str; 5] = [
    "user-agent",
    "accept-encoding",
    "connection",
    "content-length",
    "transfer-encoding",
];

/// A fake app of either kind.
#[derive(Debug)]
pub enum App {
    /// Called by gRPC.
    Grpc(GrpcApp),
    /// Called by HTTP.
    Http(FakeApp),
}

impl App {
    /// The app of that sidecar, if it has one.
    pub(super) async fn start(sidecar: &SidecarSetup) -> Option<Self> {
        let setup = sidecar.app.as_ref()?;
        if setup.kind == "grpc" {
            return Some(Self::Grpc(
                GrpcApp::app(&sidecar.app_id, setup.startup.clone()).await,
            ));
        }
        let app = FakeApp::start(&sidecar.app_id).await;
        app.set_standing(scripts(&setup.startup));
        Some(Self::Http(app))
    }

    pub(super) fn port(&self) -> u16 {
        match self {
            Self::Grpc(app) => app.port(),
            Self::Http(app) => app.port(),
        }
    }

    pub(super) fn script(&self, answers: &Answers) {
        match self {
            Self::Grpc(app) => app.script(answers.clone()),
            Self::Http(app) => app.script(scripts(answers)),
        }
    }

    pub(super) fn call_count(&self) -> usize {
        match self {
            Self::Grpc(app) => app.call_count(),
            Self::Http(app) => app.call_count(),
        }
    }

    pub(super) fn take_calls(&self) -> Vec<Value> {
        match self {
            Self::Grpc(app) => app.take_calls(),
            Self::Http(app) => {
                let calls = app.take_calls();
                // Health probes go on all the time; the vectors do not show them.
                calls
                    .iter()
                    .filter(|c| c.path != "/healthz")
                    .map(http_call)
                    .collect()
            }
        }
    }
}

/// Answers of an HTTP app (`/path` or `VERB /path`) as that app takes them.
fn scripts(answers: &Answers) -> Vec<Script> {
    let mut scripts = Vec::new();
    for (key, answer) in answers {
        let (method, path) = key.split_once(' ').unwrap_or(("*", key));
        let turns = answer
            .as_array()
            .map_or_else(|| vec![answer], |a| a.iter().collect());
        for turn in turns {
            let mut script = turn.clone();
            script["method"] = method.into();
            script["path"] = path.into();
            let bytes = turn["body"].as_str().and_then(|b| b.strip_prefix(BYTES));
            if let (Some(encoded), Some(members)) = (bytes, script.as_object_mut()) {
                members.remove("body");
                members.insert("body_b64".to_owned(), encoded.into());
            }
            scripts.push(serde_json::from_value(script).expect("answers have the members the README says"));
        }
    }
    scripts
}

/// A call to an HTTP app as the vectors write it.
fn http_call(call: &Call) -> Value {
    let mut headers: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (name, value) in &call.headers {
        if !HTTP_LEFT_OUT.contains(&name.as_str()) {
            headers
                .entry(canonical(name))
                .or_default()
                .push(value.as_str().into());
        }
    }
    let headers = headers.into_iter().map(|(name, mut values)| {
        let value = if values.len() == 1 {
            values.remove(0)
        } else {
            Value::Array(values)
        };
        (name, value)
    });
    let (path, query) = match call.path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (call.path.as_str(), None),
    };
    let mut out = json!({
        "app": call.app,
        "call": format!("{} {path}", call.method),
        "headers": Value::Object(headers.collect()),
        "body": match std::str::from_utf8(&call.body) {
            Ok(text) => text.to_owned(),
            Err(_) => format!("{BYTES}{}", super::frame::base64(&call.body)),
        },
    });
    if let Some(query) = query {
        out["query"] = query.into();
    }
    out
}

/// The recorded calls without what [`http_call`] leaves out.
#[must_use]
pub fn without_framing(mut calls: Vec<Value>) -> Vec<Value> {
    for call in &mut calls {
        if let Some(headers) = call.get_mut("headers").and_then(Value::as_object_mut) {
            headers.retain(|name, _| !HTTP_LEFT_OUT.contains(&name.to_ascii_lowercase().as_str()));
        }
    }
    calls
}

/// A header name as Go writes it, the way it was recorded.
fn canonical(name: &str) -> String {
    let mut start = true;
    let letter = |c: char| {
        let out = if start { c.to_ascii_uppercase() } else { c };
        start = c == '-';
        out
    };
    name.chars().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_http_apps_are_scripts() {
        let answers = json!({
            "/items": [{"status": 500}, {"status": 200, "body": "base64:AAE="}],
            "PUT /x": {"status": 204, "headers": {"X-A": ["1", "2"]}},
        });
        let scripts = scripts(&serde_json::from_value(answers).unwrap());
        let short: Vec<_> = scripts
            .iter()
            .map(|s| (s.method.as_str(), s.path.as_str(), s.status, s.body.bytes()))
            .collect();
        assert_eq!(
            short,
            [
                ("*", "/items", 500, None),
                ("*", "/items", 200, Some(vec![0, 1])),
                ("PUT", "/x", 204, None)
            ]
        );
    }

    #[test]
    fn http_calls_are_written_like_the_recorded_ones() {
        let call = Call {
            app: "a".into(),
            method: "GET".into(),
            path: "/m?q=1".into(),
            headers: [
                ("x-dapr-id", "1"),
                ("x-dapr-id", "2"),
                ("user-agent", "u"),
                ("host", "h"),
            ]
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .to_vec(),
            body: b"b".to_vec(),
        };
        let written = json!({
            "app": "a", "call": "GET /m", "query": "q=1", "body": "b",
            "headers": {"X-Dapr-Id": ["1", "2"], "Host": "h"},
        });
        assert_eq!(http_call(&call), written);
        let mut recorded = written.clone();
        recorded["headers"]["Content-Length"] = "1".into();
        let by_grpc = json!({"app": "a", "call": "M", "message": {}});
        assert_eq!(
            without_framing(vec![recorded, by_grpc.clone()]),
            [written, by_grpc]
        );
    }
}
