//! Service invocation: the invoke route and everything that no other route serves
//! (contract `http-api`, section 7).

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use outrigger_model::{ApiError, GrpcCode};
use outrigger_sidecar_core::invoke::headers::{API_TOKEN, APP_ID, to_http};
use outrigger_sidecar_core::invoke::message::{NO_EVENTS, asks_for_events};
use outrigger_sidecar_core::invoke::{InvokeError, InvokeRequest, InvokeResponse, Origin, escape, sniff};
use outrigger_sidecar_core::{Body, BodyError};
use outrigger_trace_context::{Incoming, TraceContext};

use crate::HttpApi;
use crate::path::query_unescape;
use crate::request::ApiRequest;

const PREFIX: &str = "/v1.0/invoke/";
const METHOD: &str = "/method/";

/// Finds the target in the header, the basic authorisation or the path, and calls it.
pub(crate) async fn handle(api: Arc<HttpApi>, mut request: ApiRequest) -> Result<Response<Body>, ApiError> {
    let Some((target, method)) = find_target(&request) else {
        return Err(ApiError::legacy(
            "ERR_DIRECT_INVOKE",
            404,
            GrpcCode::NotFound,
            "failed getting app id either from the URL path or the header dapr-app-id",
        ));
    };
    // Only calls that go through another sidecar are turned into an event stream; the own app's answer stays as it is.
    let streaming_events =
        asks_for_events(&request.parts.headers) && api.core.invoker.goes_to_a_peer(&target);
    if streaming_events {
        request
            .parts
            .headers
            .insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    }
    let invocation = to_invocation(request, method, api.options.api_token.is_some());
    let streamed = invocation.is_streamed();
    match api.core.invoker.invoke(&target, invocation).await {
        Ok(response) => to_response(response, streaming_events, streamed)
            .await
            .map_err(|error| failure(&target, &error)),
        Err(error) => Err(failure(&target, &error)),
    }
}

fn failure(target: &str, error: &InvokeError) -> ApiError {
    let http = if error.code == GrpcCode::PermissionDenied {
        403
    } else {
        500
    };
    let message = format!("failed to invoke, id: {target}, err: {error}");
    ApiError::legacy("ERR_DIRECT_INVOKE", http, GrpcCode::Internal, message)
}

/// The target and the method, in the contract's order.
fn find_target(request: &ApiRequest) -> Option<(String, String)> {
    let headers = &request.parts.headers;
    let path = request.parts.uri.path();
    let whole_path = || {
        let cleaned = crate::path::clean(path);
        let decoded = escape::decode(&cleaned).unwrap_or_else(|_| cleaned.to_string());
        decoded.trim_start_matches('/').to_owned()
    };
    if let Some(id) = headers
        .get(APP_ID)
        .map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned())
        && !id.is_empty()
    {
        return Some((id, whole_path()));
    }
    if let Some(id) = basic_auth_target(headers) {
        return Some((id, whole_path()));
    }
    let decoded = escape::decode(path).ok()?;
    let rest = decoded.strip_prefix(PREFIX)?;
    let at = rest.find(METHOD)?;
    let id = query_unescape(&rest[..at]).ok()?;
    let method = &rest[at + METHOD.len()..];
    (!id.is_empty()).then(|| (id, method.to_owned()))
}

/// `Authorization: Basic base64("dapr-app-id:<id>")`, exactly two parts.
fn basic_auth_target(headers: &HeaderMap) -> Option<String> {
    let encoded = headers
        .get(AUTHORIZATION)?
        .to_str()
        .ok()?
        .strip_prefix("Basic ")?;
    let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (user, id) = decoded.split_once(':')?;
    (user.eq_ignore_ascii_case(APP_ID.as_str()) && !id.is_empty() && !id.contains(':')).then(|| id.to_owned())
}

/// The verb as the internal wire knows it: any case of letters, and `POST` for what it does not know.
fn verb(method: &Method) -> Method {
    let upper = method.as_str().to_ascii_uppercase();
    match Method::from_bytes(upper.as_bytes()) {
        Ok(
            known @ (Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::DELETE
            | Method::CONNECT
            | Method::OPTIONS
            | Method::TRACE
            | Method::PATCH),
        ) => known,
        _ => Method::POST,
    }
}

fn to_invocation(mut request: ApiRequest, method: String, has_api_token: bool) -> InvokeRequest {
    let body = request.take_body();
    let query = request.parts.uri.query().unwrap_or_default().to_owned();
    let verb = verb(&request.parts.method);
    let mut headers = request.parts.headers;
    headers.remove(APP_ID);
    headers.remove(http::header::HOST);
    if has_api_token {
        headers.remove(API_TOKEN);
    }
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let content_type = text(CONTENT_TYPE).unwrap_or_default().to_owned();
    let content_length = match text(CONTENT_LENGTH).and_then(|length| length.parse().ok()) {
        None if body.is_end_stream() => Some(0),
        length => length,
    };
    InvokeRequest {
        method,
        verb: Some(verb),
        has_extension: true,
        query,
        headers,
        origin: Origin::Http,
        content_type,
        type_url: None,
        body,
        content_length,
        trace: request.trace,
    }
}

