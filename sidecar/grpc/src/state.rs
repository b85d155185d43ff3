//! State RPCs.

use outrigger_components_api::state::{
    DeleteRequest, SetRequest, StateOptions, StateValue, TransactionOperation, TransactionRequest,
};
use outrigger_proto::common::v1 as common;
use outrigger_proto::common::v1::state_options::{StateConcurrency, StateConsistency};
use outrigger_proto::runtime::v1 as wire;
use outrigger_sidecar_core::state::errors::{empty_key, unknown_operation};
use outrigger_sidecar_core::{Edge, Sidecar};
use tonic::{Request, Response, Status};

use crate::error::{map, to_status};

fn consistency(number: i32) -> String {
    match StateConsistency::try_from(number) {
        Ok(StateConsistency::ConsistencyEventual) => "eventual",
        Ok(StateConsistency::ConsistencyStrong) => "strong",
        _ => "",
    }
    .to_owned()
}

fn concurrency(number: i32) -> String {
    match StateConcurrency::try_from(number) {
        Ok(StateConcurrency::ConcurrencyFirstWrite) => "first-write",
        Ok(StateConcurrency::ConcurrencyLastWrite) => "last-write",
        _ => "",
    }
    .to_owned()
}

fn options(options: Option<common::StateOptions>) -> StateOptions {
    let options = options.unwrap_or_default();
    StateOptions {
        concurrency: concurrency(options.concurrency),
        consistency: consistency(options.consistency),
    }
}

/// Bytes reach the store as they are, unless the metadata says that they are JSON. They are encrypted as they are in any case.
fn set_request(item: common::StateItem, is_encrypted: bool) -> Result<SetRequest, Status> {
    let metadata = map(item.metadata);
    let content_type = metadata.get("contentType").cloned();
    let value = if content_type.as_deref() == Some("application/json") {
        let parsed = outrigger_gojson::parse(&item.value);
        let parsed = parsed.map_err(|error| Status::unknown(error.to_string()))?;
        if is_encrypted {
            StateValue::Bytes(item.value)
        } else {
            StateValue::Json(parsed)
        }
    } else {
        StateValue::Bytes(item.value)
    };
    Ok(SetRequest {
        key: item.key,
        value,
        etag: item.etag.map(|etag| etag.value),
        metadata,
        options: options(item.options),
        content_type,
    })
}

fn delete_request(item: common::StateItem) -> DeleteRequest {
    DeleteRequest {
        key: item.key,
        etag: item.etag.map(|etag| etag.value),
        metadata: map(item.metadata),
        options: options(item.options),
    }
}

pub(crate) async fn get(
    core: &Sidecar,
    request: wire::GetStateRequest,
) -> Result<Response<wire::GetStateResponse>, Status> {
    let store = core
        .state
        .store(&request.store_name, Edge::Grpc)
        .map_err(|error| to_status(&error))?;
    let options = StateOptions {
        consistency: consistency(request.consistency),
        ..StateOptions::default()
    };
    let found = store
        .get(&request.key, options, map(request.metadata))
        .await
        .map_err(|error| to_status(&error))?;
    Ok(Response::new(wire::GetStateResponse {
        data: found.data.unwrap_or_default(),
        etag: found.etag.unwrap_or_default(),
        metadata: found.metadata.into_iter().collect(),
    }))
}

pub(crate) async fn get_bulk(
    core: &Sidecar,
    request: wire::GetBulkStateRequest,
) -> Result<Response<wire::GetBulkStateResponse>, Status> {
    let store = core
        .state
        .store(&request.store_name, Edge::Grpc)
        .map_err(|error| to_status(&error))?;
    let metadata = map(request.metadata);
    let found = store
        .get_bulk(&request.keys, &metadata, i64::from(request.parallelism))
        .await
        .map_err(|error| to_status(&error))?;
    let items = found
        .into_iter()
        .map(|item| wire::BulkStateItem {
            key: item.key,
            data: item.response.data.unwrap_or_default(),
            etag: item.response.etag.unwrap_or_default(),
            error: item.error.unwrap_or_default(),
            metadata: item.response.metadata.into_iter().collect(),
        })
        .collect();
    Ok(Response::new(wire::GetBulkStateResponse { items }))
}

