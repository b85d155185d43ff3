//! The state building block: look-up, key prefixes, the store calls under their policy, and errors in Dapr's
//! terms (contracts `state` and `errors`). Both edges call it; they decode and encode only.

pub mod encryption;
pub mod errors;
pub mod key;

use std::sync::Arc;

use outrigger_components_api::RequestMetadata;
use outrigger_components_api::state::{
    BulkGetItem, BulkStateError, DeleteRequest, GetRequest, GetResponse, QueryRequest, QueryResponse,
    SetRequest, StateError, StateFeature, StateOptions, TransactionOperation, TransactionRequest,
};
use outrigger_gojson::Value;
use outrigger_model::ApiError;

use crate::Edge;
use crate::components::{ComponentStore, LoadedState};
use crate::policy::ComponentPolicies;
use crate::pubsub::{PubSubService, PublishTrace};

/// State operations of both APIs.
pub struct StateService {
    components: Arc<ComponentStore>,
    policies: Arc<ComponentPolicies>,
    app_id: Arc<str>,
    pubsub: PubSubService,
}

/// A store found by name, for the length of one call.
pub struct Store<'a> {
    service: &'a StateService,
    name: &'a str,
    edge: Edge,
    loaded: LoadedState,
}

impl StateService {
    /// The service over these components; outboxes publish by `pubsub`.
    pub const fn new(
        components: Arc<ComponentStore>,
        policies: Arc<ComponentPolicies>,
        app_id: Arc<str>,
        pubsub: PubSubService,
    ) -> Self {
        Self {
            components,
            policies,
            app_id,
            pubsub,
        }
    }

    /// Finds a store.
    ///
    /// # Errors
    /// `ERR_STATE_STORE_NOT_CONFIGURED` without any store, `ERR_STATE_STORE_NOT_FOUND` for an unknown name.
    pub fn store<'a>(&'a self, name: &'a str, edge: Edge) -> Result<Store<'a>, ApiError> {
        let app_id = (edge == Edge::Http).then(|| &*self.app_id);
        self.find(name, edge, app_id)
    }

    /// As [`Self::store`] for the query call, whose look-up errors never carry the app id.
    ///
    /// # Errors
    /// As [`Self::store`].
    pub fn store_for_query<'a>(&'a self, name: &'a str, edge: Edge) -> Result<Store<'a>, ApiError> {
        self.find(name, edge, None)
    }

    fn find<'a>(&'a self, name: &'a str, edge: Edge, app_id: Option<&str>) -> Result<Store<'a>, ApiError> {
        let snapshot = self.components.snapshot();
        if snapshot.state.is_empty() {
            return Err(errors::not_configured(name, app_id));
        }
        let loaded = snapshot
            .state
            .get(name)
            .cloned()
            .ok_or_else(|| errors::not_found(name, app_id))?;
        Ok(Store {
            service: self,
            name,
            edge,
            loaded,
        })
    }
}

