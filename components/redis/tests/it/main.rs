//! Against a real Redis: Debian's `redis-server`, started on a free port. Its modules for documents and searches are in
//! no package registry; a stand-in takes their place.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

mod blocks;
mod cluster;
mod connections;
mod documents;
mod server;
mod state;
mod streams;
