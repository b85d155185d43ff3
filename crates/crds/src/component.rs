//! Component (contract `config-resources`, section 3).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Auth, NameValuePair};

/// An implementation of a building block with its settings.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    /// What it is and how it is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<ComponentSpec>,
    /// Where its secrets are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// Ids of the apps that load it; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

/// What a component is and how it is set.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "!self.type.startsWith('state.') || !has(self.metadata) || self.metadata.all(m, \
                 !(m.name.lowerAscii() in ['primaryencryptionkey', 'secondaryencryptionkey']) || has(m.secretKeyRef))",
        "message": "metadata primaryEncryptionKey and secondaryEncryptionKey must be given with secretKeyRef, not as plain text",
        "fieldPath": ".metadata"
    }
]))]
pub struct ComponentSpec {
    /// `<category>.<implementation>`, e.g. `state.redis`.
    #[serde(rename = "type")]
    #[schemars(length(max = 256), extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^(bindings|configuration|conversation|crypto|lock|middleware|pubsub|secretstores|state)[.].+$')",
        "message": "must be <category>.<implementation>, e.g. state.redis; categories are bindings, configuration, \
                    conversation, crypto, lock, middleware, pubsub, secretstores, state"
    }]))]
    pub component_type: String,
    /// Version of the implementation's settings; `v1` if empty.
    pub version: String,
    /// Whether the sidecar goes on without the component if it cannot be initialised.
    #[serde(default)]
    pub ignore_errors: bool,
    /// Settings of the implementation.
    #[schemars(length(max = 512))]
    pub metadata: Vec<NameValuePair>,
    /// How long initialisation may take: a Go duration, 5 s if empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_timeout: Option<String>,
}
