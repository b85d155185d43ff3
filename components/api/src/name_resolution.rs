//! Name resolution: app id to address of its sidecar's internal API (contract `service-invocation`, section 8).

use std::collections::BTreeMap;

use async_trait::async_trait;
use outrigger_gojson::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metadata::Asked;
use crate::{ComponentError, InitError};

/// What a resolver announces and needs to know of its own sidecar.
#[derive(Debug, Clone)]
pub struct InstanceInfo {
    /// Own app id.
    pub app_id: String,
    /// Own namespace.
    pub namespace: String,
    /// Announced address (host only).
    pub address: String,
    /// Internal gRPC port.
    pub internal_port: u16,
    /// HTTP API port.
    pub http_port: u16,
    /// App port; 0 = no app.
    pub app_port: u16,
    /// `spec.nameResolution.configuration`, if given.
    pub configuration: Option<Value>,
    /// Environment of the process that resolvers may read (`HOSTNAME` and the like).
    pub env: BTreeMap<String, String>,
    /// Cancelled when the sidecar stops or has another resolver: the resolver withdraws its announcement.
    pub shutdown: CancellationToken,
    /// Background tasks of the resolver are spawned here, never detached.
    pub tasks: TaskTracker,
}

/// Whom to find.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ResolveRequest {
    /// App id.
    pub app_id: String,
    /// Namespace.
    pub namespace: String,
    /// The internal port to assume where the resolver knows only hosts.
    pub port: u16,
}

/// Finds sidecars.
#[async_trait]
pub trait Resolver: Send + Sync + 'static {
    /// All known addresses (`host:port`, IPv6 in brackets), or one if the resolver itself picks.
    async fn resolve(&self, request: &ResolveRequest) -> Result<Vec<String>, ComponentError>;

    /// Whether answers are complete sets that the sidecar may cache for 20 s and pick from at random;
    /// `false`: one address at a time, asked up to 5 times 100 ms apart while the answer is empty.
    fn returns_many(&self) -> bool {
        false
    }

    /// Makes the announcement again, after another resolver of this sidecar has withdrawn its own.
    async fn announce(&self) {}

    /// Withdraws the announcement; called once. Look-ups that are under way may fail.
    async fn close(&self) {}
}

/// Creates a resolver and announces the sidecar.
#[async_trait]
pub trait ResolverFactory: Send + Sync + 'static {
    /// The members of `spec.nameResolution.configuration` that it reads, for the reference page.
    fn options(&self) -> Vec<Asked> {
        Vec::new()
    }

    /// Creates it.
    async fn create(&self, info: InstanceInfo) -> Result<std::sync::Arc<dyn Resolver>, InitError>;
}
