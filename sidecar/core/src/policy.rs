//! The resiliency policies around component calls, resolved by component name (contract `config-resources`,
//! section 9). The edges of a call say what it is; here is decided what wraps it.

use std::future::Future;
use std::sync::{Mutex, PoisonError};

use crate::metrics::{ComponentMetrics, Operations};
use outrigger_components_api::ComponentError;
use outrigger_components_api::bindings::InvokeError;
use outrigger_components_api::pubsub::FailedEntry;
use outrigger_components_api::state::{BulkStateError, StateError};
use outrigger_resiliency::{BuiltIn, ComponentType, Failure, Policy, PolicyError, Resiliency};

/// Policies of all components.
#[derive(Clone, Default)]
pub struct ComponentPolicies {
    resiliency: Resiliency,
    metrics: ComponentMetrics,
}

/// The policy around one call, which is recorded.
#[derive(Clone)]
pub struct CallPolicy<'p> {
    policy: Policy,
    measured: Option<Measured<'p>>,
}

/// What a call is recorded as.
#[derive(Clone, Copy)]
struct Measured<'p> {
    operations: &'p Operations,
    component: &'p str,
    operation: &'p str,
}

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

impl FromPolicy for InvokeError {
    fn from_policy(text: String) -> Self {
        Self::new(text)
    }
}

/// The failure of one item of a bulk call.
pub trait ItemFailure: Sized {
    /// The key of the item that failed.
    fn key(&self) -> &str;

    /// Whether another try cannot help.
    fn is_final(&self) -> bool;

    /// The item with this key failed by the policy's own failure.
    fn from_policy(key: &str, text: &str) -> Self;
}

impl ItemFailure for BulkStateError {
    fn key(&self) -> &str {
        &self.key
    }

    fn is_final(&self) -> bool {
        matches!(
            self.error,
            StateError::EtagMismatch(_) | StateError::EtagInvalid(_)
        )
    }

    fn from_policy(key: &str, text: &str) -> Self {
        Self {
            key: key.to_owned(),
            error: StateError::Other(text.to_owned()),
        }
    }
}

impl ItemFailure for FailedEntry {
    fn key(&self) -> &str {
        &self.entry_id
    }

    fn is_final(&self) -> bool {
        false
    }

    fn from_policy(key: &str, text: &str) -> Self {
        Self {
            entry_id: key.to_owned(),
            error: ComponentError::new(text),
        }
    }
}

impl ComponentPolicies {
    /// The policies of these resources.
    pub fn new(resiliency: Resiliency) -> Self {
        Self {
            resiliency,
            metrics: ComponentMetrics::default(),
        }
    }

    /// With calls recorded here.
    #[must_use]
    pub fn with_metrics(mut self, metrics: ComponentMetrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// Where calls are recorded.
    pub const fn metrics(&self) -> &ComponentMetrics {
        &self.metrics
    }

    /// Outbound policy of a state store for an operation (`get`, `set`, …; contract `observability`, section 2.4).
    pub fn state<'p>(&'p self, name: &'p str, operation: &'p str) -> CallPolicy<'p> {
        self.outbound(name, ComponentType::Statestore)
            .measured(&self.metrics.state, name, operation)
    }

    /// Outbound policy of a secret store for an operation.
    pub fn secret_store<'p>(&'p self, name: &'p str, operation: &'p str) -> CallPolicy<'p> {
        self.outbound(name, ComponentType::Secretstore)
            .measured(&self.metrics.secret, name, operation)
    }

    /// Outbound policy of a pub/sub component (publishing).
    pub fn pubsub(&self, name: &str) -> CallPolicy<'static> {
        self.outbound(name, ComponentType::Pubsub)
    }

    /// Outbound policy of an output binding.
    ///
    /// The operation is the caller's.
    pub fn binding<'p>(&'p self, name: &'p str, operation: &'p str) -> CallPolicy<'p> {
        self.outbound(name, ComponentType::Binding)
            .measured(&self.metrics.output_binding, name, operation)
    }

    /// Inbound policy of an input binding (delivery to the app).
    pub fn binding_inbound(&self, name: &str) -> Policy {
        self.resiliency.component_inbound(name, ComponentType::Binding)
    }

    /// Outbound policy of a configuration store.
    pub fn configuration<'p>(&'p self, name: &'p str, operation: &'p str) -> CallPolicy<'p> {
        self.outbound(name, ComponentType::Configuration).measured(
            &self.metrics.configuration,
            name,
            operation,
        )
    }

    /// Inbound policy of a configuration store (updates to the app).
    pub fn configuration_inbound(&self, name: &str) -> Policy {
        self.resiliency
            .component_inbound(name, ComponentType::Configuration)
    }

    /// Outbound policy of a keeper of locks.
    pub fn lock(&self, name: &str) -> CallPolicy<'static> {
        self.outbound(name, ComponentType::Lock)
    }

    /// Inbound policy of a pub/sub component (delivery to the app).
    pub fn pubsub_inbound(&self, name: &str) -> Policy {
        self.resiliency.component_inbound(name, ComponentType::Pubsub)
    }

    /// The built-in policy for questions to the app while starting.
    pub fn initialization(&self) -> Policy {
        self.resiliency.built_in(BuiltIn::InitializationRetries)
    }

    fn outbound(&self, name: &str, component_type: ComponentType) -> CallPolicy<'static> {
        CallPolicy {
            policy: self.resiliency.component_outbound(name, component_type),
            measured: None,
        }
    }
}

