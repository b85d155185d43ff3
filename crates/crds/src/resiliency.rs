//! Resiliency (contract `config-resources`, section 9).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::DURATION;

/// Timeouts, retries and circuit breakers, and what they apply to.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resiliency {
    /// The policies and their targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<ResiliencySpec>,
    /// Ids of the apps that they hold for; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

/// Policies and their targets.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResiliencySpec {
    /// The policies by name.
    pub policies: Policies,
    /// What they apply to.
    pub targets: Targets,
}

/// Policies by name.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Policies {
    /// Limits of one attempt: Go durations, bare numbers are milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<BTreeMap<String, String>>,
    /// Retries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<BTreeMap<String, Retry>>,
    /// Circuit breakers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breakers: Option<BTreeMap<String, CircuitBreaker>>,
}

/// How often and when an attempt is repeated.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// `constant` (the default) or `exponential`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(
        pattern = r"^(|[cC][oO][nN][sS][tT][aA][nN][tT]|[eE][xX][pP][oO][nN][eE][nN][tT][iI][aA][lL])$"
    ))]
    pub policy: Option<String>,
    /// Pause between attempts of `constant`; 5 s if empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub duration: Option<String>,
    /// Longest pause of `exponential`; 60 s if empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub max_interval: Option<String>,
    /// Attempts after the first one; -1 (the default) has no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<i64>,
    /// Which answers are repeated; all failures if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matching: Option<Matching>,
}

/// Which answers are repeated: codes and ranges, comma separated, e.g. `429,500-599`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Matching {
    /// HTTP status codes from 100 to 599.
    #[serde(default, rename = "httpStatusCodes", skip_serializing_if = "Option::is_none")]
    #[schemars(regex(
        pattern = r"^\s*(|[1-5][0-9]{2}\s*(-\s*[1-5][0-9]{2})?(\s*,\s*[1-5][0-9]{2}\s*(-\s*[1-5][0-9]{2})?)*)\s*$"
    ))]
    pub http_status_codes: Option<String>,
    /// gRPC status codes from 0 to 16.
    #[serde(default, rename = "gRPCStatusCodes", skip_serializing_if = "Option::is_none")]
    #[schemars(regex(
        pattern = r"^\s*(|([0-9]|1[0-6])\s*(-\s*([0-9]|1[0-6]))?(\s*,\s*([0-9]|1[0-6])\s*(-\s*([0-9]|1[0-6]))?)*)\s*$"
    ))]
    pub grpc_status_codes: Option<String>,
}

/// When calls are refused for a while.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// Probes while half open; 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<i64>,
    /// How often counts are reset while closed; never if empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub interval: Option<String>,
    /// How long it stays open; 60 s if empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub timeout: Option<String>,
    /// When it opens: CEL over the counts; `consecutiveFailures > 5` if empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trip: Option<String>,
}

/// What policies apply to.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Targets {
    /// By app id, HTTPEndpoint or URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apps: Option<BTreeMap<String, AppTarget>>,
    /// By actor type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actors: Option<BTreeMap<String, ActorTarget>>,
    /// By component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub components: Option<BTreeMap<String, ComponentTarget>>,
}

/// Names of the policies of an app.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppTarget {
    /// Name of a timeout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Name of a retry policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
    /// Name of a circuit breaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<String>,
    /// How many circuit breakers are kept; 100 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker_cache_size: Option<i64>,
}

/// Names of the policies of an actor type.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.circuitBreaker) || self.circuitBreaker == '' || has(self.circuitBreakerScope)",
    "message": "a circuit breaker of actors must say its circuitBreakerScope: type, id or both"
}]))]
pub struct ActorTarget {
    /// Name of a timeout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Name of a retry policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
    /// Name of a circuit breaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<String>,
    /// What shares a circuit breaker: `type`, `id` or `both`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^(type|id|both)$"))]
    pub circuit_breaker_scope: Option<String>,
    /// How many circuit breakers are kept; 5000 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker_cache_size: Option<i64>,
}

/// Names of the policies of a component, by direction.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComponentTarget {
    /// From the component to the app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbound: Option<PolicyNames>,
    /// From the sidecar to the component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbound: Option<PolicyNames>,
}

/// Names of policies.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyNames {
    /// Name of a timeout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Name of a retry policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
    /// Name of a circuit breaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<String>,
}
