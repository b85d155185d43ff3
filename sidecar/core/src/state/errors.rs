//! State failures in Dapr's terms (contract `errors`, sections 4 and 5.1).

use std::collections::BTreeMap;

use outrigger_components_api::state::StateError;
use outrigger_model::{ApiError, ErrorDetail, GrpcCode};

fn lookup(
    code: &'static str,
    http: u16,
    grpc: GrpcCode,
    message: String,
    reason: &str,
    app_id: Option<&str>,
) -> ApiError {
    let metadata = app_id.map(|app_id| BTreeMap::from([("appID".to_owned(), app_id.to_owned())]));
    ApiError::rich(
        Some(code),
        http,
        grpc,
        message,
        vec![ErrorDetail::ErrorInfo {
            reason: reason.into(),
            metadata,
        }],
    )
}

pub(super) fn not_configured(store: &str, app_id: Option<&str>) -> ApiError {
    lookup(
        "ERR_STATE_STORE_NOT_CONFIGURED",
        500,
        GrpcCode::FailedPrecondition,
        format!("state store {store} is not configured"),
        "DAPR_STATE_NOT_CONFIGURED",
        app_id,
    )
}

pub(super) fn not_found(store: &str, app_id: Option<&str>) -> ApiError {
    lookup(
        "ERR_STATE_STORE_NOT_FOUND",
        400,
        GrpcCode::InvalidArgument,
        format!("state store {store} is not found"),
        "DAPR_STATE_NOT_FOUND",
        app_id,
    )
}

/// HTTP handlers wrap the key check's error into a second one of the same kind.
pub(super) fn wrap_illegal_key(error: &ApiError, store: &str, field: &str) -> ApiError {
    let message = error.to_string();
    ApiError::rich(
        Some("ERR_MALFORMED_REQUEST"),
        400,
        GrpcCode::InvalidArgument,
        message.clone(),
        vec![
            ErrorDetail::BadRequest {
                field: field.to_owned(),
                description: message,
            },
            resource(store),
            ErrorDetail::reason("DAPR_STATE_ILLEGAL_KEY"),
        ],
    )
}

fn resource(store: &str) -> ErrorDetail {
    ErrorDetail::ResourceInfo {
        resource_type: "state".into(),
        resource_name: store.to_owned(),
        description: String::new(),
    }
}

/// 409 / 400 / 500 by kind; a store's own rich error keeps its HTTP code.
fn by_kind(code: &'static str, error: &StateError, message: String) -> ApiError {
    let (http, grpc) = match error {
        StateError::EtagMismatch(_) => (409, GrpcCode::Aborted),
        StateError::EtagInvalid(_) => (400, GrpcCode::InvalidArgument),
        StateError::Api(api) => (api.http, api.grpc),
        StateError::GuardMismatch | StateError::Unsupported(_) | StateError::Other(_) => {
            (500, GrpcCode::Internal)
        }
    };
    ApiError::legacy(code, http, grpc, message).with_grpc_reason(code)
}

pub(super) fn get(store: &str, key: &str, error: &StateError) -> ApiError {
    let message = format!("fail to get {key} from state store {store}: {error}");
    ApiError::legacy("ERR_STATE_GET", 500, GrpcCode::Internal, message).with_grpc_reason("ERR_STATE_GET")
}

pub(super) fn save(store: &str, error: &StateError) -> ApiError {
    by_kind(
        "ERR_STATE_SAVE",
        error,
        format!("failed saving state in state store {store}: {error}"),
    )
}

pub(super) fn delete(key: &str, error: &StateError) -> ApiError {
    by_kind(
        "ERR_STATE_DELETE",
        error,
        format!("failed deleting state with key {key}: {error}"),
    )
}

pub(super) fn delete_bulk(store: &str, error: &StateError) -> ApiError {
    by_kind(
        "ERR_STATE_BULK_DELETE",
        error,
        format!("failed deleting state in state store {store}: {error}"),
    )
}

