//! `InvokeService`

use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_model::GrpcCode;
use outrigger_proto::common::v1 as common;
use outrigger_proto::runtime::v1::InvokeServiceRequest;
use outrigger_sidecar_core::invoke::headers::{from_grpc, to_grpc};
use outrigger_sidecar_core::invoke::{InvokeError, InvokeRequest, InvokeResponse, Origin, wire};
use outrigger_sidecar_core::{Body, Sidecar};
use outrigger_trace_context::TraceContext;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

use crate::error::{from_http, with_details};

const HTTP_STATUS: HeaderName = HeaderName::from_static("dapr-http-status");

pub(crate) async fn invoke_service(
    core: &Sidecar,
    request: Request<InvokeServiceRequest>,
    span: Option<TraceContext>,
) -> Result<Response<common::InvokeResponse>, Status> {
    let authority = request.metadata().as_ref().get(http::header::HOST).cloned();
    let (metadata, _, message) = request.into_parts();
    let target = message.id;
    let failed = |error: &InvokeError| {
        let code = if error.code == GrpcCode::PermissionDenied {
            Code::PermissionDenied
        } else {
            Code::Internal
        };
        let mut status = Status::new(code, format!("failed to invoke, id: {target}, err: {error}"));
        if let Some(span) = &span {
            mark(status.metadata_mut(), span);
        }
        status
    };
    let mut headers = from_grpc(metadata);
    headers.remove(http::header::HOST);
    if let Some(authority) = authority {
        headers.insert(HeaderName::from_static("dapr-authority"), authority);
    }
    let invocation = to_invocation(message.message.unwrap_or_default(), headers, span.clone());
    let answer = core
        .invoker
        .invoke(&target, invocation)
        .await
        .map_err(|error| failed(&error))?;
    to_response(answer, span.as_ref()).await
}

fn to_invocation(
    message: common::InvokeRequest,
    headers: HeaderMap,
    span: Option<TraceContext>,
) -> InvokeRequest {
    let data = message.data.unwrap_or_default();
    let (verb, query) = match message.http_extension {
        Some(extension) => (wire::verb_of(extension.verb), extension.querystring),
        None => (None, String::new()),
    };
    InvokeRequest {
        method: message.method,
        verb,
        query,
        headers,
        origin: Origin::Grpc,
        content_type: message.content_type,
        type_url: data.type_url,
        content_length: Some(data.value.len() as u64),
        body: Body::full(data.value),
        trace: span,
    }
}

async fn to_response(
    answer: InvokeResponse,
    span: Option<&TraceContext>,
) -> Result<Response<common::InvokeResponse>, Status> {
    let is_http = answer.status.is_http();
    let code = answer.status.code;
    let mut headers = to_grpc(&answer.headers, answer.origin, true);
    let mut trailers = to_grpc(&answer.trailers, Origin::Grpc, false);
    if is_http {
        headers.insert(HTTP_STATUS, HeaderValue::from(code));
    }
    let body = answer
        .body
        .collect_bytes()
        .await
        .map_err(|error| Status::internal(format!("reading the answer failed: {error}")))?;
    if let Some(span) = span {
        span.write_request_headers(&mut headers);
        span.write_request_headers(&mut trailers);
    }
    let error = if is_http {
        let status = u16::try_from(code).unwrap_or(500);
        (!(200..300).contains(&status)).then(|| from_http(status, &String::from_utf8_lossy(&body)))
    } else {
        let grpc = GrpcCode::from_i32(code);
        (grpc != GrpcCode::Ok).then(|| with_details(grpc, &answer.status.message, answer.status.details))
    };
    if let Some(mut status) = error {
        let mut all = headers;
        all.extend(trailers);
        *status.metadata_mut() = MetadataMap::from_headers(all);
        return Err(status);
    }
    let message = common::InvokeResponse {
        data: Some(prost_types::Any {
            type_url: answer.type_url,
            value: body.to_vec(),
        }),
        content_type: answer.content_type,
    };
    Ok(Response::from_parts(
        MetadataMap::from_headers(headers),
        message,
        tonic::Extensions::default(),
    ))
}

fn mark(metadata: &mut MetadataMap, span: &TraceContext) {
    let mut headers = std::mem::take(metadata).into_headers();
    span.write_request_headers(&mut headers);
    *metadata = MetadataMap::from_headers(headers);
}
