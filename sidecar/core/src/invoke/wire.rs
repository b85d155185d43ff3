//! Between [`InvokeRequest`] / [`InvokeResponse`] and the messages of the internal API.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use http::HeaderMap;
use outrigger_model::GrpcCode;
use outrigger_proto::common::v1 as common;
use outrigger_proto::internals::v1::{
    InternalInvokeRequest, InternalInvokeResponse, ListStringValue, Status,
};
use outrigger_trace_context::{TRACESTATE, TraceContext};
use prost::Message as _;

use super::headers::{append_wire, canonical, foreign_values, wire_key, wire_value};
use super::lead::{RequestLead, ResponseLead};
use super::{InvokeError, InvokeRequest, InvokeResponse, InvokeStatus, Origin};
use crate::Body;

/// `APIVERSION_V1`
pub(super) const VERSION: u8 = 1;

/// Base64 as gRPC writes binary metadata.
pub(super) fn unpadded(bytes: &[u8]) -> String {
    STANDARD_NO_PAD.encode(bytes)
}

/// Headers as the internal wire holds them.
pub fn metadata(headers: &HeaderMap, origin: Origin) -> HashMap<String, ListStringValue> {
    let mut out = HashMap::with_capacity(headers.keys_len());
    for name in headers.keys() {
        let mut values: Vec<String> = headers
            .get_all(name)
            .iter()
            .map(|value| wire_value(name, value).into_owned())
            .collect();
        let foreign = values.drain(..foreign_values(name, origin, values.len()));
        let foreign: Vec<String> = foreign.collect();
        if !foreign.is_empty() {
            out.insert(canonical(name.as_str()), ListStringValue { values: foreign });
        }
        if !values.is_empty() {
            out.insert(wire_key(name, origin), ListStringValue { values });
        }
    }
    out
}

/// The other way; the origin is told by the one key that only gRPC writes in lower case.
pub fn headers(metadata: HashMap<String, ListStringValue>) -> (HeaderMap, Origin) {
    let origin = match metadata.get("content-type").and_then(|list| list.values.first()) {
        Some(kind) if kind.starts_with("application/grpc") => Origin::Grpc,
        _ => Origin::Http,
    };
    let mut out = HeaderMap::with_capacity(metadata.len());
    for (key, list) in metadata {
        append_wire(&mut out, &key, list.values);
    }
    (out, origin)
}

/// The request without its data.
pub fn request(request: &InvokeRequest) -> InternalInvokeRequest {
    let mut headers = metadata(&request.headers, request.origin);
    headers.insert(
        "destination-app-id".into(),
        headers
            .get("dapr-callee-app-id")
            .map_or_else(ListStringValue::default, |list| ListStringValue {
                values: list.values.last().cloned().into_iter().collect(),
            }),
    );
    InternalInvokeRequest {
        ver: i32::from(VERSION),
        metadata: headers,
        message: Some(request_message(request)),
        actor: None,
    }
}

/// The field `message` of a request.
pub(super) fn request_message(request: &InvokeRequest) -> common::InvokeRequest {
    common::InvokeRequest {
        method: request.method.clone(),
        data: any_of(request.type_url.as_deref()),
        content_type: request.content_type.clone(),
        http_extension: extension_of(request),
    }
}

/// The data field without its value.
fn any_of(type_url: Option<&str>) -> Option<prost_types::Any> {
    type_url.map(|type_url| prost_types::Any {
        type_url: type_url.to_owned(),
        value: Vec::new(),
    })
}

/// The HTTP extension, if the call has one.
pub(super) fn extension_of(request: &InvokeRequest) -> Option<common::HttpExtension> {
    request.has_extension.then(|| common::HttpExtension {
        verb: request.verb.as_ref().map_or(0, verb_number),
        querystring: request.query.clone(),
    })
}

/// A received request; `body` is what its data and payload frames carry.
///
/// # Errors
/// A message without metadata or message, or of another version.
pub fn to_request(
    received: InternalInvokeRequest,
    body: Body,
    trace: Option<TraceContext>,
) -> Result<InvokeRequest, InvokeError> {
    let (headers, origin) = headers(received.metadata);
    let lead = RequestLead {
        version: received.ver,
        headers,
        origin,
        message: received.message,
        payload: None,
    };
    lead_to_request(lead, body, trace)
}

