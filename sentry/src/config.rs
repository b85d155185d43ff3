//! What sentry reads of the system's Configuration: `spec.mtls`.

use std::collections::BTreeMap;
use std::time::Duration;

use outrigger_model::GoDuration;
use outrigger_process::Environment;
use outrigger_resources::configuration;
use outrigger_service::{Failure, soon};
use serde_json::Value;

use crate::cluster::{Cluster, ClusterError};
use crate::validate::JwksOptions;

const DEFAULT_TTL: Duration = Duration::from_hours(24);
const DEFAULT_SKEW: Duration = Duration::from_mins(15);

/// The settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemConfig {
    /// `workloadCertTTL`
    pub workload_ttl: Duration,
    /// `allowedClockSkew`
    pub clock_skew: Duration,
    /// `tokenValidators`: only `jwks` can be configured.
    pub jwks: Option<JwksOptions>,
}

/// From a file.
///
/// # Errors
/// If it cannot be read, or a setting makes no sense.
pub fn from_file(path: &str, environment: &Environment) -> Result<SystemConfig, Failure> {
    let loaded = configuration::load::load(&[path], |name| environment.get(name).map(str::to_owned))
        .map_err(|error| Failure::new(format!("failed to load the configuration: {error}")))?;
    let mtls = serde_json::to_value(&loaded.spec.mtls).unwrap_or_default();
    read(&mtls)
}

/// From the Configuration of that name in sentry's namespace; the chart may install it a moment after us.
///
/// # Errors
/// If it is missing, or a setting makes no sense.
pub async fn from_cluster(cluster: &Cluster, namespace: &str, name: &str) -> Result<SystemConfig, Failure> {
    let path = format!("/apis/dapr.io/v1alpha1/namespaces/{namespace}/configurations/{name}");
    let what = format!("Configuration {name}");
    let found = soon(&what, async || match cluster.get(&path).await {
        Ok(configuration) => Ok(Some(configuration)),
        Err(ClusterError::NotFound) => Ok(None),
        Err(other) => Err(Failure::new(format!(
            "Configuration {name} cannot be read: {other}"
        ))),
    });
    let configuration = found.await?.ok_or_else(|| {
        Failure::new(format!(
            "Configuration {name} does not exist in namespace {namespace}; create it, or name another with --config"
        ))
    })?;
    read(&configuration["spec"]["mtls"])
}

fn read(mtls: &Value) -> Result<SystemConfig, Failure> {
    let duration = |name: &str, default: Duration| match mtls[name].as_str() {
        None | Some("") => Ok(default),
        Some(text) => GoDuration::parse(text)
            .ok()
            .and_then(GoDuration::to_std)
            .ok_or_else(|| {
                Failure::new(format!(
                    "spec.mtls.{name}: {text:?} is no duration like 24h or 15m"
                ))
            }),
    };
    let workload_ttl = duration("workloadCertTTL", DEFAULT_TTL)?;
    if workload_ttl.is_zero() {
        return Err(Failure::new("spec.mtls.workloadCertTTL must be longer than zero"));
    }
    Ok(SystemConfig {
        workload_ttl,
        clock_skew: duration("allowedClockSkew", DEFAULT_SKEW)?,
        jwks: validators(&mtls["tokenValidators"])?,
    })
}

fn validators(list: &Value) -> Result<Option<JwksOptions>, Failure> {
    let mut jwks = None;
    for validator in list.as_array().into_iter().flatten() {
        match validator["name"].as_str().unwrap_or_default() {
            "jwks" => {
                let options: BTreeMap<String, Value> = validator["options"]
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect();
                let options = JwksOptions::read(&options)
                    .map_err(|error| Failure::new(format!("token validator jwks: {error}")))?;
                jwks = Some(options);
            }
            name @ ("kubernetes" | "insecure") => {
                return Err(Failure::new(format!(
                    "token validator {name} cannot be configured: remove it from spec.mtls.tokenValidators, it is on where it applies"
                )));
            }
            other => {
                return Err(Failure::new(format!(
                    "token validator {other:?} is unknown: only jwks can be configured in spec.mtls.tokenValidators"
                )));
            }
        }
    }
    Ok(jwks)
}
