//! Identities at work: real sockets, a certificate authority in the process.

#[path = "mtls/handshakes.rs"]
mod handshakes;
#[path = "mtls/support.rs"]
mod support;
