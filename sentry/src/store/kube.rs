//! The Secret and the ConfigMap `dapr-trust-bundle`. Both must exist (the chart creates them empty); they are only
//! read and updated. A change carries the version that it is based on, so several replicas of sentry cannot overwrite
//! each other's work.

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Contents, Names, ROTATION, Store, StoreError, Stored};
use crate::cluster::{Cluster, ClusterError};
use crate::rotation::News;

const OBJECT: &str = "dapr-trust-bundle";

/// A bundle in Kubernetes.
#[derive(Debug, Clone)]
pub struct KubeStore {
    cluster: Cluster,
    namespace: String,
    names: Names,
}

impl KubeStore {
    /// In a namespace; `names` are keys of the Secret.
    pub const fn new(cluster: Cluster, namespace: String, names: Names) -> Self {
        Self {
            cluster,
            namespace,
            names,
        }
    }

    fn path(&self, kind: &str) -> String {
        format!("/api/v1/namespaces/{}/{kind}/{OBJECT}", self.namespace)
    }

    async fn get(&self, kind: &str) -> Result<Value, StoreError> {
        self.cluster.get(&self.path(kind)).await.map_err(|error| match error {
            ClusterError::NotFound => StoreError::Other(format!(
                "{kind}/{OBJECT} does not exist in namespace {}; the Helm chart creates it, create it empty otherwise",
                self.namespace
            )),
            other => failed(&other),
        })
    }

    async fn put(&self, kind: &str, object: &Value) -> Result<Value, StoreError> {
        match self.cluster.put(&self.path(kind), object).await {
            Err(ClusterError::Conflict) => Err(StoreError::Conflict),
            Err(error) => Err(failed(&error)),
            Ok(object) => Ok(object),
        }
    }

    fn event(&self, news: &News) -> Value {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let mut metadata = json!({"namespace": self.namespace, "labels": {"app": "dapr-sentry"}});
        match &news.key {
            Some(key) => metadata["name"] = json!(event_name(key)),
            None => metadata["generateName"] = json!("dapr-sentry-"),
        }
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": metadata,
            "involvedObject": {"apiVersion": "v1", "kind": "Secret", "name": OBJECT, "namespace": self.namespace},
            "reason": news.reason,
            "message": news.text,
            "type": if news.warning { "Warning" } else { "Normal" },
            "source": {"component": "dapr-sentry"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        })
    }

    /// Brings the ConfigMap in line with what the Secret holds, in its version `version`.
    async fn publish_contents(&self, contents: &Contents, version: &str) -> Result<(), StoreError> {
        let mut map = self.get("configmaps").await?;
        let before = map["data"].clone();
        set_text(&mut map, "data", &self.names.ca, contents.ca.as_deref());
        set_text(&mut map, "data", &self.names.jwks, contents.jwks.as_deref());
        if map["data"] == before {
            return Ok(());
        }
        // Read after the ConfigMap, whose version the update carries: who is overtaken by another replica, however long
        // it slept, cannot publish what is no longer so.
        let secret = self.get("secrets").await?;
        if version_of(&secret) != version {
            return Err(StoreError::Conflict);
        }
        self.put("configmaps", &map).await?;
        Ok(())
    }
}

/// Which state of an object this is.
fn version_of(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap_or_default()
}

/// A name that is the same whoever tells it.
fn event_name(key: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, key.as_bytes());
    let hex: String = digest.as_ref()[..12]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("dapr-sentry-{hex}")
}

fn failed(error: &ClusterError) -> StoreError {
    StoreError::Other(format!("the Kubernetes API: {error}"))
}

/// A key of a Secret, decoded; an empty value counts as none.
fn secret_text(secret: &Value, name: &str) -> Result<Option<String>, StoreError> {
    let Some(text) = secret["data"][name].as_str().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let bytes = STANDARD.decode(text).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    text.map(Some)
        .ok_or_else(|| StoreError::Other(format!("key {name} of secrets/{OBJECT} is no text")))
}

fn set_text(object: &mut Value, field: &str, name: &str, text: Option<&str>) {
    if !object[field].is_object() {
        object[field] = json!({});
    }
    if let Some(fields) = object[field].as_object_mut() {
        match text {
            Some(text) => drop(fields.insert(name.to_owned(), json!(text))),
            None => drop(fields.remove(name)),
        }
    }
}

#[async_trait]
impl Store for KubeStore {
    async fn load(&self) -> Result<Stored, StoreError> {
        let secret = self.get("secrets").await?;
        let map = self.get("configmaps").await?;
        let text = |name: &str| secret_text(&secret, name);
        let published = |name: &str| {
            map["data"][name]
                .as_str()
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        Ok(Stored {
            contents: Contents {
                ca: text(&self.names.ca)?,
                issuer_cert: text(&self.names.issuer_cert)?,
                issuer_key: text(&self.names.issuer_key)?,
                jwt_key: text(&self.names.jwt_key)?,
                jwks: text(&self.names.jwks)?,
                rotation: text(ROTATION)?,
            },
            published_ca: published(&self.names.ca),
            published_jwks: published(&self.names.jwks),
            version: version_of(&secret).to_owned(),
        })
    }

    async fn save(&self, contents: &Contents, read: &Stored) -> Result<(), StoreError> {
        let mut secret = self.get("secrets").await?;
        if version_of(&secret) != read.version {
            return Err(StoreError::Conflict);
        }
        for (name, text) in [
            (self.names.ca.as_str(), &contents.ca),
            (&self.names.issuer_cert, &contents.issuer_cert),
            (&self.names.issuer_key, &contents.issuer_key),
            (&self.names.jwt_key, &contents.jwt_key),
            (&self.names.jwks, &contents.jwks),
            (ROTATION, &contents.rotation),
        ] {
            let encoded = text.as_ref().map(|text| STANDARD.encode(text));
            set_text(&mut secret, "data", name, encoded.as_deref());
        }
        // The object carries the version that was read: the API server refuses it if there is a newer one.
        let saved = self.put("secrets", &secret).await?;
        self.publish_contents(contents, version_of(&saved)).await
    }

    async fn publish(&self, read: &Stored) -> Result<(), StoreError> {
        self.publish_contents(&read.contents, &read.version).await
    }

    async fn announce(&self, news: &News) -> bool {
        let event = self.event(news);
        let path = format!("/api/v1/namespaces/{}/events", self.namespace);
        match self.cluster.post(&path, &event).await {
            // Another replica has told it.
            Ok(_) | Err(ClusterError::Conflict) => true,
            Err(error) => {
                tracing::debug!(target: "dapr.sentry", "no Kubernetes Event for {}: {error}", news.reason);
                // A right that is not there will not be there at the next look either.
                matches!(error, ClusterError::Forbidden(_))
            }
        }
    }

    fn place(&self) -> String {
        format!("Secret {OBJECT} in namespace {}", self.namespace)
    }
}
