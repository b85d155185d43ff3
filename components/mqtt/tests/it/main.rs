//! Against a real Mosquitto: Debian's, started on a free port.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

mod broker;
mod faults;
mod server;
