//! Actors: what joins the engine ([`outrigger_sidecar_actors`]) to the app, other sidecars, the placement service and the
//! components.

pub mod app;
pub mod hosting;
pub mod import;
pub mod json;
pub mod peers;
pub mod placement;
pub mod store;
pub mod stream;

pub use outrigger_sidecar_actors::*;
