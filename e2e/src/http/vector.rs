//! The recorded cases, member for member as `testdata/golden/http/README.md` describes them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// One case.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Unique name.
    pub id: String,
    /// What it shows.
    pub about: String,
    /// What must be running. Cases with an equal setup share it.
    pub setup: Setup,
    /// What the app answers during this case.
    #[serde(default)]
    pub answers: Vec<Script>,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// The order of array elements and of repeated header values varied.
    #[serde(default)]
    pub unordered: bool,
}

/// What must be running.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// Sidecars; the first is the one steps talk to.
    pub sidecars: Vec<SidecarSetup>,
    /// Only `redis` so far.
    #[serde(default)]
    pub services: Vec<String>,
    /// Commands for the empty Redis.
    #[serde(default)]
    pub redis_seed: Vec<Vec<String>>,
    /// Files below `{{tmp}}`.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Wait this long once all are ready.
    #[serde(default = "default_settle")]
    pub settle_ms: u64,
}

fn default_settle() -> u64 {
    700
}

/// One sidecar of a setup.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SidecarSetup {
    /// `--app-id`.
    pub app_id: String,
    /// Its app; absent = no app port.
    #[serde(default)]
    pub app: Option<AppSetup>,
    /// YAML texts of its resources.
    #[serde(default)]
    pub resources: Vec<String>,
    /// YAML text of its Configuration.
    #[serde(default)]
    pub config: Option<String>,
    /// More flags.
    #[serde(default)]
    pub flags: Vec<String>,
    /// More environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// The app of a sidecar.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppSetup {
    /// What it answers as long as it runs.
    pub answers: Vec<Script>,
}

/// One scripted answer of an app.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// App id of the sidecar whose app is meant; absent = the first.
    #[serde(default)]
    pub app: Option<String>,
    /// Method answered, `*` = any.
    #[serde(default = "any")]
    pub method: String,
    /// Path without query answered, `*` = any.
    pub path: String,
    /// Status.
    pub status: u16,
    /// Headers; a list is sent repeatedly.
    #[serde(default)]
    pub headers: BTreeMap<String, Value>,
    /// Body.
    #[serde(flatten)]
    pub body: Body,
    /// Send the body in chunks.
    #[serde(default)]
    pub chunked: bool,
    /// Wait first.
    #[serde(default)]
    pub delay_ms: u64,
    /// Close the connection unanswered.
    #[serde(default)]
    pub abort: bool,
}

fn any() -> String {
    "*".to_owned()
}

/// A body in one of its spellings.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Body {
    body: Option<String>,
    body_b64: Option<String>,
    body_repeat: Option<(String, usize)>,
}

impl Body {
    /// Its bytes; `None` if no body is given.
    ///
    /// # Panics
    /// If the vector's base64 is broken.
    #[must_use]
    pub fn bytes(&self) -> Option<Vec<u8>> {
        if let Some((text, times)) = &self.body_repeat {
            return Some(text.repeat(*times).into_bytes());
        }
        if let Some(text) = &self.body_b64 {
            return Some(unbase64(text).expect("a vector's base64 is right"));
        }
        self.body.clone().map(String::into_bytes)
    }
}

/// The bytes of standard base64.
#[must_use]
pub fn unbase64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

/// One thing done, and what came of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What to do.
    pub send: Send,
    /// What came back.
    pub got: Value,
    /// What the apps got; absent = not recorded.
    #[serde(default)]
    pub app_received: Option<Vec<Value>>,
    /// What the app got varied: do not look.
    #[serde(default)]
    pub app_varies: bool,
    /// Keep listening that long for calls to the app.
    #[serde(default)]
    pub wait_ms: u64,
    /// Name -> `header:NAME` or `body:MEMBER`, to be kept for later steps.
    #[serde(default)]
    pub capture: BTreeMap<String, String>,
}

