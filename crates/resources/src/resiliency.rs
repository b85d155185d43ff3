//! Resiliency as written (contract `config-resources`, section 9.1). What it means is the resiliency crate's matter.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::common::{ObjectMeta, Resource};

/// Timeouts, retries and circuit breakers, and what they apply to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Resiliency {
    /// Name and namespace.
    pub metadata: ObjectMeta,
    /// Policies and targets.
    pub spec: ResiliencySpec,
    /// Apps it is for; empty = all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

/// `spec` of a Resiliency.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResiliencySpec {
    /// Named policies.
    pub policies: Policies,
    /// What they apply to.
    pub targets: Targets,
}

/// `spec.policies`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Policies {
    /// Durations by name; a bare integer is milliseconds.
    pub timeouts: BTreeMap<String, String>,
    /// Retries by name.
    pub retries: BTreeMap<String, Retry>,
    /// Circuit breakers by name.
    pub circuit_breakers: BTreeMap<String, CircuitBreaker>,
}

/// A retry policy as written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Retry {
    /// `constant` or `exponential`
    pub policy: String,
    /// Pause of a constant policy.
    pub duration: String,
    /// Longest pause of an exponential policy.
    pub max_interval: String,
    /// Retries after the first try; -1 = for ever, `None` = the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<i64>,
    /// Which codes are retried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matching: Option<RetryMatching>,
}

/// Codes that are retried: comma-separated numbers and `a-b` ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetryMatching {
    /// 100 to 599
    #[serde(rename = "httpStatusCodes")]
    pub http_status_codes: String,
    /// 0 to 16
    #[serde(rename = "gRPCStatusCodes")]
    pub grpc_status_codes: String,
}

/// A circuit breaker as written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// Probes while half open; 0 = 1.
    pub max_requests: i64,
    /// How often counts are cleared while closed; empty = never.
    pub interval: String,
    /// How long it stays open; empty = 60 s.
    pub timeout: String,
    /// CEL that opens it.
    pub trip: String,
}

/// `spec.targets`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Targets {
    /// By app id, HTTPEndpoint name or URL.
    pub apps: BTreeMap<String, EndpointPolicyNames>,
    /// By actor type.
    pub actors: BTreeMap<String, ActorPolicyNames>,
    /// By component name.
    pub components: BTreeMap<String, ComponentPolicyNames>,
}

/// Policies of an app.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointPolicyNames {
    /// Name of a timeout.
    pub timeout: String,
    /// Name of a retry.
    pub retry: String,
    /// Name of a circuit breaker.
    pub circuit_breaker: String,
    /// Most breakers kept for the app; 0 = default.
    pub circuit_breaker_cache_size: i64,
}

/// Policies of an actor type.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ActorPolicyNames {
    /// Name of a timeout.
    pub timeout: String,
    /// Name of a retry.
    pub retry: String,
    /// Name of a circuit breaker.
    pub circuit_breaker: String,
    /// `type`, `id` or `both`; required with a breaker.
    pub circuit_breaker_scope: String,
    /// Most breakers kept for the type; 0 = default.
    pub circuit_breaker_cache_size: i64,
}

/// Policies of a component in both directions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ComponentPolicyNames {
    /// From the component to the app.
    pub inbound: PolicyNames,
    /// From the sidecar to the component.
    pub outbound: PolicyNames,
}

/// Policies of one direction of a component.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PolicyNames {
    /// Name of a timeout.
    pub timeout: String,
    /// Name of a retry.
    pub retry: String,
    /// Name of a circuit breaker.
    pub circuit_breaker: String,
}

impl Resource for Resiliency {
    const KIND: &'static str = "Resiliency";

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn scopes(&self) -> &[String] {
        &self.scopes
    }
}
