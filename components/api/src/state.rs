//! State stores (contract `state`).

pub mod query;

use async_trait::async_trait;
use bytes::Bytes;
use outrigger_gojson::{Numbers, Value};
use outrigger_model::ApiError;
use thiserror::Error;

use crate::RequestMetadata;

/// A capability as the metadata API spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StateFeature {
    /// `ETAG`
    Etag,
    /// `TRANSACTIONAL`
    Transactional,
    /// `TTL`
    Ttl,
    /// `QUERY_API`
    QueryApi,
    /// `DELETE_WITH_PREFIX`
    DeleteWithPrefix,
    /// `PARTITION_KEY`
    PartitionKey,
    /// `KEYS_LIKE`
    KeysLike,
}

impl StateFeature {
    /// The spelling of the metadata API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Etag => "ETAG",
            Self::Transactional => "TRANSACTIONAL",
            Self::Ttl => "TTL",
            Self::QueryApi => "QUERY_API",
            Self::DeleteWithPrefix => "DELETE_WITH_PREFIX",
            Self::PartitionKey => "PARTITION_KEY",
            Self::KeysLike => "KEYS_LIKE",
        }
    }
}

/// A value to store. Stores encode the two kinds differently (for example `is_binary` in SQLite).
#[derive(Debug, Clone, PartialEq)]
pub enum StateValue {
    /// Bytes as the caller gave them (gRPC).
    Bytes(Bytes),
    /// Parsed JSON (HTTP, or gRPC with `contentType: application/json`); the store encodes it.
    Json(Value),
}

impl StateValue {
    /// The bytes a store keeps: bytes as they are, JSON as Go's `encoding/json` writes it (numbers as float64,
    /// sorted keys, `<>&` escaped).
    ///
    /// # Errors
    /// If a number is too large for a float64.
    pub fn encode(self) -> Result<Bytes, StateError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Json(value) => {
                value
                    .check_floats()
                    .map_err(|error| StateError::other(error.to_string()))?;
                Ok(outrigger_gojson::to_vec(&value, Numbers::Float64, true).into())
            }
        }
    }
}

/// `options.concurrency` as given: `""`, `first-write`, `last-write` or something a store refuses.
/// `options.consistency` likewise: `""`, `eventual`, `strong`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateOptions {
    /// Concurrency mode text.
    pub concurrency: String,
    /// Consistency mode text.
    pub consistency: String,
}

impl StateOptions {
    /// Refuses values other than the ones of the contract, with the text most stores use.
    ///
    /// # Errors
    /// Names the unknown value.
    pub fn check(&self) -> Result<(), StateError> {
        if !matches!(self.concurrency.as_str(), "" | "first-write" | "last-write") {
            return Err(StateError::Other(format!(
                "unrecognized concurrency model '{}'",
                self.concurrency
            )));
        }
        if !matches!(self.consistency.as_str(), "" | "strong" | "eventual") {
            return Err(StateError::Other(format!(
                "unrecognized consistency model '{}'",
                self.consistency
            )));
        }
        Ok(())
    }

    /// Whether the caller asked that the first writer wins.
    pub fn is_first_write(&self) -> bool {
        self.concurrency == "first-write"
    }
}

/// Read one key. Keys are already prefixed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GetRequest {
    /// Stored key.
    pub key: String,
    /// Request metadata.
    pub metadata: RequestMetadata,
    /// Consistency matters here, concurrency does not.
    pub options: StateOptions,
}

/// A stored value. `data: None` means that the key has no value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GetResponse {
    /// Stored bytes.
    pub data: Option<Bytes>,
    /// Opaque version.
    pub etag: Option<String>,
    /// Response metadata, e.g. `ttlExpireTime`.
    pub metadata: RequestMetadata,
    /// Content type if the store knows it.
    pub content_type: Option<String>,
}

/// Write one key.
#[derive(Debug, Clone, PartialEq)]
pub struct SetRequest {
    /// Stored key.
    pub key: String,
    /// The value.
    pub value: StateValue,
    /// `None` = no etag condition; never the empty string.
    pub etag: Option<String>,
    /// Request metadata, e.g. `ttlInSeconds`.
    pub metadata: RequestMetadata,
    /// Concurrency and consistency.
    pub options: StateOptions,
    /// `contentType` of the request, if given.
    pub content_type: Option<String>,
}

/// Remove one key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeleteRequest {
    /// Stored key.
    pub key: String,
    /// `None` = no etag condition; never the empty string.
    pub etag: Option<String>,
    /// Request metadata.
    pub metadata: RequestMetadata,
    /// Concurrency and consistency.
    pub options: StateOptions,
}

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq)]
pub enum TransactionOperation {
    /// Write.
    Upsert(SetRequest),
    /// Remove.
    Delete(DeleteRequest),
}

