//! Component (contract `config-resources`, section 3).

use std::time::Duration;

use outrigger_model::GoDuration;
use serde::{Deserialize, Serialize};

use crate::common::{Auth, NameValuePair, ObjectMeta, Resource};

/// A building block's implementation with its settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Component {
    /// Name and namespace.
    pub metadata: ObjectMeta,
    /// What it is.
    pub spec: ComponentSpec,
    /// Where its secrets are.
    #[serde(skip_serializing_if = "Auth::is_empty")]
    pub auth: Auth,
    /// Apps that may use it; empty = all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

/// `spec` of a Component.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ComponentSpec {
    /// `<category>.<implementation>`
    #[serde(rename = "type")]
    pub component_type: String,
    /// Version; empty = `v1`.
    pub version: String,
    /// Whether a failed initialisation is survived.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ignore_errors: bool,
    /// Settings of the implementation.
    pub metadata: Vec<NameValuePair>,
    /// Go duration; see [`Component::init_timeout`].
    #[serde(skip_serializing_if = "String::is_empty")]
    pub init_timeout: String,
}

/// The first part of a component's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Category {
    Bindings,
    PubSub,
    SecretStores,
    State,
    Middleware,
    Configuration,
    Crypto,
    Lock,
    Conversation,
}

impl Category {
    /// All categories.
    pub const ALL: [Self; 9] = [
        Self::Bindings,
        Self::PubSub,
        Self::SecretStores,
        Self::State,
        Self::Middleware,
        Self::Configuration,
        Self::Crypto,
        Self::Lock,
        Self::Conversation,
    ];

    /// The spelling in `spec.type`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bindings => "bindings",
            Self::PubSub => "pubsub",
            Self::SecretStores => "secretstores",
            Self::State => "state",
            Self::Middleware => "middleware",
            Self::Configuration => "configuration",
            Self::Crypto => "crypto",
            Self::Lock => "lock",
            Self::Conversation => "conversation",
        }
    }
}

impl Component {
    /// Category and implementation of `spec.type`; the category is case-sensitive.
    pub fn category(&self) -> Option<(Category, &str)> {
        let (category, implementation) = self.spec.component_type.split_once('.')?;
        let category = Category::ALL.into_iter().find(|c| c.name() == category)?;
        Some((category, implementation))
    }

    /// Time its initialisation may take: 5 s unless a positive duration is given.
    pub fn init_timeout(&self) -> Duration {
        GoDuration::parse(&self.spec.init_timeout)
            .ok()
            .and_then(GoDuration::positive)
            .unwrap_or(Duration::from_secs(5))
    }
}

impl Resource for Component {
    const KIND: &'static str = "Component";

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn scopes(&self) -> &[String] {
        &self.scopes
    }

    fn log_name(&self) -> String {
        let spec = &self.spec;
        format!(
            "{} ({}/{})",
            self.metadata.name, spec.component_type, spec.version
        )
    }
}

/// Why the deny list of a Configuration refuses a component; `None` = it is allowed (contract section 8.2,
/// `components.deny`).
pub fn denied_component(deny: &[String], component_type: &str, version: &str) -> Option<String> {
    if deny.is_empty() {
        return None;
    }
    if component_type.is_empty() || version.is_empty() {
        return Some(
            "it has no type or no version, which a deny list of components does not allow; give both"
                .to_owned(),
        );
    }
    deny.iter()
        .find(|entry| match entry.split_once('/') {
            Some((denied_type, denied_version)) => denied_type == component_type && denied_version == version,
            None => *entry == component_type,
        })
        .map(|entry| format!("it is denied by spec.components.deny of the Configuration ({entry})"))
}
