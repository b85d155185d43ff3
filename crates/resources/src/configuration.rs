//! Configuration (contract `config-resources`, section 8): the types; how files become one is in [`load`].

pub mod load;
mod tracing_env;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::common::{NameValuePair, ObjectMeta, Resource};

pub use tracing_env::{DEFAULT_SAMPLING_RATE, sampling_rate};

/// Settings of a sidecar beyond its flags.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Configuration {
    /// Name and namespace.
    pub metadata: ObjectMeta,
    /// The settings.
    pub spec: ConfigurationSpec,
}

/// `spec` of a Configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConfigurationSpec {
    /// Tracing.
    pub tracing: TracingSpec,
    /// The older spelling of `metrics`; see [`ConfigurationSpec::effective_metrics`].
    pub metric: MetricsSpec,
    /// Metrics; each field set here overrides `metric`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<MetricsSpec>,
    /// Middleware of the HTTP API.
    pub http_pipeline: PipelineSpec,
    /// Middleware of calls to the app.
    pub app_http_pipeline: PipelineSpec,
    /// Who may call the app.
    pub access_control: AccessControlSpec,
    /// Which secrets the API hands out.
    pub secrets: SecretsSpec,
    /// How app ids become addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_resolution: Option<NameResolutionSpec>,
    /// Mutual TLS; read by the control plane, kept as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<Value>,
    /// Features switched on or off; see [`ConfigurationSpec::is_enabled`].
    pub features: Vec<FeatureSpec>,
    /// Which API routes exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<ApiSpec>,
    /// Which components may not be loaded.
    pub components: ComponentsSpec,
    /// What is logged.
    pub logging: LoggingSpec,
    /// WebAssembly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wasm: Option<WasmSpec>,
    /// Workflows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<WorkflowSpec>,
}

/// `spec.tracing`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TracingSpec {
    /// 0 to 1 as text; see [`sampling_rate`].
    pub sampling_rate: String,
    /// Whether spans are logged.
    pub stdout: bool,
    /// Zipkin.
    pub zipkin: ZipkinSpec,
    /// OpenTelemetry.
    pub otel: OtelSpec,
}

/// `spec.tracing.zipkin`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ZipkinSpec {
    /// URL; empty = off.
    pub endpoint_address: String,
}

/// `spec.tracing.otel`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OtelSpec {
    /// `grpc` or `http`
    pub protocol: String,
    /// `host:port`; empty = off.
    pub endpoint_address: String,
    /// TLS; `true` unless said otherwise.
    pub is_secure: bool,
    /// Sent with every export.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<OtelHeader>,
    /// Go duration; empty = the exporter's default.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub timeout: String,
}

/// A header of the exporter: `k=v` in files, a pair in Kubernetes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum OtelHeader {
    /// `k=v`
    Text(String),
    /// A pair whose secret has been resolved.
    Pair(NameValuePair),
}

impl<'de> Deserialize<'de> for OtelHeader {
    /// By hand, because serde's untagged enums would lose that numbers become text.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> serde::de::Visitor<'de> for Either {
            type Value = OtelHeader;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text k=v, or a mapping with name and value")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<OtelHeader, E> {
                Ok(OtelHeader::Text(text.to_owned()))
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<OtelHeader, A::Error> {
                let map = serde::de::value::MapAccessDeserializer::new(map);
                NameValuePair::deserialize(map).map(OtelHeader::Pair)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl OtelHeader {
    /// Name and value.
    pub fn pair(&self) -> (String, String) {
        match self {
            Self::Text(text) => {
                let (name, value) = text.split_once('=').unwrap_or((text, ""));
                (name.to_owned(), value.to_owned())
            }
            Self::Pair(pair) => (pair.name.clone(), pair.value_text()),
        }
    }
}

/// `spec.metric` or `spec.metrics` as written; absent fields are `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MetricsSpec {
    /// Whether metrics are kept; default `true`.
    pub enabled: Option<bool>,
    /// Whether error codes are counted; default `false`.
    pub record_error_codes: Option<bool>,
    /// Labels of HTTP metrics.
    pub http: Option<HttpMetricsSpec>,
    /// Buckets of latencies in milliseconds.
    pub latency_distribution_buckets: Option<Vec<i64>>,
    /// Metrics of workflows.
    pub workflow: Option<WorkflowMetricsSpec>,
    /// Rewriting of labels.
    pub rules: Option<Vec<MetricsRule>>,
}

/// `spec.metrics.http`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpMetricsSpec {
    /// Whether paths are labels; default `true`.
    pub increased_cardinality: Option<bool>,
    /// Templates that paths are matched against.
    pub path_matching: Option<Vec<String>>,
    /// Whether the verb is left out of labels; default `false`.
    pub exclude_verbs: Option<bool>,
}

