//! The publish/subscribe building block (contract `pubsub`).

pub mod scopes;
