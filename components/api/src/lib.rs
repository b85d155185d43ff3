//! What a backend implements: one trait per building block, the [`registry`] it registers itself in and the
//! [`metadata`] decoding rules shared by all.
//!
//! A backend crate knows this crate and `outrigger-model`, never the sidecar. Constructing a backend *is*
//! initialising it: a factory is given the resolved metadata and returns the ready component or an
//! [`InitError`]; the sidecar bounds it by `initTimeout` and supervises what it started through
//! [`InitContext::shutdown`].

pub mod bindings;
pub mod configuration;
pub mod lock;
pub mod metadata;
pub mod middleware;
pub mod name_resolution;
pub mod pubsub;
pub mod registry;
pub mod secrets;
pub mod state;
#[cfg(feature = "conformance")]
pub mod testing;

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a factory is given.
#[derive(Debug, Clone)]
pub struct InitContext {
    /// Component name (`metadata.name`).
    pub name: String,
    /// The app id of the sidecar.
    pub app_id: String,
    /// The namespace of the sidecar: env `NAMESPACE`, or `default`.
    pub namespace: String,
    /// Resolved properties: secrets fetched, placeholders replaced, keys in the user's spelling.
    pub properties: metadata::Properties,
    /// The environment of the process, read once in main: components never look at `std::env`.
    pub env: Arc<BTreeMap<String, String>>,
    /// Cancelled when the component is closed (removed, reloaded, or the sidecar stops). Every task of the
    /// component ends soon after.
    pub shutdown: CancellationToken,
    /// Background tasks of the component are spawned here, never detached; closing waits for them.
    pub tasks: TaskTracker,
}

/// Why a component could not be initialised. The text names the setting and the remedy.
#[derive(Debug, Clone, Error, PartialEq)]
#[error("{0}")]
pub struct InitError(pub String);

impl InitError {
    /// An error with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// A failed call to a component that carries no more than a text.
#[derive(Debug, Clone, Error, PartialEq)]
#[error("{0}")]
pub struct ComponentError(pub String);

impl ComponentError {
    /// An error with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// A request's metadata: what callers send as `metadata.*`.
pub type RequestMetadata = std::collections::BTreeMap<String, String>;

/// A shared, initialised component.
pub type Shared<T> = Arc<T>;
