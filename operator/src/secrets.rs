//! References to Secrets of Kubernetes in resources, replaced by their values (contract `operator`, section 4).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use serde_json::{Map, Value};
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::kinds::Kind;

/// A Secret that was read this long ago is not asked for again: a list names the same one many times.
const FRESH: Duration = Duration::from_secs(1);
/// One that was read this long ago still serves while the API server does not answer.
const STALE: Duration = Duration::from_secs(3600);
/// How long the API server may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How long it may take for a Secret that is known from before: sidecars wait for the answer.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a known Secret is given without asking once the API server did not answer.
const AWAY: Duration = Duration::from_secs(5);
/// Questions to the API server at once.
const AT_ONCE: usize = 16;
/// Secrets that are remembered.
const REMEMBERED: usize = 4096;

/// The values of a Secret by key.
pub type Values = BTreeMap<String, Vec<u8>>;

/// Why a reference could not be replaced.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SecretError {
    /// No such Secret.
    #[error("Secret {0}/{1} not found: create it, or correct the secretKeyRef")]
    NotFound(String, String),
    /// It lacks the key.
    #[error("Secret {0}/{1} has no key {2:?}")]
    NoKey(String, String, String),
    /// A header of a Configuration names no key.
    #[error("the secretKeyRef to {0:?} in spec.tracing.otel.headers names no key")]
    EmptyKey(String),
    /// The API server refuses or does not answer.
    #[error("Secret {0}/{1} cannot be read: {2}")]
    Unreadable(String, String, String),
    /// What is stored is no JSON.
    #[error("the resource cannot be read: {0}")]
    Resource(String),
}

/// Who knows the Secrets.
#[tonic::async_trait]
pub trait Source: Send + Sync {
    /// Reads one.
    async fn read(&self, namespace: &str, name: &str) -> Result<Values, SecretError>;
}

/// The API server.
pub struct FromApi(pub Client);

#[tonic::async_trait]
impl Source for FromApi {
    async fn read(&self, namespace: &str, name: &str) -> Result<Values, SecretError> {
        let unreadable = |why: String| SecretError::Unreadable(namespace.to_owned(), name.to_owned(), why);
        let api: Api<Secret> = Api::namespaced(self.0.clone(), namespace);
        match api.get(name).await {
            Ok(secret) => {
                let data = secret.data.unwrap_or_default();
                Ok(data.into_iter().map(|(key, value)| (key, value.0)).collect())
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                Err(SecretError::NotFound(namespace.to_owned(), name.to_owned()))
            }
            Err(error) => Err(unreadable(error.to_string())),
        }
    }
}

type Slot = Arc<tokio::sync::Mutex<Option<(Instant, Arc<Values>)>>>;

/// Reads Secrets, each at most once a second, and goes on with what it knew while the API server is away.
pub struct Secrets {
    source: Box<dyn Source>,
    slots: Mutex<HashMap<(String, String), Slot>>,
    gate: Semaphore,
    /// Since when the API server does not answer.
    away: Mutex<Option<Instant>>,
}

impl Secrets {
    /// Reads from there.
    pub fn new(source: impl Source + 'static) -> Self {
        Self {
            source: Box::new(source),
            slots: Mutex::default(),
            gate: Semaphore::new(AT_ONCE),
            away: Mutex::default(),
        }
    }

    fn is_away(&self) -> bool {
        let away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        away.is_some_and(|since| since.elapsed() < AWAY)
    }