/// All or nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TransactionRequest {
    /// The steps, in order.
    pub operations: Vec<TransactionOperation>,
    /// Metadata of the transaction as a whole.
    pub metadata: RequestMetadata,
    /// A row that must be as expected. Only given to stores that [guard](StateStore::guards).
    pub guard: Option<Guard>,
}

/// A row that a transaction depends on without changing it: nothing is written unless the row has this ETag from
/// before the first write to after the last. Actors use it to refuse writes of an owner that was replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// Stored key.
    pub key: String,
    /// The ETag that the row must have.
    pub etag: String,
}

/// One entry of a bulk read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BulkGetItem {
    /// Stored key.
    pub key: String,
    /// What was found, or why not.
    pub response: GetResponse,
    /// Failure of this key alone.
    pub error: Option<String>,
}

/// The failure of one key of a bulk write.
#[derive(Debug, Clone, PartialEq)]
pub struct BulkStateError {
    /// Stored key.
    pub key: String,
    /// Why.
    pub error: StateError,
}

/// A query and its page (contract `state`, section 3). The document is passed through as parsed JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryRequest {
    /// `{filter, sort, page}`
    pub query: Value,
    /// Request metadata, e.g. `queryIndexName`.
    pub metadata: RequestMetadata,
}

/// A page of results.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QueryResponse {
    /// Found items; keys as stored.
    pub results: Vec<BulkGetItem>,
    /// Where the next page starts.
    pub token: String,
    /// Response metadata.
    pub metadata: RequestMetadata,
}

/// Why a state call failed.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum StateError {
    /// Another writer was first (409 / Aborted).
    #[error("possible etag mismatch. error from state store{}", cause(.0))]
    EtagMismatch(Option<String>),
    /// The row that the transaction depends on has changed, or is gone: nothing was written.
    #[error("the row that guards the transaction has changed")]
    GuardMismatch,
    /// The etag is no etag of this store (400 / InvalidArgument).
    #[error("invalid etag value{}", cause(.0))]
    EtagInvalid(Option<String>),
    /// The store offers no such operation.
    #[error("{0}")]
    Unsupported(String),
    /// A store with its own rich error.
    #[error("{0}")]
    Api(Box<ApiError>),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

fn cause(cause: &Option<String>) -> String {
    cause
        .as_ref()
        .map(|cause| format!(": {cause}"))
        .unwrap_or_default()
}

impl StateError {
    /// A failure with this text.
    pub fn other(text: impl Into<String>) -> Self {
        Self::Other(text.into())
    }

    /// Failed conditions are final; other failures may be retried.
    pub const fn is_etag(&self) -> bool {
        matches!(
            self,
            Self::EtagMismatch(_) | Self::EtagInvalid(_) | Self::GuardMismatch
        )
    }
}

