//! The certificate authority of a Dapr installation (contract `sentry`): binary `sentry`.
//!
//! ```text
//! request ─▶ server (TLS, bounds) ─▶ validate (who asks?) ─▶ authority (certificate, tokens)
//!                                                               ▲ replaced without interruption
//!            files / Secret ◀─▶ store ◀─▶ keeper (make, load, follow) ─▶ rotation (what next?)
//! ```

pub mod admin;
pub mod authority;
pub mod bundle;
pub mod cluster;
pub mod config;
mod der;
pub mod jws;
pub mod jwt;
pub mod keeper;
pub mod key;
pub mod metrics;
pub mod oidc;
pub mod options;
pub mod rotation;
pub mod server;
mod start;
pub mod store;
pub mod validate;
mod x509;

pub use options::SPEC;
pub use start::start;
pub use x509::Validity;
