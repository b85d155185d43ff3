//! `v1.0/bindings`

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use outrigger_components_api::RequestMetadata;
use outrigger_components_api::bindings::InvokeRequest;
use outrigger_gojson::{Numbers, Value};
use outrigger_model::{ApiError, GrpcCode};
use outrigger_sidecar_core::Body;
use outrigger_trace_context::baggage::{self, BAGGAGE};
use outrigger_trace_context::{TRACEPARENT, TRACESTATE};

use crate::request::{ApiRequest, malformed};
use crate::state::write_metadata;
use crate::{HttpApi, respond};

const OWNER: &str = "OutputBindingRequest";

/// `POST v1.0/bindings/{name}`
pub(crate) async fn invoke(api: Arc<HttpApi>, mut request: ApiRequest) -> Result<Response<Body>, ApiError> {
    let name = request.param("name").to_owned();
    let (body, cut) = request.bytes_and_error().await;
    let mut call = decode(&body).map_err(|error| cut.map_or(error, malformed))?;
    add_trace(&request, &mut call.metadata)?;
    match api.core.bindings.invoke(&name, call).await {
        Ok(None) => Ok(respond::no_content()),
        Ok(Some(answer)) => {
            let mut response = respond::json(answer.data.unwrap_or_default());
            write_metadata(response.headers_mut(), &answer.metadata);
            Ok(response)
        }
        Err(failure) => {
            let mut response = respond::error(&failure.error);
            write_metadata(response.headers_mut(), &failure.metadata);
            Ok(response)
        }
    }
}

/// `{operation, data, metadata}` as Go decodes it: names in any case, unknown ones ignored.
fn decode(body: &Bytes) -> Result<InvokeRequest, ApiError> {
    let (parsed, _) = outrigger_gojson::parse_first(body).map_err(malformed)?;
    match parsed {
        Value::Null | Value::Object(_) => {}
        other => {
            return Err(malformed(format!(
                "json: cannot unmarshal {} into Go value of type http.{OWNER}",
                other.kind()
            )));
        }
    }
    let mismatch = |value: &Value, member: &str, wanted: &str| {
        malformed(format!(
            "json: cannot unmarshal {} into Go struct field {OWNER}.{member} of type {wanted}",
            value.kind()
        ))
    };
    let member = |name| parsed.get_field(name).filter(|value| !value.is_null());
    let operation = match member("operation") {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => return Err(mismatch(other, "operation", "string")),
    };
    let metadata = match member("metadata") {
        None => RequestMetadata::new(),
        Some(Value::Object(map)) => map
            .iter()
            .map(|(key, value)| match value {
                Value::String(text) => Ok((key.clone(), text.clone())),
                Value::Null => Ok((key.clone(), String::new())),
                other => Err(mismatch(other, "metadata", "string")),
            })
            .collect::<Result<_, _>>()?,
        Some(other) => return Err(mismatch(other, "metadata", "map[string]string")),
    };
    let data = parsed.get_field("data").unwrap_or(&Value::Null);
    data.check_floats().map_err(|error| {
        ApiError::legacy(
            "ERR_MALFORMED_REQUEST_DATA",
            500,
            GrpcCode::Internal,
            format!("can't serialize request data field: {error}"),
        )
    })?;
    Ok(InvokeRequest {
        operation,
        data: outrigger_gojson::to_vec(data, Numbers::Float64, true).into(),
        metadata,
    })
}

/// The span, if there is one, and the baggage travel as metadata.
fn add_trace(request: &ApiRequest, metadata: &mut RequestMetadata) -> Result<(), ApiError> {
    if let Some(trace) = &request.trace {
        metadata.insert(TRACEPARENT.to_owned(), trace.to_string());
        if !trace.state.is_empty() {
            metadata.insert(TRACESTATE.to_owned(), trace.state.to_string());
        }
    }
    if let Some(baggage) = baggage::joined(&request.parts.headers) {
        // Without tracing nobody has looked at it yet.
        baggage::check_text(&baggage).map_err(|error| {
            let text = format!("invalid baggage header: {error}");
            ApiError::legacy("ERR_MALFORMED_REQUEST", 400, GrpcCode::InvalidArgument, text)
        })?;
        metadata.insert(BAGGAGE.to_owned(), baggage);
    }
    Ok(())
}
