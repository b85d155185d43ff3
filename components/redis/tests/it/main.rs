//! Against a real Redis: Debian's `redis-server`, started on a free port.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

mod blocks;
mod cluster;
mod connections;
mod server;
mod state;
mod streams;
