//! Identities at work: real sockets, a certificate authority in the process.

#[path = "mtls/files.rs"]
mod files;
#[path = "mtls/handshakes.rs"]
mod handshakes;
#[path = "mtls/renewal.rs"]
mod renewal;
#[path = "mtls/sentry.rs"]
mod sentry;
#[path = "mtls/support.rs"]
mod support;
