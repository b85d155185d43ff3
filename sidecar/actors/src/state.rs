//! State of actors (contract `actors`, section 5): keys, transactions, and who may write.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use outrigger_components_api::RequestMetadata;
use outrigger_components_api::state::{
    DeleteRequest, GetRequest, GetResponse, SetRequest, StateError, StateFeature, StateOptions, StateValue,
    TransactionOperation, TransactionRequest,
};
use outrigger_model::{ApiError, GrpcCode};
use outrigger_resiliency::{ComponentType, Failure};

use crate::ActorKey;
use crate::engine::Engine;
use crate::error;
use crate::fence::FenceError;
use crate::key::SEPARATOR;
use crate::seams::ActorStore;

/// Metadata: after how many seconds a value is gone.
pub(crate) const TTL: &str = "ttlInSeconds";
/// How often a transaction is tried again because other hosts of the type changed the row that it depends on.
const GUARD_ATTEMPTS: usize = 8;

/// One step of a transaction as the caller gave it; checked only once it is clear that the actor is active.
#[derive(Debug, Clone, PartialEq)]
pub struct StateOperation {
    /// `upsert` or `delete`.
    pub operation: String,
    /// `None` = there was none.
    pub request: Option<StateChange>,
}

/// What a step is about.
#[derive(Debug, Clone, PartialEq)]
pub struct StateChange {
    /// The caller's key.
    pub key: String,
    /// The new value; not looked at in a delete.
    pub value: StateValue,
    /// Only if the stored value has this ETag.
    pub etag: Option<String>,
    /// Request metadata, e.g. `ttlInSeconds`.
    pub metadata: RequestMetadata,
}

impl Engine {
    fn base_key(&self, actor: &ActorKey) -> String {
        format!("{}{SEPARATOR}{actor}", self.options.app_id)
    }

    /// Reads one key of an actor, active or not.
    ///
    /// # Errors
    /// `ERR_ACTOR_RUNTIME_NOT_FOUND` without a store, `ERR_ACTOR_STATE_GET` if the store fails.
    pub async fn get_state(&self, actor: &ActorKey, key: &str) -> Result<GetResponse, ApiError> {
        let store = self.actor_store()?;
        let base = self.base_key(actor);
        let request = GetRequest {
            key: format!("{base}{SEPARATOR}{key}"),
            metadata: [("partitionKey".to_owned(), base)].into(),
            options: StateOptions::default(),
        };
        let read = async {
            if let Some(hosted) = self.hosting.get(&actor.actor_type) {
                self.fence_before_read(&store, &hosted.name).await?;
            }
            self.ask_store(&store, || store.store.get(request.clone())).await
        };
        read.await.map_err(|error| {
            ApiError::legacy(
                "ERR_ACTOR_STATE_GET",
                500,
                GrpcCode::Internal,
                format!("error getting actor state: {error}"),
            )
        })
    }

    /// One call of the store, under the user's policy.
    pub(crate) async fn ask_store<T, Fut>(
        &self,
        store: &ActorStore,
        ask: impl Fn() -> Fut,
    ) -> Result<T, StateError>
    where
        Fut: Future<Output = Result<T, StateError>>,
    {
        let policy = self
            .resiliency
            .component_outbound(&store.name, ComponentType::Statestore);
        let run = policy.run(
            |_| {
                let attempt = ask();
                async move {
                    attempt.await.map_err(|error| match error {
                        // Time does not change it; for the others that is the policy's to know.
                        StateError::GuardMismatch => Failure::permanent(error),
                        error => Failure::new(error),
                    })
                }
            },
            |error| StateError::other(error.to_string()),
        );
        run.await
    }

