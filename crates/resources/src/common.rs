//! What several kinds of resources share (contract `config-resources`, section 2).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::yaml::to_go_json;

/// `metadata` of a resource, as far as it matters outside Kubernetes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ObjectMeta {
    /// Name, unique per kind.
    pub name: String,
    /// Namespace; often empty in files.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Version of the spec, counted by Kubernetes.
    #[serde(skip_serializing_if = "is_zero")]
    pub generation: i64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
const fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// `auth` of a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Auth {
    /// Name of the secret store that `secretKeyRef` reads from; empty = the mode's default.
    pub secret_store: String,
}

impl Auth {
    /// Whether nothing is set.
    pub const fn is_empty(&self) -> bool {
        self.secret_store.is_empty()
    }
}

/// Where a value lies in a secret store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecretKeyRef {
    /// Name of the secret.
    pub name: String,
    /// Key within the secret; empty = the name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
}

impl SecretKeyRef {
    /// The key to look for.
    pub fn key_or_name(&self) -> &str {
        if self.key.is_empty() {
            &self.name
        } else {
            &self.key
        }
    }
}

/// A named value: written down, in a secret store or in the environment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NameValuePair {
    /// Name.
    pub name: String,
    /// Any JSON; `None` = not given (also when it is `null`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// Where to find it in a secret store; wins over `value` when it resolves.
    #[serde(skip_serializing_if = "SecretKeyRef::is_unset")]
    pub secret_key_ref: SecretKeyRef,
    /// Environment variable; used only when there is no value.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub env_ref: String,
}

impl SecretKeyRef {
    /// Whether no secret is named.
    pub const fn is_unset(&self) -> bool {
        self.name.is_empty()
    }
}

impl NameValuePair {
    /// A pair with a text as its value.
    pub fn text(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            value: Some(Value::String(value.into())),
            ..Self::default()
        }
    }

    /// The value as text; empty when there is none.
    pub fn value_text(&self) -> String {
        self.value.as_ref().map(value_text).unwrap_or_default()
    }
}

/// A JSON value as the text that components see: a string without its quotes, anything else as JSON.
pub fn value_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => to_go_json(other),
    }
}

/// A PEM document: written down or in a secret store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TlsDocument {
    /// The document; `None` = not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// Where to find it.
    #[serde(skip_serializing_if = "SecretKeyRef::is_unset")]
    pub secret_key_ref: SecretKeyRef,
}

impl TlsDocument {
    /// The document as text; empty when there is none.
    pub fn text(&self) -> String {
        self.value.as_ref().map(value_text).unwrap_or_default()
    }
}

/// What every kind of resource has.
pub trait Resource: serde::de::DeserializeOwned {
    /// `kind`
    const KIND: &'static str;
    /// The `apiVersion`s that are read, the current one first.
    const API_VERSIONS: &'static [&'static str] = &["dapr.io/v1alpha1"];
    /// Whether namespace, scopes and repeated names are checked when it is read from files.
    const CHECKED: bool = true;

    /// `metadata`
    fn meta(&self) -> &ObjectMeta;

    /// App ids that may use it; empty = all.
    fn scopes(&self) -> &[String];

    /// How it is named in logs and errors.
    fn log_name(&self) -> String {
        self.meta().name.clone()
    }

    /// The resource as read from a document of this version, brought to the current version.
    #[must_use]
    fn upgraded(self, _api_version: &str) -> Self {
        self
    }

    /// Whether an app may use it: no scopes, or its id among them, exactly.
    fn in_scope(&self, app_id: &str) -> bool {
        in_scope(self.scopes(), app_id)
    }
}

/// Whether scopes admit an app id.
pub fn in_scope(scopes: &[String], app_id: &str) -> bool {
    scopes.is_empty() || scopes.iter().any(|scope| scope == app_id)
}

/// Go's names of what a resource's name must not be: `.`, `..`, or contain `/` or `%`.
///
/// # Errors
/// Says what is wrong with the name.
pub fn check_name(name: &str) -> Result<(), String> {
    if name == "." || name == ".." {
        return Err(format!("name {name:?} may not be '{name}'"));
    }
    for part in ["/", "%"] {
        if name.contains(part) {
            return Err(format!("name {name:?} may not contain '{part}'"));
        }
    }
    Ok(())
}
