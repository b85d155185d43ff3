//! The recorded cases, member for member as `testdata/golden/grpc/README.md` describes them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::app::Answers;

/// One case.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Unique name.
    pub id: String,
    /// What it shows.
    pub about: String,
    /// What must be running.
    pub setup: Setup,
    /// What is done, in order.
    pub steps: Vec<Step>,
}

/// What must be running.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// Sidecars; the first is the default target.
    pub sidecars: Vec<SidecarSetup>,
    /// Per fake app what it answers in this case.
    #[serde(default)]
    pub answers: BTreeMap<String, Answers>,
    /// `redis`, `placement`, `scheduler`, `fake-internal`, `fake-placement`.
    #[serde(default)]
    pub services: Vec<String>,
    /// What the fake placement server announces.
    #[serde(default)]
    pub fake_actor_types: Vec<String>,
    /// Processes of its own.
    #[serde(default)]
    pub own_processes: bool,
    /// Wait this long after start.
    #[serde(default)]
    pub settle_ms: u64,
}

/// One sidecar of a setup.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SidecarSetup {
    /// `--app-id`.
    pub app_id: String,
    /// Its app; absent = no app port.
    pub app: Option<AppSetup>,
    /// YAML texts of its resources.
    #[serde(default)]
    pub resources: Vec<String>,
    /// YAML text of its Configuration.
    pub config: Option<String>,
    /// More flags.
    #[serde(default)]
    pub flags: Vec<String>,
    /// More environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Files in its folder.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
}

/// The app of a sidecar.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppSetup {
    /// `grpc` or `http`.
    pub kind: String,
    /// Answers that must be there from the start.
    #[serde(default)]
    pub startup: Answers,
}

/// One thing done, and what came of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What to do.
    pub send: Send,
    /// What came back.
    pub got: Value,
    /// What the apps got, in order; absent = there is no app.
    pub app_received: Option<Value>,
}

/// What a step does: a gRPC call if `method` is there, an HTTP request if `http` is, else an action.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Send {
    /// gRPC service.
    pub service: Option<String>,
    /// gRPC method.
    pub method: Option<String>,
    /// gRPC metadata.
    #[serde(default)]
    pub metadata: Map<String, Value>,
    /// The request.
    pub message: Option<Value>,
    /// The requests of a client stream.
    pub messages: Option<Vec<Value>>,
    /// App id of the sidecar addressed; absent = the first.
    pub to: Option<String>,
    /// `internal` = the port for other sidecars.
    pub port: Option<String>,
    /// A request to the HTTP API.
    pub http: Option<Http>,
    /// `startup`, `sleep`, `redis`, `stream-send`.
    pub action: Option<String>,
    /// How long to sleep, in milliseconds.
    #[serde(default)]
    pub ms: u64,
    /// A Redis command.
    pub command: Option<Vec<String>>,
    /// Limit of the call in seconds.
    pub timeout_s: Option<u64>,
    /// Wait for so many app calls.
    pub await_app: Option<usize>,
    /// But not longer than so many seconds.
    pub await_s: Option<u64>,
    /// Then wait this long.
    #[serde(default)]
    pub settle_ms: u64,
    /// Leave the stream open under this name.
    pub keep_open: Option<String>,
    /// Wait for so many messages of the stream.
    pub wait: Option<usize>,
    /// Wait for so many messages of that open stream and show it.
    pub wait_stream: Option<(String, usize)>,
    /// The open stream used.
    pub stream: Option<String>,
    /// Half-close the stream.
    #[serde(default)]
    pub close: bool,
    /// Cancel the stream.
    #[serde(default)]
    pub cancel: bool,
    /// Wait for an answer after each message.
    #[serde(default)]
    pub lockstep: bool,
    /// The order of app calls does not count.
    #[serde(default)]
    pub unordered: bool,
    /// Whether the app saw the call is left open.
    #[serde(default)]
    pub any_app: bool,
    /// Show the answers as one payload: `plain` or `encrypted`.
    pub as_payload: Option<String>,
    /// Variable -> member of the response to keep in it.
    #[serde(default)]
    pub save: BTreeMap<String, String>,
}

