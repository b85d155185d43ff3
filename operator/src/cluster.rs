//! The way to the API server, and the system Configuration (contract `operator`, section 1).

use std::fmt::Display;
use std::time::Duration;

use kube::api::DynamicObject;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use outrigger_service::{Failure, soon};

use crate::kinds::Kind;

/// Finds the API server: the file of `--kubeconfig`, `$KUBECONFIG`, or the pod's own account.
///
/// # Errors
/// If nothing says where it is, or a file that does cannot be used.
pub async fn connect(kubeconfig: &str) -> Result<Client, Failure> {
    let config = if kubeconfig.is_empty() {
        Config::infer().await?
    } else {
        let file = Kubeconfig::read_from(kubeconfig)?;
        Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
    };
    Ok(Client::try_from(config)?)
}

/// What the system Configuration says about mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemConfig {
    /// Whether sidecars use it among themselves.
    pub mtls: bool,
    /// Where sentry is.
    pub sentry_address: String,
    /// The control plane's trust domain.
    pub trust_domain: String,
}

/// How long the API server may take for it.
const LIMIT: Duration = Duration::from_secs(10);

/// Reads it; the chart may install it a moment after us.
///
/// # Errors
/// If it is missing, says nothing about mutual TLS, or the API server does not answer.
pub async fn system_config(client: &Client, namespace: &str, name: &str) -> Result<SystemConfig, Failure> {
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), namespace, &Kind::Configuration.resource());
    let failed = |why: &dyn Display| {
        Failure::new(format!(
            "unable to get configuration {namespace}/{name}: {why}; the chart installs it, --config names it"
        ))
    };
    let what = format!("Configuration {name}");
    let found = soon(&what, async || {
        let asked = tokio::time::timeout(LIMIT, api.get_opt(name)).await;
        asked
            .map_err(|_| Failure::new(format!("the API server did not answer within {LIMIT:?}")))?
            .map_err(|error| failed(&error))
    });
    let object = found.await?.ok_or_else(|| failed(&"there is none"))?;
    let mtls = object.data.pointer("/spec/mtls").ok_or_else(|| {
        Failure::new(format!(
            "mTLS must be configured: Configuration {namespace}/{name} has no spec.mtls"
        ))
    })?;
    let text = |field: &str| {
        mtls.get(field)
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    Ok(SystemConfig {
        mtls: mtls
            .get("enabled")
            .and_then(serde_json::Value::as_bool)
            .unwrap_or(true),
        sentry_address: text("sentryAddress"),
        trust_domain: text("controlPlaneTrustDomain"),
    })
}