/// A key-value store.
///
/// Every method may be called concurrently and is cancel-safe: a dropped call either happened or did not.
#[async_trait]
pub trait StateStore: Send + Sync + 'static {
    /// Declared capabilities, in the order in which the metadata API lists them.
    fn features(&self) -> &[StateFeature];

    /// Whether a capability is declared.
    fn has(&self, feature: StateFeature) -> bool {
        self.features().contains(&feature)
    }

    /// Whether [`StateStore::query`] may be called: some stores answer it with an error of their own although
    /// their server lacks what [`StateFeature::QueryApi`] needs.
    fn can_query(&self) -> bool {
        self.has(StateFeature::QueryApi)
    }

    /// Reads one key.
    async fn get(&self, request: GetRequest) -> Result<GetResponse, StateError>;

    /// Writes one key.
    async fn set(&self, request: SetRequest) -> Result<(), StateError>;

    /// Removes one key; an absent key without an etag condition is no failure.
    async fn delete(&self, request: DeleteRequest) -> Result<(), StateError>;

    /// Reads several keys, `parallelism` at a time (0 = all at once), in the order of the requests.
    async fn bulk_get(
        &self,
        requests: Vec<GetRequest>,
        parallelism: usize,
    ) -> Result<Vec<BulkGetItem>, StateError> {
        use tokio::sync::Semaphore;
        let permits = Semaphore::new(match parallelism {
            0 => Semaphore::MAX_PERMITS,
            some => some.min(Semaphore::MAX_PERMITS),
        });
        let permits = &permits;
        Ok(join_all(requests.into_iter().map(|request| async move {
            let _permit = permits.acquire().await.ok();
            let key = request.key.clone();
            match self.get(request).await {
                Ok(response) => BulkGetItem {
                    key,
                    response,
                    error: None,
                },
                Err(error) => BulkGetItem {
                    key,
                    response: GetResponse::default(),
                    error: Some(error.to_string()),
                },
            }
        }))
        .await)
    }

    /// Writes several keys, not as a transaction; reports every key that failed.
    async fn bulk_set(&self, requests: Vec<SetRequest>) -> Result<(), Vec<BulkStateError>> {
        collect(
            join_all(requests.into_iter().map(|request| async move {
                let key = request.key.clone();
                self.set(request)
                    .await
                    .map_err(|error| BulkStateError { key, error })
            }))
            .await,
        )
    }

    /// Removes several keys, not as a transaction; reports every key that failed.
    async fn bulk_delete(&self, requests: Vec<DeleteRequest>) -> Result<(), Vec<BulkStateError>> {
        collect(
            join_all(requests.into_iter().map(|request| async move {
                let key = request.key.clone();
                self.delete(request)
                    .await
                    .map_err(|error| BulkStateError { key, error })
            }))
            .await,
        )
    }

    /// Most operations a transaction may hold; `None` = no limit.
    fn transaction_limit(&self) -> Option<usize> {
        None
    }

    /// Whether transactions heed a [`Guard`]. A store that says so must let no write of a guarded transaction happen
    /// after another writer was told that it has changed the guard's row.
    fn guards(&self) -> bool {
        false
    }

    /// Runs a transaction. Only called when [`StateFeature::Transactional`] is declared.
    async fn transact(&self, _request: TransactionRequest) -> Result<(), StateError> {
        Err(StateError::Unsupported(
            "transactions are not supported by this state store".into(),
        ))
    }

    /// Runs a query. Only called when [`StateStore::can_query`].
    async fn query(&self, _request: QueryRequest) -> Result<QueryResponse, StateError> {
        Err(StateError::Unsupported(
            "state store does not support querying".into(),
        ))
    }

    /// Removes all keys `<prefix>||x` (one more segment); returns how many.
    async fn delete_with_prefix(&self, _prefix: &str) -> Result<u64, StateError> {
        Err(StateError::Unsupported(
            "deleting by prefix is not supported by this state store".into(),
        ))
    }

    /// Full stored keys that match a SQL LIKE pattern (`%`, `_`, `\` escapes), a page at a time.
    async fn keys_like(&self, _request: KeysLikeRequest) -> Result<KeysLikeResponse, StateError> {
        Err(StateError::Unsupported(
            "listing keys is not supported by this state store".into(),
        ))
    }

    /// Checks that the backend answers.
    async fn ping(&self) -> Result<(), StateError> {
        Ok(())
    }

    /// Releases connections after the in-flight calls; called once.
    async fn close(&self) {}
}

/// A listing request; see [`StateStore::keys_like`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeysLikeRequest {
    /// SQL LIKE pattern; empty is an error.
    pub pattern: String,
    /// Page size; `None` = everything.
    pub page_size: Option<u32>,
    /// Where the previous page ended.
    pub continuation_token: Option<String>,
}

/// A page of keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeysLikeResponse {
    /// Full stored keys.
    pub keys: Vec<String>,
    /// Set when there may be more.
    pub continuation_token: Option<String>,
}

/// Metadata `ttlInSeconds` as most stores read it: -1 and 0 mean no expiry; absent or empty is `None`.
///
/// # Errors
/// In Dapr's words, to be prefixed by the store with what it was doing.
pub fn ttl_in_seconds(metadata: &RequestMetadata) -> Result<Option<i32>, String> {
    const WHAT: &str = "incorrect value for metadata 'ttlInSeconds'";
    let Some(text) = metadata.get("ttlInSeconds").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let seconds = crate::metadata::go_integer(text, 10)
        .and_then(|seconds| i64::try_from(seconds).map_err(|_| "value out of range"))
        .map_err(|reason| format!("{WHAT}: strconv.ParseInt: parsing {text:?}: {reason}"))?;
    match i32::try_from(seconds) {
        Ok(seconds) if seconds >= -1 => Ok(Some(seconds)),
        _ => Err(format!("{WHAT}: must be -1 or greater")),
    }
}

fn collect(results: Vec<Result<(), BulkStateError>>) -> Result<(), Vec<BulkStateError>> {
    let failed: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    if failed.is_empty() { Ok(()) } else { Err(failed) }
}

/// Drives all futures at once, keeping the order of the answers.
async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    futures_util::future::join_all(futures).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_a_number_of_seconds_from_minus_one() {
        let ttl = |text: &str| ttl_in_seconds(&[("ttlInSeconds".to_owned(), text.to_owned())].into());
        assert_eq!(ttl_in_seconds(&RequestMetadata::new()), Ok(None));
        assert_eq!(ttl(""), Ok(None));
        assert_eq!(ttl("-1"), Ok(Some(-1)));
        assert_eq!(ttl("2147483647"), Ok(Some(i32::MAX)));
        for text in ["-5", "2147483648", "99999999999"] {
            assert_eq!(
                ttl(text).unwrap_err(),
                "incorrect value for metadata 'ttlInSeconds': must be -1 or greater"
            );
        }
        assert_eq!(
            ttl("1.5").unwrap_err(),
            "incorrect value for metadata 'ttlInSeconds': strconv.ParseInt: parsing \"1.5\": invalid syntax"
        );
    }
}
