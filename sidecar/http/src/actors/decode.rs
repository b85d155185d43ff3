//! Bodies of the actor routes. Only the first JSON value of a body is looked at, as Go's decoder has it.

use outrigger_components_api::RequestMetadata;
use outrigger_components_api::state::StateValue;
use outrigger_gojson::Value;
use outrigger_model::ApiError;
use outrigger_proto::common::v1::JobFailurePolicy;
use outrigger_proto::common::v1::JobFailurePolicyDrop;
use outrigger_proto::common::v1::job_failure_policy::Policy;
use outrigger_sidecar_core::BodyError;
use outrigger_sidecar_core::actors::json::json_data;
use outrigger_sidecar_core::actors::reminders::NewReminder;
use outrigger_sidecar_core::actors::state::{StateChange, StateOperation};
use outrigger_sidecar_core::actors::timers::NewTimer;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::request::malformed;

/// The error of a body that could not be read to its end goes before that of what was read of it.
pub(super) fn failed(cut: Option<BodyError>, error: ApiError) -> ApiError {
    cut.map_or(error, malformed)
}

/// `[{operation, request: {key, value, etag, metadata}}]`
pub(super) fn operations(body: &[u8]) -> Result<Vec<StateOperation>, ApiError> {
    let (value, _) = outrigger_gojson::parse_first(body).map_err(malformed)?;
    let items = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(items) => items,
        other => return Err(mismatch(&other, "[]api.TransactionalOperation")),
    };
    items.into_iter().map(operation).collect()
}

fn operation(item: Value) -> Result<StateOperation, ApiError> {
    let operation = match item.get_field("operation") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(operation)) => operation.clone(),
        Some(other) => return Err(mismatch(other, "api.OperationType")),
    };
    let request = match item.get_field("request") {
        None | Some(Value::Null) => None,
        Some(request @ Value::Object(_)) => Some(change(request)?),
        Some(other) => return Err(mismatch(other, "map[string]interface {}")),
    };
    Ok(StateOperation { operation, request })
}

fn change(request: &Value) -> Result<StateChange, ApiError> {
    let text = |name: &str| match request.get_field(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(mismatch(other, "string")),
    };
    let metadata = match request.get_field("metadata") {
        None | Some(Value::Null) => RequestMetadata::new(),
        Some(Value::Object(map)) => map
            .iter()
            .map(|(key, value)| match value {
                Value::String(value) => Ok((key.clone(), value.clone())),
                other => Err(mismatch(other, "string")),
            })
            .collect::<Result<_, _>>()?,
        Some(other) => return Err(mismatch(other, "map[string]string")),
    };
    Ok(StateChange {
        key: text("key")?.unwrap_or_default(),
        value: StateValue::Json(request.get_field("value").cloned().unwrap_or(Value::Null)),
        etag: text("etag")?,
        metadata,
    })
}

fn mismatch(found: &Value, target: &str) -> ApiError {
    malformed(outrigger_gojson::Error::mismatch(found, target))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct TimerBody {
    due_time: Option<String>,
    period: Option<String>,
    ttl: Option<String>,
    callback: Option<String>,
    #[serde(deserialize_with = "raw")]
    data: Option<Box<RawValue>>,
    overwrite: Option<bool>,
    #[serde(rename = "failure_policy")]
    failure_policy: Option<FailurePolicy>,
}

/// What can be written in JSON of it.
#[derive(Debug, Deserialize)]
struct FailurePolicy {
    drop: Option<serde_json::Value>,
}

/// `null` is data, an absent member is none.
fn raw<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

fn body(bytes: &[u8]) -> Result<TimerBody, ApiError> {
    // For the texts of Go's decoder, and for where the value ends.
    let (value, length) = outrigger_gojson::parse_first(bytes).map_err(malformed)?;
    if value == Value::Null {
        return Ok(TimerBody::default());
    }
    let first = bytes.get(..length).unwrap_or(bytes);
    serde_json::from_slice(first).map_err(malformed)
}

/// `{dueTime, period, ttl, callback, data}`
pub(super) fn timer(bytes: &[u8]) -> Result<NewTimer, ApiError> {
    let body = body(bytes)?;
    Ok(NewTimer {
        due_time: body.due_time.unwrap_or_default(),
        period: body.period.unwrap_or_default(),
        ttl: body.ttl.unwrap_or_default(),
        callback: body.callback.unwrap_or_default(),
        data: body.data.map(|data| json_data(data.get().as_bytes())),
        ..NewTimer::default()
    })
}

/// `{dueTime, period, ttl, data, overwrite, failure_policy}`
pub(super) fn reminder(bytes: &[u8]) -> Result<NewReminder, ApiError> {
    let body = body(bytes)?;
    let drops = body.failure_policy.is_some_and(|policy| policy.drop.is_some());
    Ok(NewReminder {
        due_time: body.due_time.unwrap_or_default(),
        period: body.period.unwrap_or_default(),
        ttl: body.ttl.unwrap_or_default(),
        data: body.data.map(|data| json_data(data.get().as_bytes())),
        overwrite: body.overwrite,
        failure_policy: drops.then_some(JobFailurePolicy {
            policy: Some(Policy::Drop(JobFailurePolicyDrop {})),
        }),
        ..NewReminder::default()
    })
}