    fn set_away(&self, since: Option<Instant>) {
        *self.away.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Asks the API server; not for long if there is something to go on with.
    async fn ask(&self, namespace: &str, name: &str, is_known: bool) -> Result<Values, SecretError> {
        let asking = async {
            let _permit = self.gate.acquire().await;
            self.source.read(namespace, name).await
        };
        let limit = if is_known { PATIENCE } else { LIMIT };
        let answer = tokio::time::timeout(limit, asking).await.unwrap_or_else(|_| {
            Err(SecretError::Unreadable(
                namespace.to_owned(),
                name.to_owned(),
                format!("no answer within {limit:?}"),
            ))
        });
        let is_away = matches!(answer, Err(SecretError::Unreadable(..)));
        self.set_away(is_away.then(Instant::now));
        answer
    }

    fn slot(&self, namespace: &str, name: &str) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= REMEMBERED {
            // Those in use survive; whoever comes back is read again.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(slots.entry((namespace.to_owned(), name.to_owned())).or_default())
    }

    /// The values of a Secret.
    ///
    /// # Errors
    /// If it is missing, or cannot be read and was not read within the last hour.
    pub async fn get(&self, namespace: &str, name: &str) -> Result<Arc<Values>, SecretError> {
        let slot = self.slot(namespace, name);
        // Who asks for the same one waits here and finds the answer.
        let mut known = slot.lock().await;
        if let Some((read, values)) = &*known {
            let trusted = if self.is_away() { STALE } else { FRESH };
            if read.elapsed() < trusted {
                return Ok(Arc::clone(values));
            }
        }
        let answer = self.ask(namespace, name, known.is_some()).await;
        match (answer, &*known) {
            (Ok(values), _) => {
                let values = Arc::new(values);
                *known = Some((Instant::now(), Arc::clone(&values)));
                Ok(values)
            }
            (Err(SecretError::Unreadable(..)), Some((read, values))) if read.elapsed() < STALE => {
                Ok(Arc::clone(values))
            }
            (Err(error), _) => {
                *known = None;
                Err(error)
            }
        }
    }

    /// Puts the values into a resource, given and returned as JSON.
    ///
    /// # Errors
    /// If a Secret is missing or cannot be read.
    pub async fn put_in(&self, kind: Kind, namespace: &str, json: String) -> Result<String, SecretError> {
        let mut object: Value =
            serde_json::from_str(&json).map_err(|error| SecretError::Resource(error.to_string()))?;
        let Some(members) = object.as_object_mut() else {
            return Ok(json);
        };
        for place in places(kind, members) {
            let Some((name, key)) = reference(place) else {
                continue;
            };
            let value = if kind == Kind::Configuration {
                self.plain(namespace, &name, &key).await?
            } else {
                // Without a key it is the one that is called as the Secret.
                let key = if key.is_empty() { &name } else { &key };
                let values = self.get(namespace, &name).await?;
                match values.get(key) {
                    Some(value) => STANDARD.encode(value),
                    None => continue,
                }
            };
            place.insert("value".to_owned(), Value::String(value));
        }
        Ok(object.to_string())
    }

    async fn plain(&self, namespace: &str, name: &str, key: &str) -> Result<String, SecretError> {
        if key.is_empty() {
            return Err(SecretError::EmptyKey(name.to_owned()));
        }
        let values = self.get(namespace, name).await?;
        let value = values
            .get(key)
            .ok_or_else(|| SecretError::NoKey(namespace.to_owned(), name.to_owned(), key.to_owned()))?;
        Ok(String::from_utf8_lossy(value).into_owned())
    }
}

/// Whether a resource has references that the operator replaces.
pub fn is_resolved_here(kind: Kind, content: &Map<String, Value>) -> bool {
    let mut content = content.clone();
    places(kind, &mut content)
        .into_iter()
        .any(|place| reference(place).is_some())
}

/// Name and key of a reference that names something.
fn reference(place: &Map<String, Value>) -> Option<(String, String)> {
    let reference = place.get("secretKeyRef")?;
    let text = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or_default();
    let name = text("name");
    (!name.is_empty()).then(|| (name.to_owned(), text("key").to_owned()))
}

/// Whether references in an object are to Secrets of Kubernetes: another store is the sidecar's business.
fn is_kubernetes(auth: Option<&Value>) -> bool {
    let store = auth
        .and_then(|auth| auth.get("secretStore"))
        .and_then(Value::as_str);
    matches!(store, None | Some("" | "kubernetes"))
}

/// All places of an object where a reference may stand that is the operator's to replace.
fn places(kind: Kind, object: &mut Map<String, Value>) -> Vec<&mut Map<String, Value>> {
    let ours = is_kubernetes(object.get("auth"));
    let Some(spec) = object.get_mut("spec") else {
        return Vec::new();
    };
    match kind {
        Kind::Component if ours => list(spec.get_mut("metadata")),
        Kind::HttpEndpoint if ours => {
            let Some(spec) = spec.as_object_mut() else {
                return Vec::new();
            };
            let mut found = Vec::new();
            for (field, value) in spec {
                match field.as_str() {
                    "headers" => found.extend(list(Some(value))),
                    "clientTLS" => found.extend(
                        value
                            .as_object_mut()
                            .into_iter()
                            .flat_map(|documents| documents.values_mut().filter_map(Value::as_object_mut)),
                    ),
                    _ => {}
                }
            }
            found
        }
        Kind::McpServer if ours => {
            let transports = spec.get_mut("endpoint").and_then(Value::as_object_mut);
            let mut found = Vec::new();
            for (name, transport) in transports.into_iter().flatten() {
                if name == "stdio" {
                    found.extend(list(transport.get_mut("env")));
                } else if is_kubernetes(transport.get("auth")) {
                    found.extend(list(transport.get_mut("headers")));
                }
            }
            found
        }
        Kind::Configuration => list(spec.pointer_mut("/tracing/otel/headers")),
        _ => Vec::new(),
    }
}

fn list(value: Option<&mut Value>) -> Vec<&mut Map<String, Value>> {
    value
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    /// Secrets in memory; each read is counted, and all fail while it is away, or have no answer while it hangs.
    #[derive(Default, Clone)]
    pub(crate) struct Fake {
        pub(crate) values: Arc<Mutex<HashMap<String, Values>>>,
        pub(crate) reads: Arc<AtomicUsize>,
        pub(crate) is_away: Arc<AtomicBool>,
        pub(crate) hangs: Arc<AtomicBool>,
    }

    impl Fake {
        pub(crate) fn with(name: &str, key: &str, value: &str) -> Self {
            let fake = Self::default();
            fake.put(name, key, value);
            fake
        }

        pub(crate) fn put(&self, name: &str, key: &str, value: &str) {
            let values = Values::from([(key.to_owned(), value.as_bytes().to_vec())]);
            self.values.lock().unwrap().insert(name.to_owned(), values);
        }
    }

    #[tonic::async_trait]
    impl Source for Fake {
        async fn read(&self, namespace: &str, name: &str) -> Result<Values, SecretError> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            if self.hangs.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            if self.is_away.load(Ordering::Relaxed) {
                return Err(SecretError::Unreadable(
                    namespace.into(),
                    name.into(),
                    "away".into(),
                ));
            }
            let found = self.values.lock().unwrap().get(name).cloned();
            found.ok_or_else(|| SecretError::NotFound(namespace.into(), name.into()))
        }
    }

