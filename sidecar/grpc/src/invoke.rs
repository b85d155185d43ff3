//! `InvokeService`

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use outrigger_model::{ApiError, GrpcCode};
use outrigger_proto::common::v1 as common;
use outrigger_proto::runtime::v1::InvokeServiceRequest;
use outrigger_sidecar_core::invoke::frames::FrameReader;
use outrigger_sidecar_core::invoke::headers::{AUTHORITY, from_grpc, to_grpc};
use outrigger_sidecar_core::invoke::{InvokeRequest, InvokeResponse, Origin, wire};
use outrigger_sidecar_core::{Body as CoreBody, Sidecar};
use outrigger_trace_context::TraceContext;
use prost::Message as _;
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::MetadataMap;

use crate::error::{from_http, from_invoke, to_status, with_details};
use crate::reply;

const HTTP_STATUS: HeaderName = HeaderName::from_static("dapr-http-status");

/// Answers one call, without tonic's message layer: the caller is to see the app's headers and trailers apart.
pub(crate) async fn invoke_service<B>(
    core: &Sidecar,
    max_message: usize,
    request: Request<B>,
    span: Option<TraceContext>,
) -> Response<Body>
where
    B: http_body::Body<Data = bytes::Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let (parts, body) = request.into_parts();
    let message = match FrameReader::new(body, max_message).next().await {
        Some(Ok(message)) => message,
        Some(Err(error)) => return from_invoke(&error).into_http(),
        None => return Status::internal("the request has no message").into_http(),
    };
    let message = match InvokeServiceRequest::decode(message) {
        Ok(message) => message,
        Err(error) => return Status::internal(error.to_string()).into_http(),
    };
    let mut headers = from_grpc(MetadataMap::from_headers(parts.headers));
    headers.remove(http::header::HOST);
    headers.remove(http::header::TE);
    if let Some(authority) = parts.uri.authority()
        && let Ok(authority) = HeaderValue::from_str(authority.as_str())
    {
        headers.insert(AUTHORITY, authority);
    }
    let invocation = to_invocation(message.message.unwrap_or_default(), headers, span.clone());
    match core.invoker.invoke(&message.id, invocation).await {
        Ok(answer) => to_response(answer, span.as_ref()).await,
        // An open circuit breaker.
        Err(error) if error.code == GrpcCode::Unknown && !error.is_status => {
            Status::unknown(error.message).into_http()
        }
        Err(error) => {
            let text = format!("failed to invoke, id: {}, err: {error}", message.id);
            let error = ApiError::legacy("ERR_DIRECT_INVOKE", 500, GrpcCode::Internal, text);
            to_status(&error).into_http()
        }
    }
}

fn to_invocation(
    message: common::InvokeRequest,
    headers: HeaderMap,
    span: Option<TraceContext>,
) -> InvokeRequest {
    let (type_url, value) = match message.data {
        Some(data) => (Some(data.type_url), data.value),
        None => (None, Vec::new()),
    };
    let has_extension = message.http_extension.is_some();
    let (verb, query) = match message.http_extension {
        Some(extension) => (wire::verb_of(extension.verb), extension.querystring),
        None => (None, String::new()),
    };
    InvokeRequest {
        method: message.method,
        verb,
        has_extension,
        query,
        headers,
        origin: Origin::Grpc,
        content_type: message.content_type,
        type_url,
        content_length: Some(value.len() as u64),
        body: CoreBody::full(value),
        trace: span,
    }
}

async fn to_response(answer: InvokeResponse, span: Option<&TraceContext>) -> Response<Body> {
    let is_http = answer.status.is_http();
    let code = answer.status.code;
    let mut headers = to_grpc(&answer.headers, answer.origin, true);
    headers.remove(CONTENT_TYPE);
    let mut trailers = to_grpc(&answer.trailers, Origin::Grpc, false);
    trailers.remove(CONTENT_TYPE);
    if is_http {
        headers.insert(HTTP_STATUS, HeaderValue::from(code));
    }
    let body = match answer.body.collect_bytes().await {
        Ok(body) => body,
        Err(error) => return Status::internal(format!("reading the answer failed: {error}")).into_http(),
    };
    if let Some(span) = span {
        span.write_request_headers(&mut headers);
        if !is_http {
            span.write_request_headers(&mut trailers);
        }
    }
    let error = if is_http {
        let status = u16::try_from(code).unwrap_or(500);
        (!(200..300).contains(&status)).then(|| from_http(status, &String::from_utf8_lossy(&body)))
    } else {
        let grpc = GrpcCode::from_i32(code);
        (grpc != GrpcCode::Ok).then(|| with_details(grpc, &answer.status.message, answer.status.details))
    };
    if let Some(status) = error {
        return reply::failed(headers, &status, trailers);
    }
    let message = common::InvokeResponse {
        data: Some(prost_types::Any {
            type_url: answer.type_url.unwrap_or_default(),
            value: body.to_vec(),
        }),
        content_type: answer.content_type,
    };
    reply::ok(headers, &message, trailers)
}