/// Writes the app's answer: a good one streamed, a bad one whole, as the contract has it.
async fn to_response(
    answer: InvokeResponse,
    event_stream: bool,
    streamed: bool,
) -> Result<Response<Body>, InvokeError> {
    let is_handed_on = event_stream && answer.status.code == 0;
    if !answer.status.is_http() && !is_handed_on {
        return grpc_response(answer).await;
    }
    let status = match u16::try_from(answer.status.code) {
        // The other sidecar hands on an event stream: it tells no status, and there is one only where the app's was good.
        Ok(0) => StatusCode::OK,
        Ok(code) => StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let traced = Incoming::of(&answer.headers);
    let mut out = to_http(answer.headers);
    // What the app says about its trace goes before our own span.
    TraceContext::hand_on(None, traced, &mut out);
    let failed = !(200..400).contains(&status.as_u16());
    if failed && event_stream {
        // Not helpful, but what Dapr answers.
        return Err(InvokeError::status(
            GrpcCode::Internal,
            format!("error invoking app channel: {NO_EVENTS}"),
        ));
    }
    // Whoever streams a request gets the answer streamed as well.
    let buffered = failed && !streamed;
    let (body, first) = if buffered {
        let bytes = answer.body.collect_bytes().await.map_err(broken)?;
        (Body::full(bytes.clone()), Some(bytes))
    } else if answer.content_type.is_empty() && !event_stream {
        let (body, first) = peek(answer.body).await.map_err(broken)?;
        (body, first)
    } else {
        (answer.body, None)
    };
    let bodiless = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    let content_type = if !answer.content_type.is_empty() {
        HeaderValue::from_str(&answer.content_type).ok()
    } else if buffered {
        Some(crate::respond::JSON)
    } else {
        first
            .filter(|bytes| !bytes.is_empty() && !bodiless)
            .map(|b| HeaderValue::from_static(sniff::content_type(&b)))
    };
    if let Some(content_type) = content_type.filter(|_| status != StatusCode::NOT_MODIFIED) {
        out.insert(CONTENT_TYPE, content_type);
    }
    if event_stream {
        out.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        out.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        out.insert(CONNECTION, HeaderValue::from_static("keep-alive"));
    }
    let mut response = Response::new(if bodiless { Body::Empty } else { body });
    *response.status_mut() = status;
    *response.headers_mut() = out;
    Ok(response)
}

fn broken(error: BodyError) -> InvokeError {
    InvokeError::internal(error.to_string())
}

/// A gRPC app's answer: OK with its data, else its status as JSON under the mapped HTTP status.
async fn grpc_response(answer: InvokeResponse) -> Result<Response<Body>, InvokeError> {
    let code = GrpcCode::from_i32(answer.status.code);
    let mut out = to_http(answer.headers);
    let bytes = if code == GrpcCode::Ok {
        answer.body.collect_bytes().await.map_err(broken)?
    } else {
        Bytes::from(crate::status_json::encode(&answer.status))
    };
    let content_type = if answer.content_type.is_empty() {
        (!bytes.is_empty()).then(|| HeaderValue::from_static(sniff::content_type(&bytes)))
    } else {
        HeaderValue::from_str(&answer.content_type).ok()
    };
    if let Some(content_type) = content_type {
        out.insert(CONTENT_TYPE, content_type);
    }
    let mut response = Response::new(Body::full(bytes));
    *response.status_mut() =
        StatusCode::from_u16(code.to_http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = out;
    Ok(response)
}

/// Takes the first piece of a body and puts it back.
async fn peek(mut body: Body) -> Result<(Body, Option<Bytes>), BodyError> {
    let first = loop {
        match body.frame().await.transpose()? {
            None => return Ok((Body::Empty, None)),
            Some(frame) => match frame.into_data() {
                Ok(data) if !data.is_empty() => break data,
                _ => {}
            },
        }
    };
    if body.is_end_stream() {
        return Ok((Body::full(first.clone()), Some(first)));
    }
    Ok((
        Body::boxed(Prefixed {
            first: Some(first.clone()),
            rest: body,
        }),
        Some(first),
    ))
}

/// A body with its first piece put back.
struct Prefixed {
    first: Option<Bytes>,
    rest: Body,
}

impl http_body::Body for Prefixed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this.first.take() {
            Some(first) => std::task::Poll::Ready(Some(Ok(http_body::Frame::data(first)))),
            None => std::pin::Pin::new(&mut this.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }
}
