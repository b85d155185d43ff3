//! AdmissionReview in, AdmissionReview out (contract `injector`, section 4).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::patch::{self, Refusal, Situation};
use crate::requester::AllowedAccounts;

/// What became of a request, for metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to do.
    Untouched,
    /// A sidecar for this app.
    Injected {
        /// The app's id.
        app_id: String,
    },
    /// No sidecar, and the pod is created without one.
    NotAllowed {
        /// The app's id.
        app_id: String,
    },
    /// The pod is refused.
    Refused {
        /// The app's id.
        app_id: String,
    },
}

/// A request of the API server.
#[derive(Debug)]
pub struct Review {
    head: Value,
    request: Value,
}

/// An answer and what it means.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The AdmissionReview to send.
    pub body: Value,
    /// For metrics and log lines.
    pub outcome: Outcome,
}

impl Answer {
    /// Why the pod is refused, if it is.
    pub fn message(&self) -> &str {
        let message = self.body.pointer("/response/status/message");
        message.and_then(Value::as_str).unwrap_or_default()
    }
}

impl Review {
    /// Reads a request.
    ///
    /// # Errors
    /// The answer to send if it is none.
    pub fn read(body: &[u8]) -> Result<Self, Answer> {
        let refuse = |head: Option<&Value>, text: String| {
            let mut body = json!({"response": {"uid": "", "allowed": false, "status": {"metadata": {}, "message": text}}});
            for field in ["apiVersion", "kind"] {
                if let Some(value) = head.and_then(|head| head.get(field)) {
                    body[field] = value.clone();
                }
            }
            Answer {
                body,
                outcome: Outcome::Refused {
                    app_id: String::new(),
                },
            }
        };
        let head: Value = serde_json::from_slice(body).map_err(|error| {
            refuse(
                None,
                format!("couldn't get version/kind; json parse error: {error}"),
            )
        })?;
        if head.get("kind").and_then(Value::as_str) != Some("AdmissionReview") {
            return Err(refuse(
                None,
                "the body is not an AdmissionReview of admission.k8s.io/v1".to_owned(),
            ));
        }
        match head.get("request") {
            Some(request) if request.is_object() => Ok(Self {
                request: request.clone(),
                head,
            }),
            _ => Err(refuse(
                Some(&head),
                "the AdmissionReview has no request".to_owned(),
            )),
        }
    }

    /// The namespace of the object.
    pub fn namespace(&self) -> &str {
        self.text("/namespace")
    }

    /// The pod.
    pub fn pod(&self) -> &Value {
        self.request.get("object").unwrap_or(&Value::Null)
    }

    /// Whether a sidecar is to be added, which nothing has to be asked for.
    ///
    /// # Errors
    /// The answer to send if there is none to be added.
    pub fn wanted(&self, allowed: &AllowedAccounts) -> Result<Wanted<'_>, Answer> {
        let pod = self.pod();
        let untouched = || self.reply(json!({"allowed": true}), Outcome::Untouched);
        if self.text("/kind/kind") != "Pod" {
            return Err(untouched());
        }
        if let Some(problem) = not_a_pod(pod) {
            let text = format!("could not unmarshal raw object: {problem}");
            return Err(self.refuse(&text, String::new()));
        }
        if !patch::wants_sidecar(pod) {
            return Err(untouched());
        }
        let app_id = patch::app_id(pod).to_owned();
        if !self.is_allowed(allowed) {
            tracing::error!(
                "service account {:?} is not on the list of allowed controller accounts: pod of app {app_id:?} in {:?} \
                 gets no sidecar; add it to ALLOWED_SERVICE_ACCOUNTS",
                self.text("/userInfo/username"),
                self.namespace()
            );
            return Err(self.reply(json!({"allowed": true}), Outcome::NotAllowed { app_id }));
        }
        if patch::has_sidecar(pod) {
            return Err(untouched());
        }
        Ok(Wanted { review: self, app_id })
    }

    fn is_allowed(&self, allowed: &AllowedAccounts) -> bool {
        let groups: Vec<&str> = self
            .request
            .pointer("/userInfo/groups")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        allowed.allows(
            self.text("/userInfo/username"),
            self.text("/userInfo/uid"),
            &groups,
        )
    }

    fn refuse(&self, text: &str, app_id: String) -> Answer {
        let response = json!({"allowed": false, "status": {"metadata": {}, "message": text}});
        self.reply(response, Outcome::Refused { app_id })
    }

    fn reply(&self, mut response: Value, outcome: Outcome) -> Answer {
        response["uid"] = json!(self.text("/uid"));
        let body = json!({
            "apiVersion": self.head.get("apiVersion"), "kind": self.head.get("kind"), "response": response,
        });
        Answer { body, outcome }
    }

    fn text(&self, path: &str) -> &str {
        self.request
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }
}

/// A pod that gets a sidecar: whoever creates it may have one, and it has none yet.
#[derive(Debug)]
pub struct Wanted<'a> {
    review: &'a Review,
    app_id: String,
}

impl Wanted<'_> {
    /// Whether it wants the containers of pluggable components.
    pub fn wants_components(&self) -> bool {
        patch::wants_components(self.review.pod())
    }

    /// The answer with the sidecar in it.
    pub fn answer(self, situation: &Situation<'_>) -> Answer {
        match patch::build(situation, self.review.pod()) {
            Ok((operations, warnings)) => {
                let patch = STANDARD.encode(Value::Array(operations).to_string());
                let mut response = json!({"allowed": true, "patchType": "JSONPatch", "patch": patch});
                if !warnings.is_empty() {
                    response["warnings"] = json!(warnings);
                }
                let app_id = self.app_id;
                self.review.reply(response, Outcome::Injected { app_id })
            }
            Err(Refusal(text)) => self.refuse(&text),
        }
    }

    /// The refusal of the pod, in these words.
    pub fn refuse(self, text: &str) -> Answer {
        self.review.refuse(text, self.app_id)
    }
}

/// Why the object is no pod: what the patch will read must have the right shape.
fn not_a_pod(object: &Value) -> Option<String> {
    if !object.is_object() {
        return Some("the request has no object".to_owned());
    }
    for (path, is_right, want) in [
        ("/metadata", Value::is_object as fn(&Value) -> bool, "an object"),
        ("/metadata/annotations", Value::is_object, "an object"),
        ("/metadata/labels", Value::is_object, "an object"),
        ("/spec", Value::is_object, "an object"),
        ("/spec/containers", Value::is_array, "a list"),
        ("/spec/initContainers", Value::is_array, "a list"),
        ("/spec/volumes", Value::is_array, "a list"),
    ] {
        if object
            .pointer(path)
            .is_some_and(|value| !value.is_null() && !is_right(value))
        {
            return Some(format!(
                "{} should be {want}",
                path.trim_start_matches('/').replace('/', ".")
            ));
        }
    }
    None
}
