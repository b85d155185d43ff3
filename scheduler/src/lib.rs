//! The scheduler service: keeps jobs and actor reminders and triggers them on time (contract `scheduler`).
//!
//! ```text
//! gRPC (service) ──writes──▶ store (embedded or etcd) ──feed──▶ engine ──effects──▶ driver ──▶ streams of sidecars
//!                                     ▲                            ▲                  │
//!                                     └────────── outcomes ────────┴──── answers ◀────┘
//! ```
//!
//! - [`store`]: a key-value store with revisions; every change is a transaction.
//! - [`engine`]: the state machine that knows every job; no input or output of its own.
//! - [`driver`]: the task around the engine: time, store, streams.
//! - [`leadership`]: which replica triggers which job.
//! - [`namespaces`]: what goes with a namespace of Kubernetes.
//! - [`service`]: the RPCs. [`kv_port`]: etcd's API for the stock command line.

pub mod config;
pub mod driver;
pub mod engine;
pub mod job;
pub mod kv_port;
pub mod leadership;
pub mod metrics;
pub mod misfire;
pub mod names;
pub mod namespaces;
pub mod run;
pub mod service;
pub mod store;
pub mod wire;
