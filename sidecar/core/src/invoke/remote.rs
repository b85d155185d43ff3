//! One attempt at another sidecar.

use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use outrigger_model::GrpcCode;
use outrigger_trace_context::{GRPC_TRACE_BIN, TRACEPARENT, TraceContext};

use super::exchange::PeerBody;
use super::frames::{self, Direction, FrameReader, FramesBody, GRPC_STATUS, PayloadBody, check_status};
use super::lead::{self, ResponseLead};
use super::peer::{Lease, PeerTarget, Peers};
use super::{InvokeError, InvokeRequest, InvokeResponse, wire};
use crate::{Body, BodyError, Identity};

const PATH: &str = "/dapr.proto.internals.v1.ServiceInvocation/CallLocalStream";
const UNARY_PATH: &str = "/dapr.proto.internals.v1.ServiceInvocation/CallLocal";
/// Largest body whose first piece the leading message waits for.
const WAIT_BELOW: u64 = 64 << 10;

/// The headers that tell an app where a call came from.
pub(super) struct Forwarding {
    address: HeaderValue,
    host: HeaderValue,
    forwarded: HeaderValue,
}

impl Forwarding {
    pub(super) fn new(identity: &Identity) -> Result<Self, InvokeError> {
        let address = &identity.host_address;
        let quoted = if address.contains(':') {
            format!("\"[{address}]\"")
        } else {
            address.to_string()
        };
        let value = |text: &str| {
            HeaderValue::from_str(text)
                .map_err(|_| InvokeError::internal(format!("{text:?} cannot stand in a header")))
        };
        Ok(Self {
            address: value(address)?,
            host: value(&identity.hostname)?,
            forwarded: value(&format!("for={quoted};by={quoted};host={}", identity.hostname))?,
        })
    }

    pub(super) fn append(&self, headers: &mut HeaderMap) {
        headers.append(HeaderName::from_static("x-forwarded-for"), self.address.clone());
        headers.append(HeaderName::from_static("x-forwarded-host"), self.host.clone());
        headers.append(HeaderName::from_static("forwarded"), self.forwarded.clone());
    }
}

/// Sends the call to the target's sidecar and reads the head of its answer.
pub(super) async fn call(
    peers: &Peers,
    target: PeerTarget<'_>,
    request: &InvokeRequest,
    body: Body,
    max_message: usize,
) -> Result<InvokeResponse, InvokeError> {
    let wait_for_first = request.content_length.is_some_and(|length| length <= WAIT_BELOW);
    let mut frames = FramesBody::request(lead::encode_request(request), body, wait_for_first);
    frames.await_first().await;
    let outgoing = http_request(target.address, PATH, request, Body::boxed(frames))?;
    let (response, lease) = peers.send(target, outgoing).await?;
    check_head(&response)?;
    let mut reader = FrameReader::new(response.into_body(), max_message);
    let Some(first) = reader.next().await.transpose()? else {
        check_status(reader.trailers().unwrap_or(&HeaderMap::new()))?;
        return Err(InvokeError::internal("EOF"));
    };
    let mut head = ResponseLead::decode(first)?;
    if head.status.is_none() {
        return Err(InvokeError::internal(
            "response does not contain the required fields in the leading chunk",
        ));
    }
    let payload = PayloadBody::new(head.payload.take(), reader, Direction::Response)?;
    Ok(wire::to_response(
        head,
        Body::boxed(Leased {
            inner: payload,
            _lease: lease,
        }),
    ))
}

/// The same with everything in one message each way, for a peer that does not know the stream.
pub(super) async fn call_unary(
    peers: &Peers,
    target: PeerTarget<'_>,
    request: &InvokeRequest,
    body: Body,
    max_message: usize,
) -> Result<InvokeResponse, InvokeError> {
    let data = body
        .collect_bytes()
        .await
        .map_err(|error| InvokeError::internal(error.to_string()))?;
    let mut message = wire::request(request);
    if let Some(inner) = message.message.as_mut()
        && (inner.data.is_some() || !data.is_empty())
    {
        inner.data.get_or_insert_default().value = data.to_vec();
    }
    let body = Body::full(frames::frame(&message));
    let outgoing = http_request(target.address, UNARY_PATH, request, body)?;
    // The lease counts the call until its one message has been read.
    let (response, _lease) = peers.send(target, outgoing).await?;
    check_head(&response)?;
    let mut reader = FrameReader::new(response.into_body(), max_message);
    let Some(answer) = reader.next().await.transpose()? else {
        check_status(reader.trailers().unwrap_or(&HeaderMap::new()))?;
        return Err(InvokeError::internal("EOF"));
    };
    wire::whole_response(answer)
}

/// What an answer's headers say about its fate.
pub(super) fn check_head<B>(response: &http::Response<B>) -> Result<(), InvokeError> {
    if response.status() != StatusCode::OK {
        let text = format!(
            "unexpected HTTP status code received from server: {}",
            response.status()
        );
        return Err(InvokeError::status(GrpcCode::Unavailable, text));
    }
    if response.headers().contains_key(GRPC_STATUS) {
        check_status(response.headers())?;
    }
    Ok(())
}

fn http_request(
    address: &str,
    path: &str,
    request: &InvokeRequest,
    body: Body,
) -> Result<Request<Body>, InvokeError> {
    post(address, path, request.trace.as_ref(), body)
}

/// A gRPC request to another sidecar.
pub(super) fn post(
    address: &str,
    path: &str,
    trace: Option<&TraceContext>,
    body: Body,
) -> Result<Request<Body>, InvokeError> {
    let uri = Uri::builder()
        .scheme("http")
        .authority(address)
        .path_and_query(path)
        .build()
        .map_err(|error| {
            InvokeError::internal(format!(
                "the resolver answered {address:?}, which is no address: {error}"
            ))
        })?;
    let mut out = Request::new(body);
    *out.method_mut() = Method::POST;
    *out.uri_mut() = uri;
    let headers = out.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    if let Some(trace) = trace {
        // The state of the trace travels among the caller's headers inside the message.
        headers.insert(HeaderName::from_static(TRACEPARENT), trace.header_value());
        if let Ok(binary) = HeaderValue::from_str(&wire::unpadded(&trace.to_binary())) {
            headers.insert(HeaderName::from_static(GRPC_TRACE_BIN), binary);
        }
    }
    Ok(out)
}

/// A body that keeps its connection's lease.
struct Leased {
    inner: PayloadBody<PeerBody>,
    _lease: Lease,
}

impl http_body::Body for Leased {
    type Data = bytes::Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, BodyError>>> {
        std::pin::Pin::new(&mut self.get_mut().inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}