    async fn put_in(kind: Kind, object: Value) -> Result<Value, SecretError> {
        let secrets = Secrets::new(Fake::with("sec", "pw", "s3cret"));
        let text = secrets.put_in(kind, "shop", object.to_string()).await?;
        Ok(serde_json::from_str(&text).unwrap())
    }

    #[tokio::test]
    async fn components_get_base64_and_configurations_plain_text() {
        let pair = json!({"name": "p", "secretKeyRef": {"name": "sec", "key": "pw"}});
        let got = put_in(Kind::Component, json!({"spec": {"metadata": [pair]}}))
            .await
            .unwrap();
        assert_eq!(got["spec"]["metadata"][0]["value"], "czNjcmV0");
        let config = json!({"spec": {"tracing": {"otel": {"headers": [pair]}}}});
        let got = put_in(Kind::Configuration, config).await.unwrap();
        assert_eq!(got["spec"]["tracing"]["otel"]["headers"][0]["value"], "s3cret");
        let tls =
            json!({"spec": {"clientTLS": {"rootCA": pair, "renegotiation": "Never"}, "headers": [pair]}});
        let got = put_in(Kind::HttpEndpoint, tls).await.unwrap();
        assert_eq!(got["spec"]["clientTLS"]["rootCA"]["value"], "czNjcmV0");
        assert_eq!(got["spec"]["headers"][0]["value"], "czNjcmV0");
        let mcp = json!({"spec": {"endpoint": {"stdio": {"env": [pair]}, "sse": {"headers": [pair]}}}});
        let got = put_in(Kind::McpServer, mcp).await.unwrap();
        assert_eq!(got["spec"]["endpoint"]["stdio"]["env"][0]["value"], "czNjcmV0");
        assert_eq!(got["spec"]["endpoint"]["sse"]["headers"][0]["value"], "czNjcmV0");
    }

