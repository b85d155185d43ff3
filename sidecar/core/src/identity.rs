//! Who this sidecar is.

use std::sync::Arc;

/// The identity of the app beside this sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `--app-id`
    pub app_id: Arc<str>,
    /// Env `NAMESPACE`, or `default`.
    pub namespace: Arc<str>,
    /// Env `NAMESPACE` as it is, empty when unset: key prefixes and the resource filter go by this one
    /// (contract `state`, section 1).
    pub raw_namespace: Arc<str>,
    /// Announced address (contract `flags-env-annotations`, `DAPR_HOST_IP`).
    pub host_address: Arc<str>,
    /// The machine's host name.
    pub hostname: Arc<str>,
}
