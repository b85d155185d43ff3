//! Unary answers with headers and trailers of their own, which tonic's server cannot send: it has trailers only
//! for failures and then no headers.

use bytes::{BufMut, BytesMut};
use futures_util::StreamExt as _;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use outrigger_sidecar_core::invoke::frames::GRPC_STATUS;
use prost::Message;
use tonic::Status;
use tonic::body::Body;

/// A body that is one of the forms below.
pub(crate) fn response<B>(headers: HeaderMap, body: B) -> Response<Body>
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut response = Response::new(Body::new(body));
    *response.headers_mut() = headers;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// One message and status OK.
pub(crate) fn ok(headers: HeaderMap, message: &impl Message, mut trailers: HeaderMap) -> Response<Body> {
    trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
    let frames = [
        Ok::<_, std::convert::Infallible>(Frame::data(framed(message))),
        Ok(Frame::trailers(trailers)),
    ];
    response(headers, StreamBody::new(futures_util::stream::iter(frames)))
}

/// Messages until the stream ends, then its status.
pub(crate) fn stream<T: Message>(
    messages: impl futures_util::Stream<Item = Result<T, Status>> + Send + 'static,
) -> Response<Body> {
    let frames = futures_util::stream::unfold(Some(Box::pin(messages)), |messages| async move {
        let mut messages = messages?;
        let mut trailers = HeaderMap::new();
        let (frame, rest) = match messages.next().await {
            Some(Ok(message)) => (Frame::data(framed(&message)), Some(messages)),
            Some(Err(status)) => {
                // Message and details are encoded into ASCII, which every header can hold.
                let _ = status.add_header(&mut trailers);
                (Frame::trailers(trailers), None)
            }
            None => {
                trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
                (Frame::trailers(trailers), None)
            }
        };
        Some((Ok::<_, std::convert::Infallible>(frame), rest))
    });
    response(HeaderMap::new(), StreamBody::new(frames))
}

/// A message with its prefix.
fn framed(message: &impl Message) -> bytes::Bytes {
    let length = message.encoded_len();
    let mut data = BytesMut::with_capacity(5 + length);
    data.put_u8(0);
    // Bounded by the message limit, far below 4 GiB.
    data.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // A BytesMut grows; encoding into it cannot fail.
    let _ = message.encode(&mut data);
    data.freeze()
}

/// A failure whose headers and trailers the caller is to see apart. Without headers it is a lone status.
pub(crate) fn failed(headers: HeaderMap, status: &Status, mut trailers: HeaderMap) -> Response<Body> {
    // Message and details are encoded into ASCII, which every header can hold.
    let _ = status.add_header(&mut trailers);
    if headers.is_empty() {
        return response(trailers, http_body_util::Empty::<bytes::Bytes>::new());
    }
    let frames = [Ok::<_, std::convert::Infallible>(Frame::trailers(trailers))];
    response(headers, StreamBody::new(futures_util::stream::iter(frames)))
}

/// A lone status of which the entries that begin with `prefix` are to be seen as headers, the rest as trailers.
/// Anything else stays as it is.
pub(crate) fn headers_apart(response: Response<Body>, prefix: &str) -> Response<Body> {
    let is_split = |name: &http::HeaderName| name.as_str().starts_with(prefix);
    if !response.headers().contains_key(GRPC_STATUS) || !response.headers().keys().any(is_split) {
        return response;
    }
    let (parts, _) = response.into_parts();
    let (mut headers, mut trailers) = (HeaderMap::new(), HeaderMap::new());
    for (name, value) in &parts.headers {
        if is_split(name) {
            headers.append(name, value.clone());
        } else if *name != CONTENT_TYPE {
            trailers.append(name, value.clone());
        }
    }
    let frames = [Ok::<_, std::convert::Infallible>(Frame::trailers(trailers))];
    self::response(headers, StreamBody::new(futures_util::stream::iter(frames)))
}
