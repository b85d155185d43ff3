//! One sidecar's engine, told by a test what the placement service says: turns and their ends, fences in the store.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod fences;
mod node;
mod turns;
