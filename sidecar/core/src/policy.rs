//! The resiliency policies around component calls, resolved by component name (contract `config-resources`,
//! section 9). The edges of a call say what it is; here is decided what wraps it.

use std::future::Future;

use outrigger_components_api::ComponentError;
use outrigger_components_api::state::{BulkStateError, StateError};

/// Policies of all components.
#[derive(Debug, Default)]
pub struct ComponentPolicies {}

/// The policy around one call.
#[derive(Debug, Clone, Copy)]
pub struct CallPolicy {}

/// Errors into which a policy's own failure (a timeout, an open circuit) can be put.
pub trait FromPolicy {
    /// The error with this text.
    fn from_policy(text: String) -> Self;
}

impl FromPolicy for StateError {
    fn from_policy(text: String) -> Self {
        Self::Other(text)
    }
}

impl FromPolicy for ComponentError {
    fn from_policy(text: String) -> Self {
        Self::new(text)
    }
}

impl ComponentPolicies {
    /// Outbound policy of a state store.
    pub const fn state(&self, _name: &str) -> CallPolicy {
        CallPolicy {}
    }

    /// Outbound policy of a secret store.
    pub const fn secret_store(&self, _name: &str) -> CallPolicy {
        CallPolicy {}
    }

    /// Outbound policy of a pub/sub component (publishing).
    pub const fn pubsub(&self, _name: &str) -> CallPolicy {
        CallPolicy {}
    }
}

impl CallPolicy {
    /// Runs a call, again and again where the policy says so.
    ///
    /// # Errors
    /// The last attempt's error, or the policy's own.
    pub async fn run<T, E, F, Fut>(&self, mut call: F) -> Result<T, E>
    where
        E: FromPolicy,
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        call().await
    }

    /// Runs a bulk state call; only items that failed for another reason than their etag are tried again.
    ///
    /// # Errors
    /// The items that failed in the end.
    pub async fn run_bulk<I, F, Fut>(
        &self,
        items: Vec<I>,
        _key: fn(&I) -> &str,
        mut call: F,
    ) -> Result<(), Vec<BulkStateError>>
    where
        F: FnMut(Vec<I>) -> Fut,
        Fut: Future<Output = Result<(), Vec<BulkStateError>>>,
    {
        call(items).await
    }
}