/// `spec.metrics.workflow`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkflowMetricsSpec {
    /// Buckets; default the shared ones.
    pub latency_distribution_buckets: Option<Vec<i64>>,
    /// Unit of the buckets as a duration; default `1ms`.
    pub latency_distribution_units: String,
}

/// A rewriting rule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MetricsRule {
    /// Metric.
    pub name: String,
    /// Labels.
    pub labels: Vec<MetricsLabel>,
}

/// A label of a rewriting rule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MetricsLabel {
    /// Label.
    pub name: String,
    /// Replacement to pattern.
    pub regex: BTreeMap<String, String>,
}

/// A middleware pipeline.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PipelineSpec {
    /// In the order of execution.
    pub handlers: Vec<HandlerSpec>,
}

/// One middleware of a pipeline.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandlerSpec {
    /// Component name.
    pub name: String,
    /// Component type.
    #[serde(rename = "type")]
    pub handler_type: String,
    /// Component version; empty = `v1`.
    pub version: String,
}

/// `spec.accessControl`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AccessControlSpec {
    /// `allow` or `deny`
    pub default_action: String,
    /// This app's trust domain.
    pub trust_domain: String,
    /// Per caller; an empty list and none at all differ in what an empty `defaultAction` means.
    pub policies: Option<Vec<AppPolicySpec>>,
}

/// What one caller may do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AppPolicySpec {
    /// The caller's app id. Upstream's files spell it `appId`.
    pub app_id: String,
    /// For operations that are not listed.
    pub default_action: String,
    /// The caller's trust domain.
    pub trust_domain: String,
    /// The caller's namespace.
    pub namespace: String,
    /// Single operations.
    pub operations: Vec<OperationSpec>,
}

/// What may be done with one operation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OperationSpec {
    /// Path, with wildcards.
    pub name: String,
    /// Verbs it is about; HTTP only.
    pub http_verb: Vec<String>,
    /// `allow` or `deny`
    pub action: String,
}

/// `spec.secrets`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecretsSpec {
    /// Per store.
    pub scopes: Vec<SecretScope>,
}

/// Which secrets of a store are handed out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SecretScope {
    /// Component name.
    pub store_name: String,
    /// `allow` or `deny`; empty = allow.
    pub default_access: String,
    /// If not empty, only these.
    pub allowed_secrets: Vec<String>,
    /// Never these.
    pub denied_secrets: Vec<String>,
}

/// `spec.nameResolution`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NameResolutionSpec {
    /// Resolver; empty = the mode's default.
    pub component: String,
    /// Version; empty = `v1`.
    pub version: String,
    /// Passed to the resolver.
    pub configuration: Option<Value>,
}

/// A feature switched on or off.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FeatureSpec {
    /// Name.
    pub name: String,
    /// On or off.
    pub enabled: bool,
}

/// `spec.api`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ApiSpec {
    /// If not empty for a protocol, only these.
    pub allowed: Vec<ApiRule>,
    /// Never these.
    pub denied: Vec<ApiRule>,
}

