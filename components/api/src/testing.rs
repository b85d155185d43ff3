//! For the tests of backends (cargo feature `conformance`): a context to create components with, a handler
//! that records what it gets, and the suites every store and every broker must pass.

// Tests say what they expect by failing.
#![allow(clippy::unwrap_used)]

pub mod bindings;
pub mod configuration;
pub mod faults;
pub mod lock;
pub mod overhead;
pub mod proxy;
pub mod pubsub;
pub mod secrets;
pub mod state;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metadata::Properties;

pub use pubsub::Recorder;

/// A context of app `app1` in namespace `default` with these properties and an empty environment.
pub fn init_context<const N: usize>(name: &str, properties: [(&str, &str); N]) -> crate::InitContext {
    crate::InitContext {
        name: name.to_owned(),
        app_id: "app1".to_owned(),
        namespace: "default".to_owned(),
        properties: Properties::new(
            properties
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned())),
        ),
        env: Arc::default(),
        shutdown: CancellationToken::new(),
        tasks: TaskTracker::new(),
    }
}

/// Waits for a future, but not for ever.
///
/// # Panics
/// After 30 seconds, naming what was awaited.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(Duration::from_secs(30), future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: nothing within 30 seconds"),
    }
}