pub(crate) async fn save(core: &Sidecar, request: wire::SaveStateRequest) -> Result<Response<()>, Status> {
    let store = core
        .state
        .store(&request.store_name, Edge::Grpc)
        .map_err(|error| to_status(&error))?;
    let mut items = Vec::with_capacity(request.states.len());
    for item in request.states {
        if item.key.is_empty() {
            return Err(to_status(&empty_key()));
        }
        items.push(set_request(item, store.is_encrypted())?);
    }
    store.save(items).await.map_err(|error| to_status(&error))?;
    Ok(Response::new(()))
}

pub(crate) async fn delete(
    core: &Sidecar,
    request: wire::DeleteStateRequest,
) -> Result<Response<()>, Status> {
    let store = core
        .state
        .store(&request.store_name, Edge::Grpc)
        .map_err(|error| to_status(&error))?;
    let request = DeleteRequest {
        key: request.key,
        etag: request.etag.map(|etag| etag.value),
        metadata: map(request.metadata),
        options: options(request.options),
    };
    store.delete(request).await.map_err(|error| to_status(&error))?;
    Ok(Response::new(()))
}

pub(crate) async fn delete_bulk(
    core: &Sidecar,
    request: wire::DeleteBulkStateRequest,
) -> Result<Response<()>, Status> {
    let store = core
        .state
        .store(&request.store_name, Edge::Grpc)
        .map_err(|error| to_status(&error))?;
    let requests = request.states.into_iter().map(delete_request).collect();
    store
        .delete_bulk(requests)
        .await
        .map_err(|error| to_status(&error))?;
    Ok(Response::new(()))
}

pub(crate) async fn transact(
    core: &Sidecar,
    request: Request<wire::ExecuteStateTransactionRequest>,
) -> Result<Response<()>, Status> {
    let trace = crate::pubsub::trace_of(&request);
    let request = request.into_inner();
    let store = core
        .state
        .store(&request.store_name, Edge::Grpc)
        .map_err(|error| to_status(&error))?;
    store.require_transactions().map_err(|error| to_status(&error))?;
    let mut operations = Vec::with_capacity(request.operations.len());
    for operation in request.operations {
        let item = operation.request.unwrap_or_default();
        operations.push(match operation.operation_type.as_str() {
            "upsert" => {
                // A transaction hands the bytes on whatever the metadata say; the store may look at them.
                let metadata = map(item.metadata);
                TransactionOperation::Upsert(SetRequest {
                    key: item.key,
                    value: StateValue::Bytes(item.value),
                    etag: item.etag.map(|etag| etag.value),
                    content_type: metadata.get("contentType").cloned(),
                    metadata,
                    options: options(item.options),
                })
            }
            "delete" => TransactionOperation::Delete(delete_request(item)),
            other => return Err(to_status(&unknown_operation(other))),
        });
    }
    let transaction = TransactionRequest {
        operations,
        metadata: map(request.metadata),
        guard: None,
    };
    store
        .transact(transaction, &trace)
        .await
        .map_err(|error| to_status(&error))?;
    Ok(Response::new(()))
}

pub(crate) async fn query(
    core: &Sidecar,
    request: wire::QueryStateRequest,
) -> Result<Response<wire::QueryStateResponse>, Status> {
    let store = core
        .state
        .store_for_query(&request.store_name, Edge::Grpc)
        .map_err(|error| to_status(&error))?;
    let text = request.query;
    let parse = || outrigger_gojson::parse(text.as_bytes()).map_err(|error| error.to_string());
    let found = store
        .query(parse, map(request.metadata))
        .await
        .map_err(|error| to_status(&error))?;
    let results = found
        .results
        .into_iter()
        .map(|item| wire::QueryStateItem {
            key: item.key,
            data: item.response.data.unwrap_or_default(),
            etag: item.response.etag.unwrap_or_default(),
            error: item.error.unwrap_or_default(),
        })
        .collect();
    Ok(Response::new(wire::QueryStateResponse {
        results,
        token: found.token,
        metadata: found.metadata.into_iter().collect(),
    }))
}
