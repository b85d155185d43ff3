//! State stores.

use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use outrigger_components_api::state::{
    BulkGetItem, BulkStateError, DeleteRequest, GetRequest, GetResponse, QueryRequest, QueryResponse,
    SetRequest, StateError, StateFeature, StateOptions, StateStore, StateValue, TransactionOperation,
    TransactionRequest,
};
use outrigger_components_api::{InitContext, InitError};
use outrigger_gojson::{Numbers, Value};
use outrigger_proto::components::v1 as wire;
use outrigger_proto::components::v1::queriable_state_store_client::QueriableStateStoreClient;
use outrigger_proto::components::v1::state_store_client::StateStoreClient;
use outrigger_proto::components::v1::transactional_state_operation::Request as Operation;
use outrigger_proto::components::v1::transactional_state_store_client::TransactionalStateStoreClient;
use outrigger_proto::components::v1::transactional_store_multi_max_size_client::TransactionalStoreMultiMaxSizeClient;
use tonic::Status;

use crate::error;
use crate::link::{Connection, Handshake, Link};

pub(crate) struct Init;

impl Handshake for Init {
    async fn init(connection: Connection, metadata: wire::MetadataRequest) -> Result<(), Status> {
        let request = wire::InitRequest {
            metadata: Some(metadata),
        };
        StateStoreClient::new(connection).init(request).await.map(drop)
    }
}

/// A state store in a process of its own.
pub(crate) struct Store {
    link: Link<Init>,
    features: Vec<StateFeature>,
    limit: Option<usize>,
}

const FEATURES: [StateFeature; 7] = [
    StateFeature::Etag,
    StateFeature::Transactional,
    StateFeature::Ttl,
    StateFeature::QueryApi,
    StateFeature::DeleteWithPrefix,
    StateFeature::PartitionKey,
    StateFeature::KeysLike,
];

impl Store {
    pub(crate) async fn new(socket: &Path, context: InitContext) -> Result<Self, InitError> {
        let link: Link<Init> = Link::new(socket, &context).await?;
        let failed = |status: Status| InitError::new(error::text(&status));
        let connection = link.connection().await.map_err(failed)?;
        let answer = StateStoreClient::new(connection.clone())
            .features(wire::FeaturesRequest {})
            .await
            .map_err(failed)?;
        let names = answer.into_inner().features;
        let features: Vec<StateFeature> = names
            .iter()
            .filter_map(|name| FEATURES.into_iter().find(|feature| feature.name() == name))
            // These have no call on this wire.
            .filter(|feature| !matches!(feature, StateFeature::DeleteWithPrefix | StateFeature::KeysLike))
            .collect();
        let mut limit = None;
        if features.contains(&StateFeature::Transactional) {
            let asked = TransactionalStoreMultiMaxSizeClient::new(connection)
                .multi_max_size(wire::MultiMaxSizeRequest {})
                .await;
            // Few components have a limit; those without do not know the call.
            limit = asked
                .ok()
                .and_then(|answer| usize::try_from(answer.into_inner().max_size).ok())
                .filter(|limit| *limit > 0);
        }
        Ok(Self {
            link,
            features,
            limit,
        })
    }

    async fn client(&self) -> Result<StateStoreClient<Connection>, StateError> {
        let connection = self
            .link
            .connection()
            .await
            .map_err(|status| error::state(&status))?;
        Ok(StateStoreClient::new(connection)
            .max_decoding_message_size(usize::MAX >> 1)
            .max_encoding_message_size(usize::MAX >> 1))
    }
}

fn options(options: &StateOptions) -> wire::StateOptions {
    wire::StateOptions {
        concurrency: match options.concurrency.as_str() {
            "first-write" => 1,
            "last-write" => 2,
            _ => 0,
        },
        consistency: consistency(&options.consistency),
    }
}

fn consistency(text: &str) -> i32 {
    match text {
        "eventual" => 1,
        "strong" => 2,
        _ => 0,
    }
}

