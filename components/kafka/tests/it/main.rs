//! Against a real Kafka: the jars of Maven Central (`cargo xtask setup`), started on a free port.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

mod broker;
mod faults;
mod server;
