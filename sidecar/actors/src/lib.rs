//! Virtual actors: which sidecar hosts which actor, one turn at a time, timers, reminders, state.
//!
//! ```text
//! edge ──▶ ActorService ──▶ router ──▶ own actor:    instance ▶ turn lock ▶ ActorTarget (the app, or a workflow)
//!            │ state ▶ ActorStores   └▶ other host:  ActorPeers (CallActor)
//!            │ reminders ▶ Reminders (scheduler)
//! placement ──orders──▶ session ──▶ routing tables, release of actors that moved
//! ```
//!
//! What is promised about two hosts never running one actor at the same time, and what is not, is in
//! docs/ACTORS.md. Everything outside is behind a trait ([`seams`]), and time is tokio's alone, so the engine runs
//! unchanged in a simulation.

pub mod config;
pub mod engine;
pub mod error;
mod fence;
mod idle;
mod instance;
pub mod key;
pub mod lock;
pub mod metrics;
pub mod reminders;
pub mod router;
mod routing;
pub mod seams;
pub mod service;
mod session;
pub mod state;
pub mod timers;

pub use engine::{Engine, EngineOptions, EngineParts, EngineStatus};
pub use error::ActorError;
pub use key::ActorKey;
pub use service::ActorService;