/// A group of API routes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ApiRule {
    /// Such as `state`.
    pub name: String,
    /// Such as `v1`.
    pub version: String,
    /// `http` or `grpc`
    pub protocol: String,
}

/// `spec.components`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ComponentsSpec {
    /// `type` or `type/version`
    pub deny: Vec<String>,
}

/// `spec.logging`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LoggingSpec {
    /// The log of API calls.
    pub api_logging: ApiLoggingSpec,
}

/// `spec.logging.apiLogging`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ApiLoggingSpec {
    /// Whether API calls are logged, unless a flag says so.
    pub enabled: bool,
    /// Whether URLs are replaced by the names of the API.
    #[serde(rename = "obfuscateURLs")]
    pub obfuscate_urls: bool,
    /// Whether health checks are left out.
    pub omit_health_checks: bool,
}

/// `spec.wasm`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WasmSpec {
    /// Whether guests get no clock, no randomness and no network.
    pub strict_sandbox: bool,
}

/// `spec.workflow`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkflowSpec {
    /// Per sidecar; 0 or less = no limit.
    pub max_concurrent_workflow_invocations: i32,
    /// Per sidecar; 0 or less = no limit.
    pub max_concurrent_activity_invocations: i32,
    /// Across replicas; 0 or less = no limit.
    pub global_max_concurrent_workflow_invocations: i32,
    /// Across replicas; 0 or less = no limit.
    pub global_max_concurrent_activity_invocations: i32,
    /// Per workflow name.
    pub workflow_concurrency_limits: Vec<ConcurrencyLimit>,
    /// Per activity name.
    pub activity_concurrency_limits: Vec<ConcurrencyLimit>,
    /// When finished workflows are removed.
    pub state_retention_policy: Option<RetentionPolicy>,
}

/// A limit by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConcurrencyLimit {
    /// Name.
    pub name: String,
    /// Limit.
    pub max_concurrent: i32,
}

/// Go durations by final status; `None` = kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RetentionPolicy {
    /// For every final status that is not set itself.
    pub any_terminal: Option<String>,
    /// Completed.
    pub completed: Option<String>,
    /// Failed.
    pub failed: Option<String>,
    /// Terminated.
    pub terminated: Option<String>,
}

impl Resource for Configuration {
    const KIND: &'static str = "Configuration";

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn scopes(&self) -> &[String] {
        &[]
    }
}

/// Features that are on unless a Configuration names them.
pub const DEFAULT_FEATURES: [&str; 2] = ["HotReload", "WorkflowsRemoteActivityReminder"];

impl ConfigurationSpec {
    /// Whether a feature is on.
    pub fn is_enabled(&self, feature: &str) -> bool {
        self.enabled_features().contains(&feature)
    }

    /// The features that are on: those of the document, then the defaults it does not mention.
    pub fn enabled_features(&self) -> Vec<&str> {
        let named = |name: &str| self.features.iter().any(|feature| feature.name == name);
        let explicit = self
            .features
            .iter()
            .filter(|f| f.enabled)
            .map(|f| f.name.as_str());
        let defaults = DEFAULT_FEATURES.into_iter().filter(|name| !named(name));
        explicit.chain(defaults).collect()
    }

    /// `metric` with each field of `metrics` that is set laid over it.
    pub fn effective_metrics(&self) -> MetricsSpec {
        let mut merged = self.metric.clone();
        let Some(newer) = self.metrics.clone() else {
            return merged;
        };
        merged.enabled = newer.enabled.or(merged.enabled);
        merged.record_error_codes = newer.record_error_codes.or(merged.record_error_codes);
        merged.http = newer.http.or(merged.http);
        merged.latency_distribution_buckets = newer
            .latency_distribution_buckets
            .or(merged.latency_distribution_buckets);
        merged.workflow = newer.workflow.or(merged.workflow);
        merged.rules = newer.rules.or(merged.rules);
        merged
    }
}
