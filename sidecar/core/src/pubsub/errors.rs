//! What goes wrong with publishing, in Dapr's words (contract `errors`, section 5.2).

use std::collections::BTreeMap;

use outrigger_components_api::RequestMetadata;
use outrigger_model::{ApiError, ErrorDetail, GrpcCode};

fn info(reason: &str, metadata: Option<BTreeMap<String, String>>) -> ErrorDetail {
    ErrorDetail::ErrorInfo {
        reason: reason.to_owned(),
        metadata,
    }
}

fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Option<BTreeMap<String, String>> {
    Some(
        pairs
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
    )
}

/// Code, HTTP status, gRPC code and reason of an error.
type Kind = (&'static str, u16, GrpcCode, &'static str);

fn rich(kind: Kind, pubsub: &str, text: String, metadata: Option<BTreeMap<String, String>>) -> ApiError {
    let (code, http, grpc, reason) = kind;
    let resource = ErrorDetail::ResourceInfo {
        resource_type: "pubsub".to_owned(),
        resource_name: pubsub.to_owned(),
        description: text.clone(),
    };
    ApiError::rich(
        Some(code),
        http,
        grpc,
        text,
        vec![resource, info(reason, metadata)],
    )
}

/// No component of this name. HTTP callers get their metadata back.
pub fn not_found(pubsub: &str, metadata: Option<RequestMetadata>) -> ApiError {
    ApiError::rich(
        Some("ERR_PUBSUB_NOT_FOUND"),
        404,
        GrpcCode::InvalidArgument,
        format!("pubsub {pubsub} is not found"),
        vec![info("DAPR_PUBSUB_NOT_FOUND", metadata)],
    )
}

/// The component's name is empty.
pub(super) fn name_empty(metadata: RequestMetadata) -> ApiError {
    const KIND: Kind = (
        "ERR_PUBSUB_EMPTY",
        404,
        GrpcCode::InvalidArgument,
        "DAPR_PUBSUB_NAME_EMPTY",
    );
    rich(KIND, "", "pubsub name is empty".to_owned(), Some(metadata))
}

/// The topic is empty.
pub(super) fn topic_empty(pubsub: &str, metadata: RequestMetadata) -> ApiError {
    const KIND: Kind = (
        "ERR_TOPIC_NAME_EMPTY",
        404,
        GrpcCode::InvalidArgument,
        "DAPR_PUBSUB_TOPIC_NAME_EMPTY",
    );
    let text = format!("topic is empty in pubsub {pubsub}");
    rich(KIND, pubsub, text, Some(metadata))
}

/// `rawPayload` is no boolean.
pub(super) fn metadata(pubsub: &str, metadata: RequestMetadata, error: &str) -> ApiError {
    const KIND: Kind = (
        "ERR_PUBSUB_REQUEST_METADATA",
        400,
        GrpcCode::InvalidArgument,
        "DAPR_PUBSUB_METADATA_DESERIALIZATION",
    );
    let text = format!("failed deserializing metadata. Error: {error}");
    rich(KIND, pubsub, text, Some(metadata))
}

/// What is said to be a CloudEvent is none.
pub(super) fn cloud_event(pubsub: &str, app_id: &str, error: &str) -> ApiError {
    const KIND: Kind = (
        "ERR_PUBSUB_CLOUD_EVENTS_SER",
        500,
        GrpcCode::InvalidArgument,
        "DAPR_PUBSUB_CLOUD_EVENT_CREATION",
    );
    let metadata = pairs([("appID", app_id), ("error", error)]);
    rich(KIND, pubsub, "cannot create cloudevent".to_owned(), metadata)
}

/// A bulk entry cannot be turned into bytes.
pub fn marshal_envelope(pubsub: &str, topic: &str, app_id: &str, error: &str) -> ApiError {
    const KIND: Kind = (
        "ERR_PUBSUB_EVENTS_SER",
        400,
        GrpcCode::InvalidArgument,
        "DAPR_PUBSUB_MARSHAL_ENVELOPE",
    );
    let text =
        format!("error when marshalling cloud event envelope for topic {topic} pubsub {pubsub}: {error}");
    rich(KIND, pubsub, text, pairs([("appID", app_id), ("error", error)]))
}

/// An `entryId` is missing or repeated.
pub(super) fn entry_id(pubsub: &str, topic: &str, app_id: &str) -> ApiError {
    const KIND: Kind = (
        "ERR_PUBSUB_EVENTS_SER",
        400,
        GrpcCode::InvalidArgument,
        "DAPR_PUBSUB_MARSHAL_EVENTS",
    );
    const ERROR: &str = "entryId is duplicated or not present for entry";
    let text = format!("error marshaling events to bytes for topic {topic} pubsub {pubsub}. error: {ERROR}");
    rich(KIND, pubsub, text, pairs([("appID", app_id), ("error", ERROR)]))
}

/// A bulk request cannot be read.
pub fn unmarshal(pubsub: &str, topic: &str, app_id: &str, error: &str) -> ApiError {
    const KIND: Kind = (
        "ERR_PUBSUB_EVENTS_SER",
        400,
        GrpcCode::InvalidArgument,
        "DAPR_PUBSUB_UNMARSHAL_EVENTS",
    );
    let text = format!("error when unmarshaling the request for topic {topic} pubsub {pubsub}: {error}");
    rich(KIND, pubsub, text, pairs([("appID", app_id)]))
}

/// The broker, or the connection to the caller, failed.
pub fn publish(pubsub: &str, topic: &str, error: &str) -> ApiError {
    const KIND: Kind = (
        "ERR_PUBSUB_PUBLISH_MESSAGE",
        500,
        GrpcCode::Internal,
        "DAPR_PUBSUB_PUBLISH_MESSAGE",
    );
    let text = format!("error when publishing to topic {topic} in pubsub {pubsub}: {error}");
    rich(KIND, pubsub, text, pairs([("topic", topic), ("error", error)]))
}

/// The scopes of the component keep this app from the topic.
pub(super) fn forbidden(pubsub: &str, topic: &str, app_id: &str) -> ApiError {
    const KIND: Kind = (
        "ERR_PUBSUB_FORBIDDEN",
        403,
        GrpcCode::PermissionDenied,
        "DAPR_PUBSUB_FORBIDDEN",
    );
    let text = format!("topic {topic} is not allowed for app id {app_id}");
    let metadata = pairs([("topic", topic), ("error", &text)]);
    rich(KIND, pubsub, text, metadata)
}
