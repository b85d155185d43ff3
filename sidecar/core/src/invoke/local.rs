//! The call to the app itself, over HTTP or gRPC.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use http_body::Body as _;
use outrigger_model::GrpcCode;
use outrigger_proto::common::v1 as common;
use outrigger_trace_context::{Incoming, TraceContext};
use tonic::metadata::MetadataMap;

use super::{InvokeError, InvokeRequest, InvokeResponse, InvokeStatus, Origin, headers};
use crate::Body;
use crate::app::{AppChannel, AppError, GrpcApp, HttpApp, Slot};

/// Calls the own app.
///
/// # Errors
/// The app is unhealthy or cannot be reached.
pub async fn invoke(app: &AppChannel, request: InvokeRequest) -> Result<InvokeResponse, InvokeError> {
    app.check_health()
        .map_err(|error| InvokeError::status(GrpcCode::Internal, error.to_string()))?;
    invoke_whatever_its_health(app, request).await
}

/// Calls the own app even if it is unhealthy, with something that it must not miss if it can hear it.
///
/// # Errors
/// The app cannot be reached.
pub async fn invoke_whatever_its_health(
    app: &AppChannel,
    request: InvokeRequest,
) -> Result<InvokeResponse, InvokeError> {
    let slot = app.slot().await;
    if let Some(http) = app.http() {
        invoke_http(http, request, slot).await
    } else if let Some(grpc) = app.grpc() {
        // Boxed: by far the larger of both.
        Box::pin(invoke_grpc(grpc, request, slot)).await
    } else {
        Err(InvokeError::internal("app channel is not initialized"))
    }
}

async fn invoke_http(
    app: &HttpApp,
    request: InvokeRequest,
    slot: Slot,
) -> Result<InvokeResponse, InvokeError> {
    let path = path(app.base(), &request.method)?;
    let uri = app
        .uri(&path, &request.query)
        .map_err(|error| InvokeError::internal(error.to_string()))?;
    let outgoing = http_request(uri, request)?;
    let response = app.call(outgoing, slot).await.map_err(transport)?;
    Ok(from_http(response))
}

/// Calls a URL given as the target.
///
/// # Errors
/// The URL cannot be reached.
pub(super) async fn invoke_url(
    client: &HttpApp,
    url: &str,
    request: InvokeRequest,
) -> Result<InvokeResponse, InvokeError> {
    let uri = join(url, &request.method, &request.query)?;
    let response = client
        .call(http_request(uri, request)?, None)
        .await
        .map_err(transport)?;
    Ok(from_http(response))
}

/// The method as a URL path under `base`.
fn path(base: &str, method: &str) -> Result<String, InvokeError> {
    let method = method.trim_start_matches('/');
    super::escape::path(method)
        .map_err(|error| InvokeError::internal(format!("parse \"{base}/{method}\": {error}")))
}

/// A base URL with a method's path and a query behind it.
pub(super) fn join(base: &str, method: &str, query: &str) -> Result<Uri, InvokeError> {
    let base = base.trim_end_matches('/');
    let mut text = format!("{base}/{}", path(base, method)?);
    if !query.is_empty() {
        text.push('?');
        text.push_str(query);
    }
    Uri::try_from(&text).map_err(|error| InvokeError::internal(format!("parse \"{text}\": {error}")))
}

fn transport(error: AppError) -> InvokeError {
    InvokeError {
        is_refused: matches!(error, AppError::Refused(_)),
        ..InvokeError::internal(error.to_string())
    }
}