fn get_request(request: GetRequest) -> wire::GetRequest {
    wire::GetRequest {
        consistency: consistency(&request.options.consistency),
        key: request.key,
        metadata: request.metadata.into_iter().collect(),
    }
}

fn set_request(request: SetRequest) -> Result<wire::SetRequest, StateError> {
    if request.value == StateValue::Json(Value::Null) {
        return Err(StateError::other(
            "an attempt to set a nil value was received, try to use Delete instead",
        ));
    }
    Ok(wire::SetRequest {
        key: request.key,
        value: request.value.encode()?,
        etag: request.etag.map(|value| wire::Etag { value }),
        metadata: request.metadata.into_iter().collect(),
        options: Some(options(&request.options)),
        content_type: request.content_type.unwrap_or_default(),
    })
}

fn delete_request(request: DeleteRequest) -> wire::DeleteRequest {
    wire::DeleteRequest {
        key: request.key,
        etag: request.etag.map(|value| wire::Etag { value }),
        metadata: request.metadata.into_iter().collect(),
        options: Some(options(&request.options)),
    }
}

fn some(data: Bytes) -> Option<Bytes> {
    (!data.is_empty()).then_some(data)
}

fn text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// Each item failed as the whole call did: the wire knows no failure of one.
fn each(keys: Vec<String>, error: &StateError) -> Vec<BulkStateError> {
    let one = |key| BulkStateError {
        key,
        error: error.clone(),
    };
    keys.into_iter().map(one).collect()
}

fn query(query: &Value) -> wire::Query {
    let json = |value: &Value| prost_types::Any {
        type_url: String::new(),
        value: outrigger_gojson::to_vec(value, Numbers::Float64, true),
    };
    let filter = match query.get_field("filter") {
        Some(Value::Object(members)) => members
            .iter()
            .map(|(name, value)| (name.clone(), json(value)))
            .collect(),
        _ => Default::default(),
    };
    let sort = query
        .get_field("sort")
        .and_then(Value::as_array)
        .unwrap_or_default();
    let page = query.get_field("page");
    wire::Query {
        filter,
        sort: sort
            .iter()
            .map(|one| wire::Sorting {
                key: one.get_str("key").unwrap_or_default().to_owned(),
                order: i32::from(one.get_str("order") == Some("DESC")),
            })
            .collect(),
        pagination: Some(wire::Pagination {
            limit: page
                .and_then(|page| page.get("limit"))
                .and_then(Value::as_i64)
                .unwrap_or_default(),
            token: page
                .and_then(|page| page.get_str("token"))
                .unwrap_or_default()
                .to_owned(),
        }),
    }
}

#[async_trait]
impl StateStore for Store {
    fn features(&self) -> &[StateFeature] {
        &self.features
    }

    async fn get(&self, request: GetRequest) -> Result<GetResponse, StateError> {
        let answer = self.client().await?.get(get_request(request)).await;
        let found = answer.map_err(|status| error::state(&status))?.into_inner();
        Ok(GetResponse {
            data: some(found.data),
            etag: found.etag.map(|etag| etag.value),
            metadata: found.metadata.into_iter().collect(),
            content_type: text(found.content_type),
        })
    }

    async fn set(&self, request: SetRequest) -> Result<(), StateError> {
        let answer = self.client().await?.set(set_request(request)?).await;
        answer.map(drop).map_err(|status| error::state(&status))
    }

    async fn delete(&self, request: DeleteRequest) -> Result<(), StateError> {
        let answer = self.client().await?.delete(delete_request(request)).await;
        answer.map(drop).map_err(|status| error::state(&status))
    }

