//! Subscription, both versions (contract `config-resources`, section 5).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::common::{ObjectMeta, Resource};

/// A declarative subscription, `v2alpha1`. Documents of `v1alpha1` are converted when read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Subscription {
    /// Name and namespace.
    pub metadata: ObjectMeta,
    /// What is subscribed to and where events go.
    pub spec: SubscriptionSpec,
    /// Apps it is for; empty = all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

/// `spec` of a Subscription. Has the fields of both versions, so that either is read by one type.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SubscriptionSpec {
    /// Pub/sub component.
    pub pubsubname: String,
    /// Topic.
    pub topic: String,
    /// Only in `v1alpha1`: becomes the default route.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub route: String,
    /// Where events go.
    pub routes: Routes,
    /// Of the subscription, e.g. `rawPayload`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Where undeliverable events go.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub dead_letter_topic: String,
    /// Delivery in batches.
    pub bulk_subscribe: BulkSubscribe,
}

/// Where events go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Routes {
    /// First match wins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// Path when no rule matches; empty = none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub default: String,
}

/// One routing rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// CEL over `event`; empty matches everything.
    #[serde(rename = "match")]
    pub condition: String,
    /// Path of the app.
    pub path: String,
}

/// Delivery in batches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BulkSubscribe {
    /// Whether it is on.
    pub enabled: bool,
    /// Largest batch; 0 = the component's default.
    pub max_messages_count: i32,
    /// Longest wait for a batch in milliseconds; 0 = the component's default.
    pub max_await_duration_ms: i32,
}

impl Resource for Subscription {
    const KIND: &'static str = "Subscription";
    const API_VERSIONS: &'static [&'static str] = &["dapr.io/v2alpha1", "dapr.io/v1alpha1"];
    /// Upstream applies scopes when the list is used and lets names repeat.
    const CHECKED: bool = false;

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn scopes(&self) -> &[String] {
        &self.scopes
    }

    fn upgraded(mut self, api_version: &str) -> Self {
        let route = std::mem::take(&mut self.spec.route);
        if api_version == "dapr.io/v1alpha1" {
            self.spec.routes = Routes {
                rules: Vec::new(),
                default: route,
            };
        }
        self
    }
}