/// What a step does: an HTTP request if `method` is there, otherwise what its one other member says.
#[derive(Debug, Clone, Deserialize)]
pub struct Send {
    /// HTTP method.
    pub method: Option<String>,
    /// Request target.
    #[serde(default)]
    pub path: String,
    /// Request headers.
    #[serde(default)]
    pub headers: BTreeMap<String, Value>,
    /// Request body.
    #[serde(flatten)]
    pub body: Body,
    /// Request body in chunks.
    #[serde(default)]
    pub chunked: bool,
    /// `public-port` = the public listener.
    pub port: Option<String>,
    /// App id of the sidecar addressed; absent = the first.
    pub on: Option<String>,
    /// No request: look at what the app got between start and first step.
    #[serde(default)]
    pub start: bool,
    /// A Redis command.
    pub redis: Option<Vec<String>>,
    /// A query for the SQLite file `db`.
    pub sqlite: Option<String>,
    /// The file for `sqlite`.
    pub db: Option<String>,
    /// A file to look at.
    pub file: Option<String>,
    /// Wait.
    pub sleep_ms: Option<u64>,
    /// Wait for the end of the sidecar with this app id.
    pub exit_of: Option<String>,
}

impl Send {
    /// How many different things this asks for; more or less than one is a mistake.
    #[must_use]
    pub fn kinds(&self) -> usize {
        let asked = [
            self.method.is_some(),
            self.start,
            self.redis.is_some(),
            self.sqlite.is_some() && self.db.is_some(),
            self.file.is_some(),
            self.sleep_ms.is_some(),
            self.exit_of.is_some(),
        ];
        asked.into_iter().filter(|asked| *asked).count()
    }
}

/// Header values of a vector, where a list stands for a repeated header, as pairs.
#[must_use]
pub fn header_pairs(headers: &BTreeMap<String, Value>) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let mut pairs = Vec::new();
    for (name, value) in headers {
        match value {
            Value::Array(values) => pairs.extend(values.iter().map(|v| (name.clone(), text(v)))),
            one => pairs.push((name.clone(), text(one))),
        }
    }
    pairs
}

/// Replaces every `{{name}}` in all texts of `value`. Unknown names stay as they are.
pub fn fill_in(value: &mut Value, names: &BTreeMap<String, String>) {
    match value {
        Value::String(text) => {
            if text.contains("{{") {
                for (name, replacement) in names {
                    *text = text.replace(&format!("{{{{{name}}}}}"), replacement);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill_in(item, names)),
        Value::Object(members) => members.values_mut().for_each(|member| fill_in(member, names)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bodies_of_every_spelling_become_bytes() {
        let body = |v: Value| serde_json::from_value::<Body>(v).unwrap().bytes();
        assert_eq!(body(json!({})), None);
        assert_eq!(body(json!({"body": ""})), Some(vec![]));
        assert_eq!(body(json!({"body": "é"})), Some("é".as_bytes().to_vec()));
        assert_eq!(body(json!({"body_b64": "AP8="})), Some(vec![0, 255]));
        assert_eq!(body(json!({"body_repeat": ["ab", 3]})), Some(b"ababab".to_vec()));
    }

    #[test]
    fn names_are_filled_in_at_any_depth() {
        let names = BTreeMap::from([
            ("a".to_owned(), "1".to_owned()),
            ("a:x".to_owned(), "2".to_owned()),
        ]);
        let mut value = json!({"p": ["{{a}}/{{a:x}}{{b}}", 5], "q": {"r": "{{a}}{{a}}"}});
        fill_in(&mut value, &names);
        assert_eq!(value, json!({"p": ["1/2{{b}}", 5], "q": {"r": "11"}}));
    }

    #[test]
    fn a_list_of_header_values_is_a_repeated_header() {
        let headers = BTreeMap::from([("A".to_owned(), json!(["1", "2"])), ("B".to_owned(), json!("3"))]);
        let pairs = header_pairs(&headers);
        let pairs: Vec<_> = pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("A", "1"), ("A", "2"), ("B", "3")]);
    }
}
