//! Configuration (contract `config-resources`, section 8).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{DURATION, NameValuePair, any_json};

/// Settings of sidecars, or of the control plane (`daprsystem`).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    /// The settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<ConfigurationSpec>,
}

/// Settings of sidecars, or of the control plane.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationSpec {
    /// Middleware of the HTTP API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_pipeline: Option<Pipeline>,
    /// Middleware of calls to the app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_http_pipeline: Option<Pipeline>,
    /// Traces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
    /// Metrics: the older spelling.
    #[serde(default = "metrics_on")]
    #[schemars(extend("default" = {"enabled": true}))]
    pub metric: Metrics,
    /// Metrics: what is set here overrides `metric`.
    #[serde(default = "metrics_on")]
    #[schemars(extend("default" = {"enabled": true}))]
    pub metrics: Metrics,
    /// Mutual TLS, read by the control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<Mtls>,
    /// Which secrets the API hands out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Secrets>,
    /// Who may call the app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_control: Option<AccessControl>,
    /// How app ids become addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_resolution: Option<NameResolution>,
    /// Features switched on or off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<Feature>>,
    /// Which API calls there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<Api>,
    /// Which components may not be loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub components: Option<Components>,
    /// What is logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logging: Option<Logging>,
    /// WebAssembly components.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wasm: Option<Wasm>,
    /// Workflows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<Workflow>,
}

fn metrics_on() -> Metrics {
    Metrics {
        enabled: Some(true),
        ..Metrics::default()
    }
}

/// Middleware in the order in which it runs.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pipeline {
    /// The handlers.
    pub handlers: Vec<Handler>,
}

/// One middleware.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Handler {
    /// Name of the component.
    pub name: String,
    /// Its type, e.g. `middleware.http.uppercase`.
    #[serde(rename = "type")]
    pub handler_type: String,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
}

/// Without effect; kept for manifests that have it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    /// Fields.
    pub fields: Vec<SelectorField>,
}

/// Without effect; kept for manifests that have it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SelectorField {
    /// Field.
    pub field: String,
    /// Value.
    pub value: String,
}

/// Traces.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tracing {
    /// Which part of all calls is traced: `0` to `1` as text.
    pub sampling_rate: String,
    /// Whether spans are logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<bool>,
    /// Zipkin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zipkin: Option<Zipkin>,
    /// OpenTelemetry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otel: Option<Otel>,
}

/// Zipkin.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Zipkin {
    /// URL of the collector.
    pub endpoint_address: String,
}

/// OpenTelemetry.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Otel {
    /// `grpc` or `http`
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self == '' || self == 'grpc' || self == 'http'",
        "message": "must be grpc or http"
    }]))]
    pub protocol: String,
    /// `host:port` of the collector.
    pub endpoint_address: String,
    /// Whether TLS is used.
    pub is_secure: bool,
    /// Sent with every export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Vec<NameValuePair>>,
    /// Limit of one export: a Go duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

/// Metrics.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Metrics {
    /// Whether they are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Whether error codes are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_error_codes: Option<bool>,
    /// Upper bounds of latency buckets, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_distribution_buckets: Option<Vec<i64>>,
    /// Metrics of HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpMetrics>,
    /// Metrics of workflows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<WorkflowMetrics>,
    /// Rewriting of labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<MetricRule>>,
}

/// Metrics of HTTP.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpMetrics {
    /// Whether every path and method has its own series.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub increased_cardinality: Option<bool>,
    /// Templates of paths that share a series.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_matching: Option<Vec<String>>,
    /// Whether the method is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclude_verbs: Option<bool>,
}

/// Metrics of workflows.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkflowMetrics {
    /// Upper bounds of latency buckets, in `latencyDistributionUnits`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_distribution_buckets: Option<Vec<i64>>,
    /// Unit of the bounds: a Go duration, `1ms` if empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_distribution_units: Option<String>,
}

/// Rewriting of the labels of one metric.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetricRule {
    /// The metric.
    pub name: String,
    /// Its labels.
    pub labels: Vec<MetricLabel>,
}

/// Rewriting of one label.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetricLabel {
    /// The label.
    pub name: String,
    /// New values and the patterns that they stand for.
    pub regex: BTreeMap<String, String>,
}

/// Mutual TLS.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mtls {
    /// Whether sidecars use it.
    pub enabled: bool,
    /// Lifetime of workload certificates: a Go duration.
    #[serde(default, rename = "workloadCertTTL", skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub workload_cert_ttl: Option<String>,
    /// How far clocks may differ: a Go duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub allowed_clock_skew: Option<String>,
    /// `host:port` of sentry.
    pub sentry_address: String,
    /// Trust domain of the control plane.
    pub control_plane_trust_domain: String,
    /// Further ways to prove an identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_validators: Option<Vec<TokenValidator>>,
}