    /// Runs a transaction of an actor that is active here.
    ///
    /// # Errors
    /// `ERR_ACTOR_INSTANCE_MISSING` if the actor is not active here or may not act any more,
    /// `ERR_ACTOR_STATE_TRANSACTION_SAVE` for a step that is wrong, or if the store fails.
    pub async fn transact(&self, actor: &ActorKey, operations: Vec<StateOperation>) -> Result<(), ApiError> {
        let hosted = self.hosting.get(&actor.actor_type);
        let instance = hosted
            .and_then(|hosted| hosted.get(&actor.id))
            .or_else(|| self.ending(actor))
            .ok_or_else(error::instance_missing)?;
        // The end of an actor's time here waits for its writes.
        let _writing = instance.writes.read().await;
        let base = self.base_key(actor);
        let operations = operations
            .into_iter()
            .map(|operation| self.step(&base, operation))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|text| save_failed(&text))?;
        let store = self.actor_store()?;
        if store
            .store
            .transaction_limit()
            .is_some_and(|limit| operations.len() > limit)
        {
            return Err(save_failed(
                "the transaction contains more operations than supported by the state store",
            ));
        }
        let mut request = TransactionRequest {
            operations,
            metadata: [("partitionKey".to_owned(), base)].into(),
            guard: None,
        };
        let may_write = || instance.may_write() && !self.routing.is_lease_over();
        for _ in 0..GUARD_ATTEMPTS {
            request.guard = match self.guard(&store, &instance.hosted.name).await {
                Ok(guard) => guard,
                Err(FenceError::Stale) => return Err(error::instance_missing()),
                Err(FenceError::Store(error)) => return Err(save_failed(&error.to_string())),
            };
            let written = self.ask_store(&store, || {
                // Asked right before each attempt: a turn that was cut off, or whose lease is over, writes nothing.
                let may_write = may_write();
                let attempt = store.store.transact(request.clone());
                async move {
                    if may_write {
                        attempt.await
                    } else {
                        Err(StateError::GuardMismatch)
                    }
                }
            });
            match (written.await, &request.guard) {
                (Ok(()), _) => return Ok(()),
                (Err(StateError::GuardMismatch), _) if !may_write() => return Err(error::instance_missing()),
                // Another host of the type has changed the row, to what this one knows too or is about to.
                (Err(StateError::GuardMismatch), Some(guard)) => {
                    self.guard_failed(&instance.hosted.name, guard);
                }
                (Err(error), _) => return Err(save_failed(&error.to_string())),
            }
        }
        Err(save_failed(&StateError::GuardMismatch.to_string()))
    }

    fn actor_store(&self) -> Result<ActorStore, ApiError> {
        let store = self.stores.actor_store().ok_or_else(error::no_state_store)?;
        if store.store.has(StateFeature::Etag) && store.store.has(StateFeature::Transactional) {
            Ok(store)
        } else {
            Err(error::no_state_store())
        }
    }

    fn step(&self, base: &str, step: StateOperation) -> Result<TransactionOperation, String> {
        let Some(change) = step.request else {
            return Err("request data is empty".to_owned());
        };
        let key = || {
            if change.key.is_empty() {
                return Err("missing key".to_owned());
            }
            Ok(format!("{base}{SEPARATOR}{}", change.key))
        };
        let etag = change.etag.clone().filter(|etag| !etag.is_empty());
        let partition = ("partitionKey".to_owned(), base.to_owned());
        match step.operation.as_str() {
            "" => Err("operation is empty".to_owned()),
            "upsert" => {
                let key = key()?;
                if !self.state_ttl.load(Ordering::Relaxed) && change.metadata.contains_key(TTL) {
                    return Err(format!(
                        "{TTL} is not supported without the \"ActorStateTTL\" feature enabled"
                    ));
                }
                let mut metadata = change.metadata;
                metadata.extend([partition]);
                Ok(TransactionOperation::Upsert(SetRequest {
                    key,
                    value: change.value,
                    etag,
                    metadata,
                    options: StateOptions::default(),
                    content_type: None,
                }))
            }
            "delete" => Ok(TransactionOperation::Delete(DeleteRequest {
                key: key()?,
                etag,
                metadata: [partition].into(),
                options: StateOptions::default(),
            })),
            other => Err(format!("operation type {other} not supported")),
        }
    }
}

/// `ERR_ACTOR_STATE_TRANSACTION_SAVE`
pub fn save_failed(text: &str) -> ApiError {
    ApiError::legacy(
        "ERR_ACTOR_STATE_TRANSACTION_SAVE",
        500,
        GrpcCode::Internal,
        format!("error saving actor transaction state: {text}"),
    )
}

/// No store at all, for sidecars and tests whose actors keep nothing.
pub struct NoStore;

impl crate::seams::ActorStores for NoStore {
    fn actor_store(&self) -> Option<ActorStore> {
        None
    }
}

/// Always the same store.
pub struct OneStore(pub ActorStore);

impl OneStore {
    /// A store of this name.
    pub fn new(name: &str, store: Arc<dyn outrigger_components_api::state::StateStore>) -> Self {
        Self(ActorStore {
            name: name.into(),
            store,
        })
    }
}

impl crate::seams::ActorStores for OneStore {
    fn actor_store(&self) -> Option<ActorStore> {
        Some(self.0.clone())
    }
}
