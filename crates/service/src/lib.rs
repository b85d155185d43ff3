//! The common `main` of control-plane services (sentry, placement, scheduler, operator, injector).
//!
//! A service declares what it is ([`Spec`]) and how it starts; this crate does the rest: flags with Dapr's common
//! ones, usage text, logging, the health and metrics endpoints, signals, supervised tasks, an orderly end, exit
//! codes (contract `flags-env-annotations`, `observability`; recorded vectors `process.json`).
//!
//! ```no_run
//! use outrigger_process::End;
//! use outrigger_process::flags::{Flag, Kind};
//! use outrigger_service::{Context, Failure, Spec};
//!
//! static SPEC: Spec = Spec::new("sentry", &[Flag::new("port", Kind::Int, "50001", "The port to listen on")]);
//!
//! fn main() -> std::process::ExitCode {
//!     outrigger_service::run(&SPEC, start)
//! }
//!
//! async fn start(context: &mut Context) -> Result<(), Failure> {
//!     // Binds, loads, and starts tasks; what fails here ends the process with code 1 and a fatal log line.
//!     let listener = outrigger_service::listen("gRPC server", "", context.port("port")?).await?;
//!     let serving = context.readiness.register("sentry-server");
//!     let stopping = context.stopping.clone();
//!     context.tasks.spawn("gRPC server", End::Fatal, async move {
//!         serving.ready();
//!         stopping.cancelled().await; // serve(listener) until then
//!         drop(listener);
//!         Ok(())
//!     });
//!     Ok(())
//! }
//! ```
//!
//! `/healthz` says 200 once every target of [`Context::readiness`] is ready. On SIGTERM or SIGINT it says 503,
//! [`Context::stopping`] is cancelled, and the tasks have [`Spec::grace`] to end; a second signal does not wait.
//! `SERVICE check URL` waits until an HTTP address is well: images hold no other program that could.
//! HTTP of a control-plane service is written with `warp` and served by [`HttpServer`], which has the limits and the
//! drain.

mod check;
mod context;
mod health;
mod http;
mod identity;
mod main_loop;
mod soon;
mod spec;

pub use context::{Context, Failure};
pub use health::{HealthPages, not_found};
pub use http::{BindError, HttpServer, listen};
pub use identity::IdentityRequest;
pub use main_loop::run;
pub use soon::soon;
pub use spec::{COMMON_FLAGS, Spec, Threads, VERSION};
