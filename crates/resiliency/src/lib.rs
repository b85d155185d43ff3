//! Resiliency policies at work: timeouts, retries, circuit breakers (contract `config-resources`, section 9).
//!
//! [`Resiliency`] is made from resources and answers what applies to an app, an actor or a component; the answer is a
//! [`Policy`], whose [`Policy::run`] wraps a call: retry( circuit breaker( timeout( call ) ) ). A policy of nothing
//! runs the call and does nothing else.
//!
//! The crate knows what a failure's code is, not where it comes from.

pub mod breaker;
mod builtin;
mod deadline;
mod load;
mod lookup;
mod lru;
mod names;
mod policy;
pub mod retry;
mod trip;

pub use breaker::{BreakerState, CircuitBreaker};
pub use builtin::BuiltIn;
pub use lookup::{AppCover, Resiliency};
pub use names::{ComponentType, Direction};
pub use policy::{Event, Failure, Labels, Observer, Open, Policy, PolicyError, PolicyKind};