    async fn bulk_get(
        &self,
        requests: Vec<GetRequest>,
        parallelism: usize,
    ) -> Result<Vec<BulkGetItem>, StateError> {
        let request = wire::BulkGetRequest {
            items: requests.into_iter().map(get_request).collect(),
            options: Some(wire::BulkGetRequestOptions {
                parallelism: i64::try_from(parallelism).unwrap_or(i64::MAX),
            }),
        };
        let answer = self.client().await?.bulk_get(request).await;
        let items = answer.map_err(|status| error::state(&status))?.into_inner().items;
        let item = |item: wire::BulkStateItem| BulkGetItem {
            key: item.key,
            response: GetResponse {
                data: some(item.data),
                etag: item.etag.map(|etag| etag.value),
                metadata: item.metadata.into_iter().collect(),
                content_type: text(item.content_type),
            },
            error: text(item.error),
        };
        Ok(items.into_iter().map(item).collect())
    }

    async fn bulk_set(&self, requests: Vec<SetRequest>) -> Result<(), Vec<BulkStateError>> {
        let keys: Vec<String> = requests.iter().map(|request| request.key.clone()).collect();
        let call = async {
            let items = requests.into_iter().map(set_request).collect::<Result<_, _>>()?;
            let request = wire::BulkSetRequest {
                items,
                options: Some(wire::BulkSetRequestOptions::default()),
            };
            let answer = self.client().await?.bulk_set(request).await;
            answer.map(drop).map_err(|status| error::state(&status))
        };
        call.await.map_err(|error| each(keys, &error))
    }

    async fn bulk_delete(&self, requests: Vec<DeleteRequest>) -> Result<(), Vec<BulkStateError>> {
        let keys: Vec<String> = requests.iter().map(|request| request.key.clone()).collect();
        let call = async {
            let request = wire::BulkDeleteRequest {
                items: requests.into_iter().map(delete_request).collect(),
                options: Some(wire::BulkDeleteRequestOptions::default()),
            };
            let answer = self.client().await?.bulk_delete(request).await;
            answer.map(drop).map_err(|status| error::state(&status))
        };
        call.await.map_err(|error| each(keys, &error))
    }

    fn transaction_limit(&self) -> Option<usize> {
        self.limit
    }

    async fn transact(&self, request: TransactionRequest) -> Result<(), StateError> {
        let operation = |operation| {
            let request = match operation {
                TransactionOperation::Upsert(set) => Operation::Set(set_request(set)?),
                TransactionOperation::Delete(delete) => Operation::Delete(delete_request(delete)),
            };
            Ok(wire::TransactionalStateOperation {
                request: Some(request),
            })
        };
        let operations = request.operations.into_iter().map(operation);
        let request = wire::TransactionalStateRequest {
            operations: operations.collect::<Result<_, StateError>>()?,
            metadata: request.metadata.into_iter().collect(),
        };
        let connection = self
            .link
            .connection()
            .await
            .map_err(|status| error::state(&status))?;
        let answer = TransactionalStateStoreClient::new(connection)
            .transact(request)
            .await;
        answer.map(drop).map_err(|status| error::state(&status))
    }

    async fn query(&self, request: QueryRequest) -> Result<QueryResponse, StateError> {
        let request = wire::QueryRequest {
            query: Some(query(&request.query)),
            metadata: request.metadata.into_iter().collect(),
        };
        let connection = self
            .link
            .connection()
            .await
            .map_err(|status| error::state(&status))?;
        let answer = QueriableStateStoreClient::new(connection).query(request).await;
        let found = answer.map_err(|status| error::state(&status))?.into_inner();
        let item = |item: wire::QueryItem| BulkGetItem {
            key: item.key,
            response: GetResponse {
                data: some(item.data),
                etag: item.etag.map(|etag| etag.value),
                metadata: Default::default(),
                content_type: text(item.content_type),
            },
            error: text(item.error),
        };
        Ok(QueryResponse {
            results: found.items.into_iter().map(item).collect(),
            token: found.token,
            metadata: found.metadata.into_iter().collect(),
        })
    }

    async fn ping(&self) -> Result<(), StateError> {
        let answer = self.client().await?.ping(wire::PingRequest {}).await;
        answer.map(drop).map_err(|status| error::state(&status))
    }

    async fn close(&self) {
        self.link.close().await;
    }
}
