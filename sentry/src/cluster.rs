//! The Kubernetes API, as far as sentry needs it: plain requests and JSON.

use std::path::Path;

use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;
use thiserror::Error;

/// Why a request to the API failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClusterError {
    /// No such object.
    #[error("not found")]
    NotFound,
    /// The object was changed in between.
    #[error("conflict")]
    Conflict,
    /// The service account lacks a right.
    #[error("forbidden: {0}; check the Role and ClusterRole dapr-sentry")]
    Forbidden(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl From<kube::Error> for ClusterError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => match status.code {
                404 => Self::NotFound,
                409 => Self::Conflict,
                403 => Self::Forbidden(status.message.clone()),
                _ => Self::Other(status.message.clone()),
            },
            other => Self::Other(other.to_string()),
        }
    }
}

/// A connection to the Kubernetes API. Cheap to clone.
#[derive(Clone)]
pub struct Cluster(kube::Client);

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cluster")
    }
}

impl Cluster {
    /// With the pod's service account, or else the kubeconfig file.
    ///
    /// # Errors
    /// If there is neither.
    pub async fn connect(kubeconfig: &Path) -> Result<Self, ClusterError> {
        let failed = |error: &dyn std::fmt::Display| ClusterError::Other(error.to_string());
        let config = match kube::Config::incluster() {
            Ok(config) => config,
            Err(in_cluster) => {
                let file = Kubeconfig::read_from(kubeconfig).map_err(|error| {
                    failed(&format!(
                        "no Kubernetes API to talk to: not in a pod ({in_cluster}), and the file of --kubeconfig cannot be used: {error}"
                    ))
                })?;
                kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                    .await
                    .map_err(|error| failed(&error))?
            }
        };
        let client = kube::Client::try_from(config).map_err(|error| failed(&error))?;
        Ok(Self(client))
    }

    async fn request(&self, method: http::Method, path: &str, body: Vec<u8>) -> Result<Value, ClusterError> {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .body(body)
            .map_err(|error| ClusterError::Other(error.to_string()))?;
        Ok(self.0.request(request).await?)
    }

    /// Reads an object.
    ///
    /// # Errors
    /// As [`ClusterError`] says.
    pub async fn get(&self, path: &str) -> Result<Value, ClusterError> {
        self.request(http::Method::GET, path, Vec::new()).await
    }

    /// Replaces an object.
    ///
    /// # Errors
    /// As [`ClusterError`] says.
    pub async fn put(&self, path: &str, object: &Value) -> Result<Value, ClusterError> {
        self.request(http::Method::PUT, path, object.to_string().into_bytes())
            .await
    }

    /// Creates an object.
    ///
    /// # Errors
    /// As [`ClusterError`] says.
    pub async fn post(&self, path: &str, object: &Value) -> Result<Value, ClusterError> {
        self.request(http::Method::POST, path, object.to_string().into_bytes())
            .await
    }
}
