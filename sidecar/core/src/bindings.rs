//! The bindings building block (contract `bindings-secrets-…`, section 1).
//!
//! ```text
//! edge -> BindingService::invoke -> policy -> OutputBinding
//! InputBinding -> deliver::AppEvents -> policy -> app -> (gRPC apps) further output bindings
//! ```

mod deliver;
pub mod direction;
mod run;

use std::sync::Arc;
use std::time::Duration;

use outrigger_components_api::RequestMetadata;
use outrigger_components_api::bindings::{InvokeError, InvokeRequest, InvokeResponse, OutputBinding};
use outrigger_model::{ApiError, GrpcCode};
use tokio::sync::{OnceCell, watch};
use tokio_util::task::TaskTracker;

use crate::app::AppChannel;
use crate::components::ComponentStore;
use crate::policy::ComponentPolicies;
use crate::sidecar::Tracing;

const CODE: &str = "ERR_INVOKE_OUTPUT_BINDING";

/// Bindings of one sidecar. Cheap to clone.
#[derive(Clone)]
pub struct BindingService {
    inner: Arc<Inner>,
}

/// What the service is made of.
pub struct BindingDeps {
    /// The bindings.
    pub components: Arc<ComponentStore>,
    /// What wraps calls in both directions.
    pub policies: Arc<ComponentPolicies>,
    /// Whom input bindings call; `None` without an app port.
    pub app: Option<Arc<AppChannel>>,
    /// Spans of events.
    pub tracing: Tracing,
    /// How long an HTTP app may take to say whether it listens to a binding.
    pub options_timeout: Duration,
}

struct Inner {
    deps: BindingDeps,
    /// Counts changes of the components.
    changes: watch::Sender<u64>,
    /// The bindings that a gRPC app listens to, once it has been asked.
    listed: OnceCell<Vec<String>>,
    /// Calls of output bindings that an app's answer asked for.
    forwarded: TaskTracker,
}

/// A failed call, with what the system outside answered nevertheless.
#[derive(Debug, Clone, PartialEq)]
pub struct BindingFailure {
    /// For the caller.
    pub error: ApiError,
    /// Response metadata.
    pub metadata: RequestMetadata,
}

impl BindingService {
    /// The service; [`Self::run`] starts reading from input bindings.
    pub fn new(deps: BindingDeps) -> Self {
        Self {
            inner: Arc::new(Inner {
                deps,
                changes: watch::Sender::default(),
                listed: OnceCell::new(),
                forwarded: TaskTracker::new(),
            }),
        }
    }

    /// Calls an output binding; `None` = it has nothing to answer.
    ///
    /// # Errors
    /// No such binding or operation, or the binding's failure.
    pub async fn invoke(
        &self,
        name: &str,
        request: InvokeRequest,
    ) -> Result<Option<InvokeResponse>, BindingFailure> {
        self.inner.invoke(name, request).await.map_err(|error| {
            let message = format!("error invoking output binding {name}: {}", error.text);
            BindingFailure {
                error: ApiError::legacy(CODE, 500, GrpcCode::Internal, message).with_grpc_reason(CODE),
                metadata: error
                    .response
                    .map(|response| response.metadata)
                    .unwrap_or_default(),
            }
        })
    }

    /// Bindings came or went.
    pub fn components_changed(&self) {
        self.inner
            .changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl Inner {
    fn output(&self, name: &str) -> Option<Arc<dyn OutputBinding>> {
        let loaded = self.deps.components.snapshot();
        loaded.bindings.get(name)?.output.clone()
    }

    async fn invoke(
        &self,
        name: &str,
        request: InvokeRequest,
    ) -> Result<Option<InvokeResponse>, InvokeError> {
        if request.operation.is_empty() {
            return Err(InvokeError::new("operation field is missing from request"));
        }
        let mut found = self.output(name);
        if found.is_none() && Box::pin(self.deps.components.replaced(name)).await {
            found = self.output(name);
        }
        let Some(binding) = found else {
            return Err(InvokeError::new(format!("couldn't find output binding {name}")));
        };
        let operations = binding.operations();
        if !operations.contains(&request.operation.as_str().into()) {
            return Err(InvokeError::new(format!(
                "binding {name} does not support operation {}. supported operations:{}",
                request.operation,
                operations.join(" ")
            )));
        }
        let operation = request.operation.clone();
        let policy = self.deps.policies.binding(name, &operation);
        policy.run(|| binding.invoke(request.clone())).await
    }
}
