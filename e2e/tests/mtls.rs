//! Sidecars that prove who they are: real processes, certificates of an authority that speaks sentry's wire.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

#[path = "mtls/calls.rs"]
mod calls;
#[path = "mtls/local.rs"]
mod local;
#[path = "mtls/namespaces.rs"]
mod namespaces;
#[path = "mtls/refusals.rs"]
mod refusals;
#[path = "mtls/renewal.rs"]
mod renewal;
#[path = "mtls/scheduler.rs"]
mod scheduler;
#[path = "mtls/support.rs"]
mod support;
