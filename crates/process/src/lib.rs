//! What every Outrigger process needs around its work: flags, environment, logs, metrics, readiness, supervised
//! tasks and an orderly end. It knows nothing of what the process is for.

pub mod env;
pub mod flags;
pub mod logging;

pub use env::Environment;
