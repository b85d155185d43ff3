//! Whole-process tests: they start the real binaries on free ports of this machine and talk to them over the
//! wire. This crate holds what those tests share; of the product it knows its binaries and the wire types, so the
//! same tests can be pointed at any compatible implementation with `OUTRIGGER_BIN_DIR`.
//!
//! Everything here panics with a clear text when the machine lacks something: a test that quietly skips itself
//! proves nothing.

pub mod actors;
pub mod ask;
pub mod grpc;
pub mod http;
pub mod jobs;
pub mod kube;
pub mod process;
pub mod relay;
pub mod sdk;
pub mod sentry;
pub mod sentry_vectors;
pub mod servers;
pub mod services;
