//! Between [`InvokeRequest`] / [`InvokeResponse`] and the messages of the internal API.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::HeaderMap;
use outrigger_model::GrpcCode;
use outrigger_proto::common::v1 as common;
use outrigger_proto::internals::v1::{
    InternalInvokeRequest, InternalInvokeResponse, ListStringValue, Status,
};
use outrigger_trace_context::TraceContext;

use super::headers::{append_wire, wire_key, wire_value};
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
        let values = headers
            .get_all(name)
            .iter()
            .map(|value| wire_value(name, value).into_owned())
            .collect();
        out.insert(wire_key(name, origin), ListStringValue { values });
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
        data: (!request.type_url.is_empty()).then(|| prost_types::Any {
            type_url: request.type_url.clone(),
            value: Vec::new(),
        }),
        content_type: request.content_type.clone(),
        http_extension: request.verb.as_ref().map(|verb| common::HttpExtension {
            verb: verb_number(verb),
            querystring: request.query.clone(),
        }),
    }
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
    trace: Option<TraceContext>,
) -> Result<InvokeRequest, InvokeError> {
    let invalid = |text: &str| InvokeError::status(GrpcCode::InvalidArgument, text);
    let message = lead
        .message
        .ok_or_else(|| invalid("parsing InternalInvokeRequest error: Message field is nil"))?;
    if lead.version != i32::from(VERSION) {
        let text = format!("Unsupported spec version: {}", lead.version);
        return Err(InvokeError::status(GrpcCode::Unimplemented, text));
    }
    let content_length = lead
        .headers
        .get(http::header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse().ok());
    let (verb, query) = match message.http_extension {
        Some(extension) => (verb_of(extension.verb), extension.querystring),
        None => (None, String::new()),
    };
    Ok(InvokeRequest {
        method: super::method::normalize(&message.method)?.into_owned(),
        verb,
        query,
        headers: lead.headers,
        origin: lead.origin,
        content_type: message.content_type,
        type_url: message.data.map(|data| data.type_url).unwrap_or_default(),
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
        message: Some(message),
    }
}

/// The fields `status` and `message` of an answer.
pub(super) fn response_parts(response: &InvokeResponse) -> (Status, common::InvokeResponse) {
    let status = Status {
        code: response.status.code,
        message: response.status.message.clone(),
        details: response.status.details.clone(),
    };
    let message = common::InvokeResponse {
        data: (!response.type_url.is_empty() || response.origin == Origin::Grpc).then(|| prost_types::Any {
            type_url: response.type_url.clone(),
            value: Vec::new(),
        }),
        content_type: response.content_type.clone(),
    };
    (status, message)
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
        type_url: message.data.map(|data| data.type_url).unwrap_or_default(),
        body,
    }
}

/// The number of a verb; verbs that the proto doesn't know become POST.
pub(super) fn verb_number(verb: &http::Method) -> i32 {
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