/// What a bulk call has still to do, and what has failed for good.
struct Pending<I, E> {
    items: Vec<I>,
    failed: Vec<E>,
    last: Vec<E>,
}

impl<'p> CallPolicy<'p> {
    /// The same policy; its calls are recorded as this operation of a component.
    #[must_use]
    pub fn measured(
        self,
        operations: &'p Operations,
        component: &'p str,
        operation: &'p str,
    ) -> CallPolicy<'p> {
        CallPolicy {
            policy: self.policy,
            measured: Some(Measured {
                operations,
                component,
                operation,
            }),
        }
    }

    async fn record<T, E>(&self, call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        match self.measured {
            Some(Measured {
                operations,
                component,
                operation,
            }) => operations.measure(component, operation, call).await,
            None => call.await,
        }
    }

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
        let run = self.policy.run(
            |_| {
                let attempt = call();
                async move { attempt.await.map_err(Failure::new) }
            },
            |error| E::from_policy(error.to_string()),
        );
        self.record(run).await
    }

    /// Runs a bulk call; only items that failed and may be tried again are tried again.
    ///
    /// # Errors
    /// The items that failed in the end.
    pub async fn run_bulk<I, E, F, Fut>(
        &self,
        items: Vec<I>,
        key: fn(&I) -> &str,
        call: F,
    ) -> Result<(), Vec<E>>
    where
        I: Clone,
        E: ItemFailure,
        F: FnMut(Vec<I>) -> Fut,
        Fut: Future<Output = Result<(), Vec<E>>>,
    {
        self.record(self.run_items(items, key, call)).await
    }

    async fn run_items<I, E, F, Fut>(
        &self,
        items: Vec<I>,
        key: fn(&I) -> &str,
        mut call: F,
    ) -> Result<(), Vec<E>>
    where
        I: Clone,
        E: ItemFailure,
        F: FnMut(Vec<I>) -> Fut,
        Fut: Future<Output = Result<(), Vec<E>>>,
    {
        if self.policy.is_none() {
            return call(items).await;
        }
        let pending = Mutex::new(Pending {
            items,
            failed: Vec::new(),
            last: Vec::new(),
        });
        let lock = || pending.lock().unwrap_or_else(PoisonError::into_inner);
        let result = self
            .policy
            .run(
                |_| {
                    let attempt = call(lock().items.clone());
                    let lock = &lock;
                    async move {
                        match attempt.await {
                            Ok(()) => Ok(()),
                            Err(failures) => Err(lock().keep(failures, key)),
                        }
                    }
                },
                Some,
            )
            .await;
        let Pending {
            items,
            mut failed,
            last,
        } = pending.into_inner().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) => {}
            Err(Some(error)) => {
                let text = error.to_string();
                failed.extend(items.iter().map(|item| E::from_policy(key(item), &text)));
            }
            Err(None) => failed.extend(last),
        }
        if failed.is_empty() { Ok(()) } else { Err(failed) }
    }
}

impl<I, E: ItemFailure> Pending<I, E> {
    /// Sorts out what an attempt left undone.
    fn keep(&mut self, failures: Vec<E>, key: fn(&I) -> &str) -> Failure<Option<PolicyError>> {
        let (last, last_failed): (Vec<E>, Vec<E>) =
            failures.into_iter().partition(|failure| !failure.is_final());
        self.failed.extend(last_failed);
        self.items
            .retain(|item| last.iter().any(|failure| failure.key() == key(item)));
        self.last = last;
        if self.items.is_empty() {
            Failure::permanent(None)
        } else {
            Failure::new(None)
        }
    }
}
