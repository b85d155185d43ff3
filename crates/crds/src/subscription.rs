//! Subscription, both versions (contract `config-resources`, section 5).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which events go to which path of an app (first version: one path).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubscriptionV1 {
    /// What is subscribed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<SubscriptionV1Spec>,
    /// Ids of the apps that subscribe; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

/// What is subscribed to, with one path.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubscriptionV1Spec {
    /// The pub/sub component.
    #[schemars(length(min = 1))]
    pub pubsubname: String,
    /// The topic.
    #[schemars(length(min = 1))]
    pub topic: String,
    /// Settings such as rawPayload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Path of the app.
    pub route: String,
    /// Delivery of several events at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bulk_subscribe: Option<BulkSubscribe>,
    /// Where events go that could not be delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter_topic: Option<String>,
}

/// Which events go to which path of an app.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubscriptionV2 {
    /// What is subscribed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<SubscriptionV2Spec>,
    /// Ids of the apps that subscribe; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

/// What is subscribed to, with rules that choose a path.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubscriptionV2Spec {
    /// The pub/sub component.
    #[schemars(length(min = 1))]
    pub pubsubname: String,
    /// The topic.
    #[schemars(length(min = 1))]
    pub topic: String,
    /// Settings such as rawPayload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Paths of the app and the rules that choose one.
    pub routes: Routes,
    /// Delivery of several events at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bulk_subscribe: Option<BulkSubscribe>,
    /// Where events go that could not be delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter_topic: Option<String>,
}

/// Paths of an app and the rules that choose one.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Routes {
    /// Tried in order; the first that matches decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<Rule>>,
    /// Path for events that no rule matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

/// A routing rule.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// A CEL expression over `event`; empty matches every event.
    #[serde(rename = "match")]
    pub expression: String,
    /// Path of the app.
    pub path: String,
}

/// Delivery of several events at once.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BulkSubscribe {
    /// Whether it is on.
    pub enabled: bool,
    /// Most events in one delivery; the component's default if 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_messages_count: Option<i32>,
    /// Longest wait for more events, in milliseconds; the component's default if 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_await_duration_ms: Option<i32>,
}