    #[tokio::test]
    async fn another_store_is_left_alone_a_missing_key_stays_unset_and_a_missing_secret_fails() {
        let with = |name: &str, key: &str, auth: &str| {
            json!({"auth": {"secretStore": auth}, "spec": {"metadata":
                [{"name": "p", "secretKeyRef": {"name": name, "key": key}}]}})
        };
        let vault = with("sec", "pw", "vault");
        assert_eq!(put_in(Kind::Component, vault.clone()).await.unwrap(), vault);
        assert!(!is_resolved_here(Kind::Component, vault.as_object().unwrap()));
        let absent = with("sec", "absent", "kubernetes");
        assert_eq!(put_in(Kind::Component, absent.clone()).await.unwrap(), absent);
        assert!(is_resolved_here(Kind::Component, absent.as_object().unwrap()));
        let gone = put_in(Kind::Component, with("gone", "pw", "")).await;
        assert_eq!(gone, Err(SecretError::NotFound("shop".into(), "gone".into())));
        let headers = |key| {
            json!({"spec": {"tracing": {"otel": {"headers":
                [{"name": "p", "secretKeyRef": {"name": "sec", "key": key}}]}}}})
        };
        for key in ["", "absent"] {
            assert!(
                put_in(Kind::Configuration, headers(key)).await.is_err(),
                "{key:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_secret_is_read_once_a_second_and_outlives_an_absent_api_server() {
        let fake = Fake::with("sec", "pw", "s3cret");
        let secrets = Secrets::new(fake.clone());
        for _ in 0..10 {
            secrets.get("shop", "sec").await.unwrap();
        }
        assert_eq!(fake.reads.load(Ordering::Relaxed), 1);
        fake.is_away.store(true, Ordering::Relaxed);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(secrets.get("shop", "sec").await.is_ok());
        assert!(matches!(
            secrets.get("shop", "never").await,
            Err(SecretError::Unreadable(..))
        ));
        fake.is_away.store(false, Ordering::Relaxed);
        fake.values.lock().unwrap().clear();
        tokio::time::advance(AWAY).await;
        assert!(matches!(
            secrets.get("shop", "sec").await,
            Err(SecretError::NotFound(..))
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_hangs_delays_known_secrets_once_and_briefly() {
        let fake = Fake::with("sec", "pw", "s3cret");
        let secrets = Secrets::new(fake.clone());
        secrets.get("shop", "sec").await.unwrap();
        fake.hangs.store(true, Ordering::Relaxed);
        tokio::time::advance(Duration::from_secs(60)).await;
        let took = async |name: &str| {
            let start = Instant::now();
            let answer = secrets.get("shop", name).await;
            (start.elapsed(), answer.is_ok())
        };
        assert_eq!(took("sec").await, (PATIENCE, true));
        assert_eq!(took("sec").await, (Duration::ZERO, true));
        assert_eq!(took("never").await, (LIMIT, false));
        fake.hangs.store(false, Ordering::Relaxed);
        fake.put("sec", "pw", "new");
        tokio::time::advance(AWAY).await;
        assert_eq!(secrets.get("shop", "sec").await.unwrap()["pw"], b"new");
    }
}
