//! Errors as gRPC statuses with packed details.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use outrigger_model::{ApiError, ErrorDetail, GrpcCode};
use outrigger_proto::google::rpc;
use outrigger_sidecar_core::invoke::InvokeError;
use outrigger_sidecar_core::metrics::category;
use prost::Message;
use tonic::{Code, Status};

/// Names the error's code and category on its way through generated code.
const MARK: &str = "outrigger-error";

const TYPE_PREFIX: &str = "type.googleapis.com/google.rpc.";

fn any(name: &str, message: &impl Message) -> prost_types::Any {
    prost_types::Any {
        type_url: format!("{TYPE_PREFIX}{name}"),
        value: message.encode_to_vec(),
    }
}

fn pack(detail: &ErrorDetail) -> prost_types::Any {
    match detail {
        ErrorDetail::ErrorInfo { reason, metadata } => any(
            "ErrorInfo",
            &rpc::ErrorInfo {
                reason: reason.clone(),
                domain: "dapr.io".into(),
                metadata: metadata.clone().unwrap_or_default().into_iter().collect(),
            },
        ),
        ErrorDetail::ResourceInfo {
            resource_type,
            resource_name,
            description,
        } => any(
            "ResourceInfo",
            &rpc::ResourceInfo {
                resource_type: resource_type.clone(),
                resource_name: resource_name.clone(),
                owner: String::new(),
                description: description.clone(),
            },
        ),
        ErrorDetail::BadRequest { field, description } => any(
            "BadRequest",
            &rpc::BadRequest {
                field_violations: vec![rpc::bad_request::FieldViolation {
                    field: field.clone(),
                    description: description.clone(),
                    ..rpc::bad_request::FieldViolation::default()
                }],
            },
        ),
        ErrorDetail::Help { url, description } => any(
            "Help",
            &rpc::Help {
                links: vec![rpc::help::Link {
                    url: url.clone(),
                    description: description.clone(),
                }],
            },
        ),
    }
}

/// A status with these details.
pub(crate) fn with_details(code: GrpcCode, message: &str, details: Vec<prost_types::Any>) -> Status {
    let code_number = code.as_i32();
    if details.is_empty() {
        return Status::new(Code::from_i32(code_number), message);
    }
    let packed = rpc::Status {
        code: code_number,
        message: message.to_owned(),
        details,
    };
    Status::with_details(
        Code::from_i32(code_number),
        message,
        Bytes::from(packed.encode_to_vec()),
    )
}

/// The status of an API error.
pub(crate) fn to_status(error: &ApiError) -> Status {
    let details = error
        .details
        .iter()
        .chain(&error.grpc_details)
        .map(pack)
        .collect();
    let mut status = with_details(error.grpc, &error.message, details);
    let mark = format!("{} {}", error.error_code(), category(error));
    if let Ok(mark) = mark.parse() {
        status.metadata_mut().insert(MARK, mark);
    }
    status
}

/// Takes out what [`to_status`] notes for the count of errors, which callers do not see.
pub(crate) fn take_mark(headers: &mut http::HeaderMap) -> Option<http::HeaderValue> {
    headers.remove(MARK)
}

/// The status that stands for an HTTP status (contract `errors`, section 2): its text as message, and one
/// ErrorInfo with the code and the beginning of the body.
pub(crate) fn from_http(status: u16, body: &str) -> Status {
    const MAX_BODY: usize = 63;
    let text = outrigger_model::status::http_status_text(status);
    let mut end = body.len().min(MAX_BODY);
    while !body.is_char_boundary(end) {
        end -= 1;
    }
    let metadata = HashMap::from([
        ("http.code".to_owned(), status.to_string()),
        ("http.error_message".to_owned(), body[..end].to_owned()),
    ]);
    let info = rpc::ErrorInfo {
        reason: text.to_owned(),
        domain: "dapr.io".into(),
        metadata,
    };
    with_details(GrpcCode::from_http(status), text, vec![any("ErrorInfo", &info)])
}

/// A failed invocation as its status: a received one keeps its code.
pub(crate) fn from_invoke(error: &InvokeError) -> Status {
    Status::new(Code::from_i32(error.code.as_i32()), error.message.clone())
}

/// A message over the limit: tonic says OUT_OF_RANGE in its own words, Dapr's servers RESOURCE_EXHAUSTED in Go's.
pub(crate) fn reword_size_limit(headers: &mut http::HeaderMap) {
    if let Some(status) = Status::from_header_map(headers).as_ref().and_then(size_limit)
        // Fails only for bytes that no header can have, and the text has none.
        && status.add_header(headers).is_err()
    {
        tracing::debug!("a status could not be written: {status}");
    }
}

fn size_limit(status: &Status) -> Option<Status> {
    let sizes = status
        .message()
        .strip_prefix("Error, decoded message length too large: found ")?;
    let (found, limit) = sizes.split_once(" bytes, the limit is: ")?;
    let limit = limit.strip_suffix(" bytes")?;
    let text = format!("grpc: received message larger than max ({found} vs. {limit})");
    Some(Status::new(tonic::Code::ResourceExhausted, text))
}

/// Metadata maps of requests and answers.
pub(crate) fn map(map: HashMap<String, String>) -> BTreeMap<String, String> {
    map.into_iter().collect()
}
