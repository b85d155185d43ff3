//! What every Outrigger process needs around its work: flags, environment, logs, metrics, readiness, supervised
//! tasks and an orderly end. It knows nothing of what the process is for.

pub mod drain;
pub mod env;
pub mod flags;
pub mod logging;
pub mod metrics;
pub mod quote;
pub mod readiness;
pub mod signals;
pub mod tasks;
pub mod user;

pub use drain::Drain;
pub use env::Environment;
pub use metrics::Metrics;
pub use readiness::Readiness;
pub use signals::{Signal, Signals};
pub use tasks::{End, Tasks};
pub use user::refuse_root;