/// A way to prove an identity.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenValidator {
    /// Which one.
    pub name: ValidatorName,
    /// Its settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_json")]
    pub options: Option<serde_json::Value>,
}

/// Name of a way to prove an identity.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ValidatorName {
    /// Tokens signed by keys of a JWKS.
    Jwks,
}

/// Which secrets the API hands out.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Secrets {
    /// Rules by store; a store may be named once.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["storeName"]))]
    pub scopes: Vec<SecretsScope>,
}

/// Which secrets of a store the API hands out.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretsScope {
    /// The store.
    pub store_name: String,
    /// `allow` (the default) or `deny`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_access: Option<String>,
    /// If any is named, only these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_secrets: Option<Vec<String>>,
    /// Never these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denied_secrets: Option<Vec<String>>,
}

/// Who may call the app.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessControl {
    /// `allow` or `deny` for calls that no policy decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_action: Option<String>,
    /// The app's own trust domain; `public` if empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
    /// Rules by caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub policies: Option<Vec<AppPolicy>>,
}

/// What one caller may do.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "self.appId != ''",
        "message": "a policy needs the appId of the caller", "fieldPath": ".appId"
    },
    {
        "rule": "has(self.trustDomain) && self.trustDomain != ''",
        "message": "a policy needs the trustDomain of the caller, e.g. public"
    },
    {
        "rule": "has(self.namespace) && self.namespace != ''",
        "message": "a policy needs the namespace of the caller, e.g. default"
    }
]))]
pub struct AppPolicy {
    /// The caller's app id.
    pub app_id: String,
    /// `allow` or `deny` for what no operation decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_action: Option<String>,
    /// The caller's trust domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
    /// The caller's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Rules by path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<Vec<Operation>>,
}

/// A rule for a path.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// The path; `*` and `**` are wildcards.
    pub name: String,
    /// HTTP methods; `*` is any.
    #[serde(default, rename = "httpVerb", skip_serializing_if = "Option::is_none")]
    pub http_verb: Option<Vec<String>>,
    /// `allow` or `deny`
    pub action: String,
}

/// How app ids become addresses.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NameResolution {
    /// Name of the resolver, e.g. `consul`.
    pub component: String,
    /// Its version.
    pub version: String,
    /// Its settings.
    #[schemars(schema_with = "any_json")]
    pub configuration: serde_json::Value,
}

/// A feature switched on or off.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Feature {
    /// Which one.
    pub name: String,
    /// Whether it is on.
    pub enabled: bool,
}

/// Which API calls there are.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Api {
    /// If any is named, only these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<Vec<ApiRule>>,
    /// Never these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denied: Option<Vec<ApiRule>>,
}

/// A group of API calls.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiRule {
    /// The group, e.g. `state`.
    pub name: String,
    /// The version, e.g. `v1`.
    pub version: String,
    /// `http` or `grpc`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

/// Which components may not be loaded.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Components {
    /// Types, e.g. `state.redis` or `state.redis/v1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deny: Option<Vec<String>>,
}

/// What is logged.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Logging {
    /// Log lines of API calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_logging: Option<ApiLogging>,
}

/// Log lines of API calls.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiLogging {
    /// Whether there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Whether patterns stand in for paths.
    #[serde(default, rename = "obfuscateURLs", skip_serializing_if = "Option::is_none")]
    pub obfuscate_urls: Option<bool>,
    /// Whether health checks are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omit_health_checks: Option<bool>,
}

/// WebAssembly components.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Wasm {
    /// Whether clocks, random numbers and the like are withheld.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict_sandbox: Option<bool>,
}

/// Workflows.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Workflow {
    /// Workflows at once in one sidecar; no limit if 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent_workflow_invocations: Option<i32>,
    /// Activities at once in one sidecar; no limit if 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent_activity_invocations: Option<i32>,
    /// Workflows at once in all replicas; no limit if 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global_max_concurrent_workflow_invocations: Option<i32>,
    /// Activities at once in all replicas; no limit if 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global_max_concurrent_activity_invocations: Option<i32>,
    /// Limits by workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow_concurrency_limits: Option<Vec<ConcurrencyLimit>>,
    /// Limits by activity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity_concurrency_limits: Option<Vec<ConcurrencyLimit>>,
    /// When finished workflows are removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_retention_policy: Option<StateRetention>,
}

/// A limit by name.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConcurrencyLimit {
    /// The workflow or activity.
    pub name: String,
    /// How many at once.
    pub max_concurrent: i32,
}

/// When finished workflows are removed: Go durations.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StateRetention {
    /// After any end that no other field decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub any_terminal: Option<String>,
    /// After success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub completed: Option<String>,
    /// After failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub failed: Option<String>,
    /// After termination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub terminated: Option<String>,
}
