//! Bodies of the state routes. Member names match without regard to case, `null` leaves a member unset and
//! unknown members are ignored, as Go's decoder has it; error texts follow its wording.

use std::collections::BTreeMap;

use outrigger_components_api::RequestMetadata;
use outrigger_components_api::state::{
    DeleteRequest, SetRequest, StateOptions, StateValue, TransactionOperation, TransactionRequest,
};
use outrigger_gojson::Value;
use outrigger_model::ApiError;
use outrigger_sidecar_core::state::errors::unknown_operation;

use super::malformed_raw;
use crate::request::malformed;

/// An error text as it is.
pub(super) fn raw(text: &str) -> ApiError {
    malformed_raw(text)
}

/// `{keys, parallelism, metadata}`
#[derive(Debug, Default)]
pub(super) struct BulkGet {
    pub(super) keys: Vec<String>,
    pub(super) parallelism: i64,
    pub(super) metadata: RequestMetadata,
}

type Members = BTreeMap<String, Value>;

/// The member of this name: the exact one, else one that differs in case only; `null` counts as absent.
fn member<'a>(members: &'a Members, name: &str) -> Option<&'a Value> {
    members
        .get(name)
        .or_else(|| {
            members
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value)
        })
        .filter(|value| **value != Value::Null)
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn mismatch(value: &Value, field: &str, wanted: &str) -> String {
    format!(
        "json: cannot unmarshal {} into Go struct field {field} of type {wanted}",
        kind(value)
    )
}

fn text(members: &Members, owner: &str, name: &str) -> Result<Option<String>, String> {
    match member(members, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(mismatch(other, &format!("{owner}.{name}"), "string")),
    }
}

fn metadata(members: &Members, owner: &str) -> Result<RequestMetadata, String> {
    let field = format!("{owner}.metadata");
    match member(members, "metadata") {
        None => Ok(RequestMetadata::new()),
        Some(Value::Object(map)) => map
            .iter()
            .map(|(key, value)| match value {
                Value::String(value) => Ok((key.clone(), value.clone())),
                Value::Null => Ok((key.clone(), String::new())),
                other => Err(mismatch(other, &field, "string")),
            })
            .collect(),
        Some(other) => Err(mismatch(other, &field, "map[string]string")),
    }
}

fn options(members: &Members, owner: &str) -> Result<StateOptions, String> {
    match member(members, "options") {
        None => Ok(StateOptions::default()),
        Some(Value::Object(options)) => Ok(StateOptions {
            concurrency: text(options, "SetStateOption.options", "concurrency")?.unwrap_or_default(),
            consistency: text(options, "SetStateOption.options", "consistency")?.unwrap_or_default(),
        }),
        Some(other) => Err(mismatch(
            other,
            &format!("{owner}.options"),
            "state.SetStateOption",
        )),
    }
}

fn set_request(members: &Members, owner: &str) -> Result<SetRequest, String> {
    Ok(SetRequest {
        key: text(members, owner, "key")?.unwrap_or_default(),
        value: StateValue::Json(
            members
                .get("value")
                .or_else(|| {
                    members
                        .iter()
                        .find(|(key, _)| key.eq_ignore_ascii_case("value"))
                        .map(|(_, value)| value)
                })
                .cloned()
                .unwrap_or(Value::Null),
        ),
        etag: text(members, owner, "etag")?,
        metadata: metadata(members, owner)?,
        options: options(members, owner)?,
        content_type: text(members, owner, "contentType")?,
    })
}

/// The array of a save.
pub(super) fn set_requests(body: &[u8]) -> Result<Vec<SetRequest>, ApiError> {
    let (parsed, _) = outrigger_gojson::parse_first(body).map_err(|error| raw(&error.to_string()))?;
    let items = match parsed {
        Value::Null => return Ok(Vec::new()),
        Value::Array(items) => items,
        other => {
            return Err(raw(&format!(
                "json: cannot unmarshal {} into Go value of type []state.SetRequest",
                kind(&other)
            )));
        }
    };
    let empty = Members::new();
    items
        .iter()
        .map(|item| {
            let members = match item {
                Value::Object(members) => members,
                Value::Null => &empty,
                other => {
                    let text = format!(
                        "json: cannot unmarshal {} into Go value of type state.SetRequest",
                        kind(other)
                    );
                    return Err(raw(&text));
                }
            };
            set_request(members, "SetRequest").map_err(|text| raw(&text))
        })
        .collect::<Result<Vec<_>, _>>()
        .and_then(|items| {
            if items.iter().any(|item| item.key.is_empty()) {
                return Err(raw("\"key\" is a required field"));
            }
            Ok(items)
        })
}

