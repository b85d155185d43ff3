//! The Secret and the ConfigMap `dapr-trust-bundle`. Both must exist (the chart creates them empty); they are only
//! read and updated. A change carries the version that it is based on, so several replicas of sentry cannot overwrite
//! each other's work.

use std::collections::BTreeMap;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Contents, Names, ROTATION, Store, StoreError, Stored};
use crate::cluster::{Cluster, ClusterError};

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

    /// Brings the ConfigMap in line with what the Secret holds.
    async fn publish_contents(&self, contents: &Contents) -> Result<(), StoreError> {
        let mut map = self.get("configmaps").await?;
        let before = map["data"].clone();
        set_text(&mut map, "data", &self.names.ca, contents.ca.as_deref());
        set_text(&mut map, "data", &self.names.jwks, contents.jwks.as_deref());
        if map["data"] != before {
            self.put("configmaps", &map).await?;
        }
        Ok(())
    }
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
            version: secret["metadata"]["resourceVersion"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        })
    }

    async fn save(&self, contents: &Contents, read: &Stored) -> Result<(), StoreError> {
        let mut secret = self.get("secrets").await?;
        if secret["metadata"]["resourceVersion"].as_str() != Some(read.version.as_str()) {
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
        self.put("secrets", &secret).await?;
        self.publish_contents(contents).await
    }

    async fn publish(&self, read: &Stored) -> Result<(), StoreError> {
        self.publish_contents(&read.contents).await
    }

    async fn announce(&self, warning: bool, reason: &str, message: &str) {
        let now = jiff::Timestamp::now();
        let mut labels = BTreeMap::new();
        labels.insert("app", "dapr-sentry");
        let event = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": "dapr-sentry-", "namespace": self.namespace, "labels": labels},
            "involvedObject": {"apiVersion": "v1", "kind": "Secret", "name": OBJECT, "namespace": self.namespace},
            "reason": reason,
            "message": message,
            "type": if warning { "Warning" } else { "Normal" },
            "source": {"component": "dapr-sentry"},
            "firstTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "lastTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "count": 1,
        });
        let path = format!("/api/v1/namespaces/{}/events", self.namespace);
        if let Err(error) = self.cluster.post(&path, &event).await {
            tracing::debug!(target: "dapr.sentry", "no Kubernetes Event for {reason}: {error}");
        }
    }

    fn place(&self) -> String {
        format!("Secret {OBJECT} in namespace {}", self.namespace)
    }
}
