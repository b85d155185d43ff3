//! The facts that the metadata API shows (contract `observability`, section 6).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What `GET /v1.0/metadata` answers; the edges put it into their wire form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// App id.
    pub id: String,
    /// Version of the runtime.
    pub runtime_version: String,
    /// Names of enabled features.
    pub enabled_features: Vec<String>,
    /// Loaded components.
    pub components: Vec<ComponentMetadata>,
    /// Values put by users and the CLI, and `daprRuntimeVersion`.
    pub extended: BTreeMap<String, String>,
    /// Known subscriptions.
    pub subscriptions: Vec<SubscriptionMetadata>,
    /// Names of HTTPEndpoint resources.
    pub http_endpoints: Vec<String>,
    /// Names of Resiliency resources.
    pub resiliencies: Vec<String>,
    /// How the app is reached.
    pub app: AppMetadata,
    /// Actors.
    pub actors: ActorMetadata,
}

/// Whether there are actors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ActorRuntimeStatus {
    /// Not known yet.
    #[default]
    Initializing,
    /// No placement service is configured.
    Disabled,
    /// Actors can be called.
    Running,
}

impl ActorRuntimeStatus {
    /// The spelling of the metadata API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Initializing => "INITIALIZING",
            Self::Disabled => "DISABLED",
            Self::Running => "RUNNING",
        }
    }
}

/// Actors as the metadata API shows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ActorMetadata {
    /// Whether there are any.
    pub status: ActorRuntimeStatus,
    /// Active actors by type.
    pub active: Vec<(String, i32)>,
    /// Types are hosted, and the table of placement is in force.
    pub host_ready: bool,
    /// `placement: connected` or `placement: disconnected`; empty = not known.
    pub placement: String,
}

/// A loaded component.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ComponentMetadata {
    /// `metadata.name`
    pub name: String,
    /// `spec.type`
    pub component_type: String,
    /// `spec.version`
    pub version: String,
    /// Declared capabilities.
    pub capabilities: Vec<String>,
}

/// Where a subscription comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SubscriptionKind {
    /// Not known.
    #[default]
    Unknown,
    /// A Subscription resource.
    Declarative,
    /// The app's own list.
    Programmatic,
    /// A stream opened by the app.
    Streaming,
}

impl SubscriptionKind {
    /// The spelling of the metadata API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Declarative => "DECLARATIVE",
            Self::Programmatic => "PROGRAMMATIC",
            Self::Streaming => "STREAMING",
        }
    }
}

/// A subscription.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubscriptionMetadata {
    /// Pub/sub component.
    pub pubsub_name: String,
    /// Topic.
    pub topic: String,
    /// Subscription metadata.
    pub metadata: BTreeMap<String, String>,
    /// `(match, path)` in order.
    pub rules: Vec<(String, String)>,
    /// Dead-letter topic, or empty.
    pub dead_letter_topic: String,
    /// Where it comes from.
    pub kind: SubscriptionKind,
}

/// How the app is reached; `port` 0 = no app.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppMetadata {
    /// App port.
    pub port: u16,
    /// App protocol.
    pub protocol: String,
    /// App channel address.
    pub channel_address: String,
    /// `--app-max-concurrency`; 0 = unlimited.
    pub max_concurrency: i32,
    /// Set with health checks on.
    pub health: Option<AppHealthMetadata>,
}

/// App health settings as the metadata API prints them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppHealthMetadata {
    /// HTTP apps only.
    pub path: String,
    /// Go duration.
    pub probe_interval: String,
    /// Go duration.
    pub probe_timeout: String,
    /// Failures until unhealthy.
    pub threshold: i32,
}

/// The key that always shows the runtime's version, whatever a caller puts.
const VERSION_KEY: &str = "daprRuntimeVersion";

/// Values put over the API; they live in memory only.
#[derive(Debug)]
pub struct ExtendedMetadata {
    version: String,
    values: Mutex<BTreeMap<String, String>>,
}

impl ExtendedMetadata {
    /// No values but the version.
    pub const fn new(version: String) -> Self {
        Self {
            version,
            values: Mutex::new(BTreeMap::new()),
        }
    }

    /// Stores a value. One without a key is passed over, as upstream does.
    pub fn set(&self, key: String, value: String) {
        if key.is_empty() {
            return;
        }
        self.values
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, value);
    }

    /// All values.
    pub fn all(&self) -> BTreeMap<String, String> {
        let mut all = self.values.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.insert(VERSION_KEY.into(), self.version.clone());
        all
    }
}
