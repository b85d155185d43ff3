//! The sidecar injector (contract `injector`): a mutating admission webhook that adds `daprd` to pods.
//!
//! Inside an admission nothing is asked of anybody: settings, trust anchors, the system Configuration and component
//! containers are kept at hand. [`review`] reads a request and answers it, [`patch`] says what changes, the modules
//! below it make the parts.

pub mod annotations;
mod args;
pub mod cluster;
mod components;
mod container;
mod envs;
pub mod metrics;
pub mod patch;
mod requester;
pub mod review;
pub mod run;
pub mod settings;
mod volumes;
pub mod webhook;

pub use requester::{AllowedAccounts, BadPattern};
