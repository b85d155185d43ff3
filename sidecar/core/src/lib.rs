//! The sidecar's building blocks, free of any wire protocol.

pub mod config;
