//! `InvokeBinding`

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_components_api::RequestMetadata;
use outrigger_components_api::bindings::InvokeRequest;
use outrigger_proto::runtime::v1::{InvokeBindingRequest, InvokeBindingResponse};
use outrigger_sidecar_core::Sidecar;
use outrigger_sidecar_core::invoke::headers::from_grpc;
use outrigger_trace_context::baggage::{self, BAGGAGE};
use outrigger_trace_context::{GRPC_TRACE_BIN, TRACEPARENT, TRACESTATE, TraceContext};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::error::{map, to_status};
use crate::trace;

/// What headers of an answer's metadata begin with.
pub(crate) const PREFIX: &str = "metadata.";

pub(crate) async fn invoke(
    core: &Sidecar,
    request: Request<InvokeBindingRequest>,
) -> Result<Response<InvokeBindingResponse>, Status> {
    let span = trace::of(request.extensions());
    let (incoming, _, message) = request.into_parts();
    let headers = from_grpc(incoming);
    let mut metadata = map(message.metadata);
    add_trace(span.as_ref(), &headers, &mut metadata)?;
    add_incoming(&headers, &mut metadata);
    let call = InvokeRequest {
        operation: message.operation,
        data: message.data,
        metadata,
    };
    match core.bindings.invoke(&message.name, call).await {
        Ok(answer) => {
            let answer = answer.unwrap_or_default();
            let mut response = Response::new(InvokeBindingResponse {
                data: answer.data.unwrap_or_else(Bytes::new),
                metadata: answer.metadata.clone().into_iter().collect(),
            });
            *response.metadata_mut() = MetadataMap::from_headers(to_headers(&answer.metadata));
            Ok(response)
        }
        Err(failure) => {
            let mut status = to_status(&failure.error);
            let headers = to_headers(&failure.metadata);
            *status.metadata_mut() = MetadataMap::from_headers(headers);
            Err(status)
        }
    }
}

/// Response metadata as headers; what is no header is left out.
fn to_headers(metadata: &RequestMetadata) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (key, value) in metadata {
        let name = HeaderName::from_bytes(format!("{PREFIX}{key}").to_ascii_lowercase().as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
    headers
}

/// The span, if there is one, and the baggage travel as metadata.
fn add_trace(
    span: Option<&TraceContext>,
    headers: &HeaderMap,
    metadata: &mut RequestMetadata,
) -> Result<(), Status> {
    if let Some(span) = span {
        metadata.insert(TRACEPARENT.to_owned(), span.to_string());
        if !span.state.is_empty() {
            metadata.insert(TRACESTATE.to_owned(), span.state.to_string());
        }
    }
    if let Some(baggage) = baggage::joined(headers) {
        // Without tracing nobody has looked at it yet.
        baggage::check_text(&baggage)
            .map_err(|error| Status::invalid_argument(format!("invalid baggage header: {error}")))?;
        metadata.insert(BAGGAGE.to_owned(), baggage);
    }
    Ok(())
}

/// The call's own metadata, where the request says nothing under that name; the first value counts.
fn add_incoming(headers: &HeaderMap, metadata: &mut RequestMetadata) {
    for name in headers.keys() {
        if *name == HOST || name.as_str() == GRPC_TRACE_BIN {
            continue;
        }
        if let Some(value) = headers.get(name).and_then(|value| value.to_str().ok()) {
            metadata
                .entry(name.as_str().to_owned())
                .or_insert_with(|| value.to_owned());
        }
    }
}
