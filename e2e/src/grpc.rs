//! The replayer of the recorded gRPC vectors (`testdata/golden/grpc`): calls of a sidecar's gRPC API and of its
//! internal API, what comes back, and what the app behind it, or another sidecar, gets.
//!
//! ```text
//! vector   the recorded cases, as written in the files
//! schema   messages by name: JSON of the vectors <-> bytes
//! frame    gRPC over HTTP/2: message frames, metadata, statuses
//! client   performs calls                          app      the scripted gRPC app, or internal server
//! apps     apps of either kind
//! payload  streams of payload frames               compare  recorded against observed, with differences in words
//! group    sidecars, apps, Redis of one setup      steps    performs one case on a running group
//! topic    one file; rules and exceptions as for the HTTP vectors
//! ```

pub mod app;
pub mod apps;
pub mod client;
pub mod compare;
pub mod fake_placement;
pub mod frame;
pub mod group;
pub mod payload;
pub mod schema;
pub mod steps;
pub mod topic;
pub mod vector;

#[cfg(test)]
mod wire_tests;
