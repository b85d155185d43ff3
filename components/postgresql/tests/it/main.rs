//! Against a real PostgreSQL: Debian's, started on a free port.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

mod binding;
mod configuration;
mod faults;
mod rows;
mod server;
mod state;