impl Send {
    /// How many different things this asks for; more or less than one is a mistake.
    #[must_use]
    pub fn kinds(&self) -> usize {
        usize::from(self.method.is_some())
            + usize::from(self.http.is_some())
            + usize::from(self.action.is_some())
    }
}

/// A request to the HTTP API of a sidecar.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// HTTP method.
    pub verb: String,
    /// Request target.
    pub path: String,
    /// Headers.
    #[serde(default)]
    pub headers: BTreeMap<String, Value>,
    /// Body; empty = none.
    #[serde(default)]
    pub body: String,
}

/// What of a setup decides about the processes: cases equal in it share them, with answers of their own.
#[must_use]
pub fn processes_of(case: &Value) -> Value {
    let mut setup = case["setup"].clone();
    if let Some(members) = setup.as_object_mut() {
        members.remove("answers");
        members.remove("settle_ms");
        if members.contains_key("own_processes") {
            members.insert("only".to_owned(), case["id"].clone());
        }
    }
    setup
}

/// Puts in what the vectors abbreviate: `$repeat:n:text` (bytes), `$text:n:text`, `{"$var": name}`.
pub fn expand(value: &mut Value, variables: &BTreeMap<String, Value>) {
    let repeated = |text: &str, prefix: &str| {
        let (count, text) = text.strip_prefix(prefix)?.split_once(':')?;
        Some(text.repeat(count.parse().ok()?))
    };
    match value {
        Value::String(text) => {
            if let Some(bytes) = repeated(text, "$repeat:") {
                *text = super::frame::base64(bytes.as_bytes());
            } else if let Some(long) = repeated(text, "$text:") {
                *text = long;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| expand(item, variables)),
        Value::Object(members) => {
            if let Some(name) = members.get("$var").and_then(Value::as_str) {
                *value = variables.get(name).cloned().unwrap_or_default();
            } else {
                members.values_mut().for_each(|member| expand(member, variables));
            }
        }
        _ => {}
    }
}

/// Replaces `<name>` by the value of that name in every text.
pub fn fill_in(value: &mut Value, names: &BTreeMap<String, String>) {
    match value {
        Value::String(text) => {
            for (name, with) in names {
                *text = text.replace(&format!("<{name}>"), with);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill_in(item, names)),
        Value::Object(members) => members.values_mut().for_each(|member| fill_in(member, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn abbreviations_are_written_out() {
        let mut value = json!({"a": "$repeat:3:ab", "b": ["$text:2:x:", {"$var": "v"}], "c": {"d": "$text"}});
        expand(&mut value, &BTreeMap::from([("v".to_owned(), json!("kept"))]));
        assert_eq!(
            value,
            json!({"a": "YWJhYmFi", "b": ["x:x:", "kept"], "c": {"d": "$text"}})
        );
    }

    #[test]
    fn cases_share_processes_unless_they_ask_for_their_own() {
        let case = |id: &str, setup: Value| json!({"id": id, "setup": setup});
        let one = case("a", json!({"sidecars": [1], "answers": {"x": 1}, "settle_ms": 5}));
        let two = case("b", json!({"sidecars": [1]}));
        assert_eq!(processes_of(&one), processes_of(&two));
        let own = |id: &str| case(id, json!({"sidecars": [1], "own_processes": true}));
        assert_ne!(processes_of(&own("a")), processes_of(&own("b")));
    }

    #[test]
    fn names_are_filled_in_everywhere() {
        let mut value = json!({"a": ["x <dir>/y <dir>"], "b": "<other>"});
        fill_in(
            &mut value,
            &BTreeMap::from([("dir".to_owned(), "/tmp/z".to_owned())]),
        );
        assert_eq!(value, json!({"a": ["x /tmp/z/y /tmp/z"], "b": "<other>"}));
    }
}