pub(super) fn http_request(uri: Uri, request: InvokeRequest) -> Result<Request<Body>, InvokeError> {
    if !request.has_extension {
        return Err(InvokeError::status(
            GrpcCode::InvalidArgument,
            "missing HTTP extension field",
        ));
    }
    let verb = match request.verb {
        Some(verb) if verb != Method::CONNECT => verb,
        _ => {
            return Err(InvokeError::status(
                GrpcCode::InvalidArgument,
                "invalid HTTP verb",
            ));
        }
    };
    let traced = Incoming::of(&request.headers);
    let mut outgoing = headers::to_http(request.headers);
    let content_type = if request.type_url.as_deref().is_none_or(str::is_empty) {
        &request.content_type
    } else {
        "application/x-protobuf"
    };
    if let Some(value) = HeaderValue::from_str(content_type)
        .ok()
        .filter(|_| !content_type.is_empty())
    {
        outgoing.insert(CONTENT_TYPE, value);
    }
    if let Some(length) = request
        .content_length
        .filter(|_| request.body.size_hint().exact().is_none())
    {
        outgoing.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    TraceContext::hand_on(request.trace.as_ref(), traced, &mut outgoing);
    let mut out = Request::new(request.body);
    *out.method_mut() = verb;
    *out.uri_mut() = uri;
    *out.headers_mut() = outgoing;
    Ok(out)
}

pub(super) fn from_http(response: http::Response<Body>) -> InvokeResponse {
    let (mut parts, body) = response.into_parts();
    let content_type = parts
        .headers
        .get(CONTENT_TYPE)
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .unwrap_or_default();
    parts.headers.remove(CONTENT_LENGTH);
    headers::remove_hop_by_hop(&mut parts.headers);
    InvokeResponse {
        status: InvokeStatus::http(parts.status.as_u16()),
        headers: parts.headers,
        origin: Origin::Http,
        trailers: HeaderMap::new(),
        content_type,
        type_url: None,
        is_event_stream: false,
        body,
    }
}

async fn invoke_grpc(
    app: &GrpcApp,
    request: InvokeRequest,
    slot: Slot,
) -> Result<InvokeResponse, InvokeError> {
    let extension = super::wire::extension_of(&request);
    let body = request
        .body
        .collect_bytes()
        .await
        .map_err(|error| InvokeError::internal(error.to_string()))?;
    let mut metadata = headers::to_grpc(&request.headers, request.origin, true);
    if let Some(trace) = &request.trace {
        trace.write_request_headers(&mut metadata);
        if let Ok(binary) = HeaderValue::from_str(&super::wire::unpadded(&trace.to_binary())) {
            metadata.insert(
                HeaderName::from_static(outrigger_trace_context::GRPC_TRACE_BIN),
                binary,
            );
        }
    }
    let mut metadata = MetadataMap::from_headers(metadata);
    app.authorise(&mut metadata);
    let message = common::InvokeRequest {
        method: request.method,
        data: Some(prost_types::Any {
            type_url: request.type_url.unwrap_or_default(),
            value: body.to_vec(),
        }),
        content_type: request.content_type,
        http_extension: extension,
    };
    let call = tonic::Request::from_parts(metadata, tonic::Extensions::default(), message);
    let answer = app.on_invoke(call).await;
    drop(slot);
    let (status, message) = match answer.result {
        Ok(message) => (InvokeStatus::default(), message),
        Err(status) => (failed(&status), common::InvokeResponse::default()),
    };
    let (type_url, value) = match message.data {
        Some(data) => (Some(data.type_url), data.value),
        None => (None, Vec::new()),
    };
    Ok(InvokeResponse {
        status,
        headers: super::headers::from_grpc(MetadataMap::from_headers(answer.headers)),
        origin: Origin::Grpc,
        trailers: answer.trailers,
        content_type: message.content_type,
        type_url,
        is_event_stream: false,
        body: Body::full(Bytes::from(value)),
    })
}

/// A gRPC app's failure is an answer: its code, message and details travel to the caller.
fn failed(status: &tonic::Status) -> InvokeStatus {
    let details = <outrigger_proto::google::rpc::Status as prost::Message>::decode(status.details())
        .map(|packed| packed.details)
        .unwrap_or_default();
    InvokeStatus {
        code: status.code() as i32,
        message: status.message().to_owned(),
        details,
    }
}
