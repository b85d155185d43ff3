//! The operator (contract `operator`): what sidecars on Kubernetes learn from, and who looks after their Services.
//!
//! ```text
//! API server ─watch▶ feed ─▶ shape (as Go writes it) ─▶ cache ─┬▶ api: lists, answered from memory
//!                                                              └▶ outbox of each stream: what changed, newest state only
//! leader only: services (a Service for each app), watchdog
//! all replicas: api, conversion webhook, its authority in the definition of Subscriptions
//! ```

pub mod api;
pub mod cache;
pub mod cluster;
pub mod conversion;
pub mod definition;
mod feed;
pub mod kinds;
pub mod leader;
pub mod metrics;
pub mod outbox;
pub mod pods;
mod queue;
mod run;
pub mod secrets;
pub mod service;
pub mod services;
pub mod settings;
pub mod shape;
pub mod watchdog;

pub use run::start;
pub use settings::SPEC;

/// The component in log lines, as upstream names it.
const LOG: &str = "dapr.operator";

/// The words that switch something on in an annotation (contract `operator`, section 6), in any case.
pub(crate) fn is_truthy(text: &str) -> bool {
    matches!(
        text.trim().to_ascii_lowercase().as_str(),
        "y" | "yes" | "true" | "t" | "on" | "1"
    )
}