impl Store<'_> {
    /// The stored key, or the error as this edge words it: over HTTP the text is wrapped once more
    /// (contract `errors`, section 1.1).
    fn key(&self, key: &str) -> Result<String, ApiError> {
        self.loaded
            .prefix
            .stored(self.name, key)
            .map_err(|error| match self.edge {
                Edge::Grpc => error,
                Edge::Http => errors::wrap_illegal_key(&error, self.name, key),
            })
    }

    /// Reads one key; the answer's data is `None` when there is none.
    ///
    /// # Errors
    /// `ERR_STATE_GET`, or an illegal key.
    pub async fn get(
        &self,
        key: &str,
        options: StateOptions,
        metadata: RequestMetadata,
    ) -> Result<GetResponse, ApiError> {
        let request = GetRequest {
            key: self.key(key)?,
            metadata,
            options,
        };
        let policy = self.service.policies.state(self.name, "get");
        policy
            .run(|| {
                let (store, request) = (self.loaded.store.clone(), request.clone());
                async move { store.get(request).await }
            })
            .await
            .and_then(|found| self.open(found))
            .map_err(|error| errors::get(self.name, key, &error))
    }

    /// What was read, decrypted.
    fn open(&self, mut found: GetResponse) -> Result<GetResponse, StateError> {
        if let (Some(keys), Some(data)) = (&self.loaded.encryption, &found.data) {
            found.data = Some(keys.open(self.name, data)?);
        }
        Ok(found)
    }

    /// Whether values are encrypted before the store sees them.
    pub fn is_encrypted(&self) -> bool {
        self.loaded.encryption.is_some()
    }

    /// Writes items whose keys are still the caller's: one item by `set`, several by `bulk_set`.
    ///
    /// # Errors
    /// `ERR_STATE_SAVE`, or an illegal key.
    pub async fn save(&self, mut items: Vec<SetRequest>) -> Result<(), ApiError> {
        for item in &mut items {
            item.key = self.key(&item.key)?;
            item.etag = item.etag.take().filter(|etag| !etag.is_empty());
            if let Some(keys) = &self.loaded.encryption {
                item.value = keys
                    .seal(&item.value)
                    .map_err(|error| errors::save(self.name, &error))?;
            }
        }
        let policy = self.service.policies.state(self.name, "set");
        let result = match <[SetRequest; 1]>::try_from(items) {
            Ok([item]) => {
                policy
                    .run(|| {
                        let (store, item) = (self.loaded.store.clone(), item.clone());
                        async move { store.set(item).await }
                    })
                    .await
            }
            Err(items) if items.is_empty() => return Ok(()),
            Err(items) => policy
                .run_bulk(
                    items,
                    |item| item.key.as_str(),
                    |items| {
                        let store = self.loaded.store.clone();
                        async move { store.bulk_set(items).await }
                    },
                )
                .await
                .map_err(|failed| merge(&failed)),
        };
        result.map_err(|error| errors::save(self.name, &error))
    }

    /// Removes one key.
    ///
    /// # Errors
    /// `ERR_STATE_DELETE`, or an illegal key.
    pub async fn delete(&self, mut request: DeleteRequest) -> Result<(), ApiError> {
        let key = std::mem::take(&mut request.key);
        request.key = self.key(&key)?;
        request.etag = request.etag.take().filter(|etag| !etag.is_empty());
        let policy = self.service.policies.state(self.name, "delete");
        policy
            .run(|| {
                let (store, request) = (self.loaded.store.clone(), request.clone());
                async move { store.delete(request).await }
            })
            .await
            .map_err(|error| errors::delete(&key, &error))
    }

    /// Removes several keys (gRPC only).
    ///
    /// # Errors
    /// `ERR_STATE_BULK_DELETE`, or an illegal key.
    pub async fn delete_bulk(&self, mut requests: Vec<DeleteRequest>) -> Result<(), ApiError> {
        for request in &mut requests {
            request.key = self.key(&request.key)?;
            request.etag = request.etag.take().filter(|etag| !etag.is_empty());
        }
        let policy = self.service.policies.state(self.name, "bulk_delete");
        let result = match <[DeleteRequest; 1]>::try_from(requests) {
            Ok([request]) => {
                policy
                    .run(|| {
                        let (store, request) = (self.loaded.store.clone(), request.clone());
                        async move { store.delete(request).await }
                    })
                    .await
            }
            Err(requests) if requests.is_empty() => return Ok(()),
            Err(requests) => policy
                .run_bulk(
                    requests,
                    |request| request.key.as_str(),
                    |requests| {
                        let store = self.loaded.store.clone();
                        async move { store.bulk_delete(requests).await }
                    },
                )
                .await
                .map_err(|failed| merge(&failed)),
        };
        result.map_err(|error| errors::delete_bulk(self.name, &error))
    }

    /// Reads several keys; the items' keys are the caller's again.
    ///
    /// # Errors
    /// `ERR_STATE_BULK_GET`, or an illegal key. A failure of one key stands in its item.
    pub async fn get_bulk(
        &self,
        keys: &[String],
        metadata: &RequestMetadata,
        parallelism: i64,
    ) -> Result<Vec<BulkGetItem>, ApiError> {
        let mut requests = Vec::with_capacity(keys.len());
        for key in keys {
            requests.push(GetRequest {
                key: self.key(key)?,
                metadata: metadata.clone(),
                options: StateOptions::default(),
            });
        }
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let parallelism = usize::try_from(parallelism).unwrap_or(0);
        let policy = self.service.policies.state(self.name, "bulk_get");
        let mut items = policy
            .run(|| {
                let (store, requests) = (self.loaded.store.clone(), requests.clone());
                async move { store.bulk_get(requests, parallelism).await }
            })
            .await
            .map_err(|error| errors::get_bulk(&error))?;
        for item in &mut items {
            item.key = key::original(&item.key).into_owned();
            match self.open(std::mem::take(&mut item.response)) {
                Ok(opened) => item.response = opened,
                Err(error) => item.error = Some(error.to_string()),
            }
        }
        Ok(items)
    }

    /// Whether transactions may be called at all.
    ///
    /// # Errors
    /// `ERR_STATE_STORE_NOT_SUPPORTED`
    pub fn require_transactions(&self) -> Result<(), ApiError> {
        if self.loaded.store.has(StateFeature::Transactional) {
            Ok(())
        } else {
            Err(errors::transactions_not_supported(self.name))
        }
    }

    /// Runs a transaction whose keys are still the caller's. Check order: keys, limit, store
    /// (contract `http-api`, section 2).
    ///
    /// # Errors
    /// `ERR_PUBLISH_OUTBOX`, `ERR_STATE_TRANSACTION` for whatever the store says, `ERR_STATE_STORE_TOO_MANY_TRANSACTIONS`, or an
    /// illegal key.
    pub async fn transact(
        &self,
        mut request: TransactionRequest,
        trace: &PublishTrace,
    ) -> Result<(), ApiError> {
        self.require_transactions()?;
        for operation in &mut request.operations {
            let (key, etag) = match operation {
                TransactionOperation::Upsert(set) => (&mut set.key, &mut set.etag),
                TransactionOperation::Delete(delete) => (&mut delete.key, &mut delete.etag),
            };
            *etag = etag.take().filter(|etag| !etag.is_empty());
            *key = self
                .loaded
                .prefix
                .stored(self.name, key)
                .map_err(|error| match self.edge {
                    Edge::Grpc => error,
                    // The reference reports the key it has already emptied.
                    Edge::Http => errors::wrap_illegal_key(&error, self.name, ""),
                })?;
        }
        if request.operations.is_empty() {
            return Ok(());
        }
        if let Some(limit) = self
            .loaded
            .store
            .transaction_limit()
            .filter(|limit| request.operations.len() > *limit)
        {
            return Err(errors::too_many_operations(
                self.name,
                request.operations.len(),
                limit,
            ));
        }
        if let Some(keys) = &self.loaded.encryption {
            for operation in &mut request.operations {
                if let TransactionOperation::Upsert(set) = operation {
                    let sealed = match self.edge {
                        Edge::Http => keys.seal(&set.value),
                        Edge::Grpc => keys.seal_listed(&set.value),
                    };
                    set.value = sealed.map_err(|error| errors::transact(&error))?;
                }
            }
        }
        let mut markers = Vec::new();
        let pubsub = &self.service.pubsub;
        if let Some(outbox) = &self.loaded.outbox {
            let announced = pubsub.publish_outbox(outbox, request.operations, trace).await;
            let announced = announced.map_err(|error| errors::outbox(&self.service.app_id, &error))?;
            (request.operations, markers) = (announced.operations, announced.markers);
        }
        let policy = self.service.policies.state(self.name, "transaction");
        let done = policy
            .run(|| {
                let (store, request) = (self.loaded.store.clone(), request.clone());
                async move { store.transact(request).await }
            })
            .await;
        if let Err(error) = &done
            && (error.is_etag() || matches!(error, StateError::Unsupported(_)))
            && !markers.is_empty()
        {
            pubsub.void_outbox(&*self.loaded.store, markers).await;
        }
        done.map_err(|error| errors::transact(&error))
    }

    /// Runs a query; the items' keys are the caller's again.
    ///
    /// # Errors
    /// `ERR_STATE_STORE_NOT_SUPPORTED`, `ERR_STATE_QUERY`
    pub async fn query(
        &self,
        parse: impl FnOnce() -> Result<Value, String> + Send,
        metadata: RequestMetadata,
    ) -> Result<QueryResponse, ApiError> {
        if !self.loaded.store.can_query() {
            return Err(errors::querying_not_supported(self.name));
        }
        if self.loaded.encryption.is_some() {
            return Err(errors::query(self.name, "cannot query encrypted store"));
        }
        let query = parse().map_err(|text| errors::query(self.name, &text))?;
        let request = QueryRequest { query, metadata };
        let policy = self.service.policies.state(self.name, "query");
        let mut response = policy
            .run(|| {
                let (store, request) = (self.loaded.store.clone(), request.clone());
                async move { store.query(request).await }
            })
            .await
            .map_err(|error| errors::query(self.name, &error.to_string()))?;
        for item in &mut response.results {
            item.key = key::original(&item.key).into_owned();
        }
        Ok(response)
    }
}

/// The one error of a bulk write: an etag failure wins and carries the text of the failed key.
fn merge(failed: &[BulkStateError]) -> StateError {
    for failure in failed {
        match &failure.error {
            StateError::EtagMismatch(_) => return StateError::EtagMismatch(Some(failure.error.to_string())),
            StateError::EtagInvalid(_) => return StateError::EtagInvalid(Some(failure.error.to_string())),
            StateError::GuardMismatch
            | StateError::Unsupported(_)
            | StateError::Api(_)
            | StateError::Other(_) => {}
        }
    }
    let mut texts: Vec<String> = failed.iter().map(|failure| failure.error.to_string()).collect();
    // A component that fails as a whole says so once.
    texts.dedup();
    StateError::Other(texts.join("\n"))
}