pub(super) fn get_bulk(error: &StateError) -> ApiError {
    ApiError::legacy("ERR_STATE_BULK_GET", 500, GrpcCode::Internal, error.to_string())
}

pub(super) fn transact(error: &StateError) -> ApiError {
    let message = format!("error while executing state transaction: {error}");
    ApiError::legacy("ERR_STATE_TRANSACTION", 500, GrpcCode::Internal, message)
        .with_grpc_reason("ERR_STATE_TRANSACTION")
}

/// The events of a transaction could not be published, so that it did not take place.
pub(super) fn outbox(app_id: &str, error: &str) -> ApiError {
    let metadata = [("appID", app_id), ("error", error)];
    let metadata = metadata.map(|(name, value)| (name.to_owned(), value.to_owned()));
    ApiError::rich(
        Some("ERR_PUBLISH_OUTBOX"),
        500,
        GrpcCode::Internal,
        format!("error while publishing outbox message: {error}"),
        vec![ErrorDetail::ErrorInfo {
            reason: "DAPR_PUBSUB_OUTBOX".to_owned(),
            metadata: Some(metadata.into()),
        }],
    )
}

/// The save of an item without a key over gRPC.
pub fn empty_key() -> ApiError {
    ApiError::legacy(
        "ERR_STATE_SAVE",
        400,
        GrpcCode::InvalidArgument,
        "state key cannot be empty",
    )
    .with_grpc_reason("ERR_STATE_SAVE")
}

/// An operation other than `upsert` and `delete`.
pub fn unknown_operation(operation: &str) -> ApiError {
    const CODE: &str = "ERR_NOT_SUPPORTED_STATE_OPERATION";
    ApiError::legacy(
        CODE,
        400,
        GrpcCode::Unimplemented,
        format!("operation type {operation} not supported"),
    )
    .with_grpc_reason(CODE)
}

pub(super) fn transactions_not_supported(store: &str) -> ApiError {
    ApiError::rich(
        Some("ERR_STATE_STORE_NOT_SUPPORTED"),
        500,
        GrpcCode::Unimplemented,
        format!("state store {store} doesn't support transactions"),
        vec![
            ErrorDetail::Help {
                url: "https://docs.dapr.io/reference/components-reference/supported-state-stores/".into(),
                description: "Check the list of state stores and the features they support".into(),
            },
            resource(store),
            ErrorDetail::reason("DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED"),
        ],
    )
}

pub(super) fn too_many_operations(store: &str, operations: usize, limit: usize) -> ApiError {
    let metadata = BTreeMap::from([
        ("currentOpsTransaction".to_owned(), operations.to_string()),
        ("maxOpsPerTransaction".to_owned(), limit.to_string()),
    ]);
    ApiError::rich(
        Some("ERR_STATE_STORE_TOO_MANY_TRANSACTIONS"),
        400,
        GrpcCode::InvalidArgument,
        format!(
            "the transaction contains {operations} operations, which is more than what the state store supports: {limit}"
        ),
        vec![
            resource(store),
            ErrorDetail::ErrorInfo {
                reason: "DAPR_STATE_TOO_MANY_TRANSACTIONS".into(),
                metadata: Some(metadata),
            },
        ],
    )
}

pub(super) fn querying_not_supported(store: &str) -> ApiError {
    ApiError::rich(
        Some("ERR_STATE_STORE_NOT_SUPPORTED"),
        500,
        GrpcCode::Internal,
        "state store does not support querying",
        vec![
            resource(store),
            ErrorDetail::reason("DAPR_STATE_QUERYING_NOT_SUPPORTED"),
        ],
    )
}

pub(super) fn query(store: &str, detail: &str) -> ApiError {
    ApiError::rich(
        Some("ERR_STATE_QUERY"),
        500,
        GrpcCode::Internal,
        format!("state store {store} query failed: {detail}"),
        vec![resource(store), ErrorDetail::reason("DAPR_STATE_QUERY_FAILED")],
    )
}