/// The body of a bulk read.
pub(super) fn bulk_get(body: &[u8]) -> Result<BulkGet, ApiError> {
    let members = match outrigger_gojson::parse_first(body).map_err(malformed)?.0 {
        Value::Null => return Ok(BulkGet::default()),
        Value::Object(members) => members,
        other => {
            let text = format!(
                "json: cannot unmarshal {} into Go value of type http.BulkGetRequest",
                kind(&other)
            );
            return Err(malformed(text));
        }
    };
    bulk_get_members(&members).map_err(malformed)
}

fn bulk_get_members(members: &Members) -> Result<BulkGet, String> {
    let keys = match member(members, "keys") {
        None => Vec::new(),
        Some(Value::Array(keys)) => keys
            .iter()
            .map(|key| match key {
                Value::String(key) => Ok(key.clone()),
                Value::Null => Ok(String::new()),
                other => Err(mismatch(other, "BulkGetRequest.keys", "string")),
            })
            .collect::<Result<_, _>>()?,
        Some(other) => return Err(mismatch(other, "BulkGetRequest.keys", "[]string")),
    };
    let parallelism = match member(members, "parallelism") {
        None => 0,
        Some(Value::Number(number)) => number.parse().map_err(|_| {
            format!("json: cannot unmarshal number {number} into Go struct field BulkGetRequest.parallelism of type int")
        })?,
        Some(other) => return Err(mismatch(other, "BulkGetRequest.parallelism", "int")),
    };
    Ok(BulkGet {
        keys,
        parallelism,
        metadata: metadata(members, "BulkGetRequest")?,
    })
}

/// The body of a transaction; query metadata goes into each operation.
pub(super) fn transaction(
    body: &[u8],
    query_metadata: &RequestMetadata,
) -> Result<TransactionRequest, ApiError> {
    let members = match outrigger_gojson::parse_first(body).map_err(malformed)?.0 {
        Value::Null => return Ok(TransactionRequest::default()),
        Value::Object(members) => members,
        other => {
            let text = format!(
                "json: cannot unmarshal {} into Go value of type state.TransactionalStateRequest",
                kind(&other)
            );
            return Err(malformed(text));
        }
    };
    let operations = match member(&members, "operations") {
        None => Vec::new(),
        Some(Value::Array(operations)) => operations
            .iter()
            .map(|operation| transaction_operation(operation, query_metadata))
            .collect::<Result<_, _>>()?,
        Some(other) => {
            return Err(malformed(mismatch(
                other,
                "StateTransactionRequestBody.operations",
                "[]http.StateTransactionRequestBodyOperation",
            )));
        }
    };
    let metadata = metadata(&members, "StateTransactionRequestBody").map_err(malformed)?;
    Ok(TransactionRequest {
        operations,
        metadata,
        guard: None,
    })
}

fn transaction_operation(
    operation: &Value,
    query_metadata: &RequestMetadata,
) -> Result<TransactionOperation, ApiError> {
    let empty = Members::new();
    let members = match operation {
        Value::Object(members) => members,
        Value::Null => &empty,
        other => {
            return Err(malformed(mismatch(
                other,
                "StateTransactionRequestBody.operations",
                "http.StateTransactionRequestBodyOperation",
            )));
        }
    };
    let name = text(members, "StateTransactionRequestBodyOperation", "operation")
        .map_err(malformed)?
        .unwrap_or_default();
    let request = match member(members, "request") {
        None => &empty,
        Some(Value::Object(request)) => request,
        // The reference decodes the request in a second step, whose messages differ.
        Some(other) => return Err(malformed(format!("'' expected a map, got '{}'", kind(other)))),
    };
    let checked = |result: Result<SetRequest, String>| result.map_err(malformed);
    match name.as_str() {
        "upsert" => {
            let mut set = checked(set_request(request, "SetRequest"))?;
            set.metadata.extend(query_metadata.clone());
            Ok(TransactionOperation::Upsert(set))
        }
        "delete" => {
            let set = checked(set_request(request, "DeleteRequest"))?;
            let mut delete = DeleteRequest {
                key: set.key,
                etag: set.etag,
                metadata: set.metadata,
                options: set.options,
            };
            delete.metadata.extend(query_metadata.clone());
            Ok(TransactionOperation::Delete(delete))
        }
        other => Err(unknown_operation(other)),
    }
}
