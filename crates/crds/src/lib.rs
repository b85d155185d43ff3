//! Dapr's custom resources as the API server sees them: the types, from which `cargo xtask crds` generates the
//! definitions in `crds/`, with rules that refuse at `kubectl apply` what a sidecar would refuse at start.
//!
//! They describe; they do not read. Sidecars read resources with `outrigger-resources`, which follows Dapr's
//! loader in every tolerance; the operator hands objects on as they are.
//!
//! Source of names and fields: contract `config-resources`, `helm` section 1. Short names and printer columns are ours.

mod common;
mod component;
mod configuration;
mod definition;
mod http_endpoint;
mod mcp_server;
mod resiliency;
mod subscription;
mod workflow_access_policy;

pub use common::{Auth, NameValuePair, SecretKeyRef, TlsDocument};
pub use component::Component;
pub use configuration::Configuration;
pub use definition::{Definition, all};
pub use http_endpoint::HttpEndpoint;
pub use mcp_server::McpServer;
pub use resiliency::Resiliency;
pub use subscription::{SubscriptionV1, SubscriptionV2};
pub use workflow_access_policy::WorkflowAccessPolicy;
