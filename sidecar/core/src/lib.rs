//! The sidecar's building blocks without their edges.
//!
//! The HTTP and gRPC edges decode a request, call a service of this crate and encode its answer; nothing
//! here knows a route or an RPC of the public API. What speaks to the app (the app channel) and to other
//! sidecars (the internal API's client) lives here, since both edges use it.

pub mod accept;
pub mod actors;
pub mod app;
pub mod bindings;
pub mod body;
pub mod components;
pub mod config;
pub mod configuration;
pub mod cork;
pub mod identity;
pub mod invoke;
pub mod jobs;
pub mod lock;
pub mod metadata;
pub mod metrics;
pub mod middleware;
pub mod operator;
pub mod outside;
pub mod policy;
pub mod pubsub;
pub mod reload;
pub mod scheduler;
pub mod secrets;
pub mod sidecar;
pub mod spans;
pub mod state;
pub mod tls;

pub use body::{Body, BodyError};
pub use identity::Identity;
pub use metrics::Metrics;
pub use sidecar::Sidecar;

/// Which API a call came in by; a few error texts differ between the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// The HTTP API.
    Http,
    /// The gRPC API.
    Grpc,
}
