//! The replayer of the recorded HTTP vectors (`testdata/golden/http`): what is sent to a sidecar, what comes back,
//! and what the app behind it gets.
//!
//! ```text
//! vector   the recorded cases, as written in the files
//! wire     HTTP/1.1 messages byte for byte; client and app stand on it
//! client   sends a step's request                 app      the scripted app behind a sidecar
//! pattern  placeholders like `<uuid>`              compare  recorded against observed, with differences in words
//! group    sidecars, apps, Redis of one setup      steps    performs one case on a running group
//! topic    one file: all its groups, the exceptions, the summary
//! ```
//!
//! Client and app speak HTTP by hand on purpose: a library would tidy up paths, names and headers, and it is just
//! the untidy ones that the vectors are about.

pub mod app;
pub mod client;
pub mod compare;
pub mod exceptions;
pub mod group;
pub mod pattern;
pub mod steps;
pub mod topic;
pub mod vector;
pub mod wire;