/// As [`to_request`], of a leading message.
///
/// # Errors
/// As [`to_request`].
pub fn lead_to_request(
    lead: RequestLead,
    body: Body,
    mut trace: Option<TraceContext>,
) -> Result<InvokeRequest, InvokeError> {
    if let Some(trace) = trace.as_mut().filter(|trace| trace.state.is_empty())
        && let Some(state) = lead.headers.get(TRACESTATE)
        && let Ok(state) = state.to_str()
    {
        trace.state = state.into();
    }
    let invalid = |text: &str| InvokeError::status(GrpcCode::InvalidArgument, text);
    let message = lead
        .message
        .ok_or_else(|| invalid("parsing InternalInvokeRequest error: field Message is nil"))?;
    if lead.version != i32::from(VERSION) {
        let text = format!("Unsupported spec version: {}", lead.version);
        return Err(InvokeError::status(GrpcCode::Unimplemented, text));
    }
    let content_length = lead
        .headers
        .get(http::header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse().ok());
    let has_extension = message.http_extension.is_some();
    let (verb, query) = match message.http_extension {
        Some(extension) => (verb_of(extension.verb), extension.querystring),
        None => (None, String::new()),
    };
    Ok(InvokeRequest {
        method: super::method::normalize(&message.method)?.into_owned(),
        verb,
        has_extension,
        query,
        headers: lead.headers,
        origin: lead.origin,
        content_type: message.content_type,
        type_url: message.data.map(|data| data.type_url),
        body,
        content_length,
        trace,
    })
}

/// The head of an answer, without its data.
pub fn response(response: &InvokeResponse) -> InternalInvokeResponse {
    let (status, message) = response_parts(response);
    InternalInvokeResponse {
        status: Some(status),
        headers: metadata(&response.headers, response.origin),
        trailers: metadata(&response.trailers, Origin::Grpc),
        message,
    }
}

/// The fields `status` and `message` of an answer; a failed gRPC app has sent no message, and an event stream has none.
pub(super) fn response_parts(response: &InvokeResponse) -> (Status, Option<common::InvokeResponse>) {
    let status = Status {
        code: response.status.code,
        message: response.status.message.clone(),
        details: response.status.details.clone(),
    };
    let failed = response.origin == Origin::Grpc && response.status.code != 0;
    let message = (!failed && !response.is_event_stream).then(|| common::InvokeResponse {
        data: any_of(response.type_url.as_deref()),
        content_type: response.content_type.clone(),
    });
    (status, message)
}

/// The answer to a call of the older form, with its data.
///
/// # Errors
/// Bytes that are no such message, or one without a status.
pub(super) fn whole_response(message: Bytes) -> Result<InvokeResponse, InvokeError> {
    let malformed = |error: prost::DecodeError| InvokeError::status(GrpcCode::Internal, error.to_string());
    let mut answer = InternalInvokeResponse::decode(message).map_err(malformed)?;
    let data = answer.message.as_mut().and_then(|message| message.data.as_mut());
    let data = data.map(|data| std::mem::take(&mut data.value));
    let (headers, origin) = headers(answer.headers);
    let lead = ResponseLead {
        status: answer.status,
        headers,
        origin,
        trailers: self::headers(answer.trailers).0,
        message: answer.message,
        payload: None,
    };
    Ok(to_response(lead, Body::full(data.unwrap_or_default())))
}

/// A received answer.
pub fn to_response(lead: ResponseLead, body: Body) -> InvokeResponse {
    let status = lead.status.unwrap_or_default();
    let message = lead.message.unwrap_or_default();
    InvokeResponse {
        status: InvokeStatus {
            code: status.code,
            message: status.message,
            details: status.details,
        },
        headers: lead.headers,
        origin: lead.origin,
        trailers: lead.trailers,
        content_type: message.content_type,
        type_url: message.data.map(|data| data.type_url),
        is_event_stream: false,
        body,
    }
}

/// The number of a verb; verbs that the proto doesn't know become POST.
pub fn verb_number(verb: &http::Method) -> i32 {
    match verb.as_str() {
        "GET" => 1,
        "HEAD" => 2,
        "PUT" => 4,
        "DELETE" => 5,
        "CONNECT" => 6,
        "OPTIONS" => 7,
        "TRACE" => 8,
        "PATCH" => 9,
        _ => 3,
    }
}

/// The verb of a number; NONE and unknown numbers give no verb.
pub fn verb_of(number: i32) -> Option<http::Method> {
    Some(match number {
        1 => http::Method::GET,
        2 => http::Method::HEAD,
        3 => http::Method::POST,
        4 => http::Method::PUT,
        5 => http::Method::DELETE,
        6 => http::Method::CONNECT,
        7 => http::Method::OPTIONS,
        8 => http::Method::TRACE,
        9 => http::Method::PATCH,
        _ => return None,
    })
}
