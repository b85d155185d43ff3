//! The streams of `CallLocalStream`: gRPC framing, the leading message and the payload frames
//! (contract `service-invocation`, section 3, "Stream chunk rules").
//!
//! Bodies pass through frame by frame. Small pieces share one chunk with their framing; larger ones are handed
//! on without being copied.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use outrigger_model::GrpcCode;
use outrigger_proto::internals::v1::{InternalInvokeRequestStream, InternalInvokeResponseStream};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};

use super::InvokeError;
use crate::{Body, BodyError};

/// Compression flag and length.
const PREFIX: usize = 5;
/// Payloads up to this size are copied next to their framing.
const COPY_BELOW: usize = 8 << 10;
/// Field 2 (payload) of both stream messages, field 1 (data) and field 2 (seq) of the payload.
const TAG_PAYLOAD: u8 = 2 << 3 | 2;
const TAG_DATA: u8 = 1 << 3 | 2;
const TAG_SEQ: u8 = 2 << 3;

/// The status header of a gRPC answer.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// The message header of a gRPC answer.
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Packed details.
pub const GRPC_STATUS_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// A message with its prefix.
pub(crate) fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + length);
    put_prefix(&mut out, length);
    // A BytesMut grows; encoding into it cannot fail.
    let _ = message.encode(&mut out);
    out.freeze()
}

/// Splits a body into gRPC messages.
#[derive(Debug)]
pub struct FrameReader<B = Incoming> {
    inner: B,
    chunk: Bytes,
    partial: BytesMut,
    limit: usize,
    trailers: Option<HeaderMap>,
    ended: bool,
}

impl<B> FrameReader<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    /// Reads messages of at most `limit` bytes.
    pub fn new(inner: B, limit: usize) -> Self {
        Self {
            inner,
            chunk: Bytes::new(),
            partial: BytesMut::new(),
            limit,
            trailers: None,
            ended: false,
        }
    }

    /// The next message.
    pub async fn next(&mut self) -> Option<Result<Bytes, InvokeError>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The next message; `None` when the stream has ended.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, InvokeError>>> {
        loop {
            match self.take_message() {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            if self.ended {
                let cut = !self.chunk.is_empty() || !self.partial.is_empty();
                self.chunk.clear();
                self.partial.clear();
                return Poll::Ready(
                    cut.then(|| Err(InvokeError::status(GrpcCode::Internal, "unexpected EOF"))),
                );
            }
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                None => self.ended = true,
                Some(Err(error)) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(InvokeError::status(
                        GrpcCode::Unavailable,
                        error.to_string(),
                    ))));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if self.chunk.is_empty() => self.chunk = data,
                    Ok(data) => {
                        self.partial.extend_from_slice(&std::mem::take(&mut self.chunk));
                        self.chunk = data;
                    }
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
            }
        }
    }

    /// What came after the last message.
    pub const fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }

    /// Whether the peer has closed its side and everything has been taken.
    pub fn is_drained(&self) -> bool {
        self.chunk.is_empty() && self.partial.is_empty() && (self.ended || self.inner.is_end_stream())
    }

    fn take_message(&mut self) -> Result<Option<Bytes>, InvokeError> {
        if !self.partial.is_empty() {
            self.partial.extend_from_slice(&std::mem::take(&mut self.chunk));
            let Some(length) = self.length(&self.partial)? else {
                return Ok(None);
            };
            self.chunk = std::mem::take(&mut self.partial).freeze();
            return Ok(Some(self.split(length)));
        }
        match self.length(&self.chunk)? {
            Some(length) => Ok(Some(self.split(length))),
            None => {
                self.partial.extend_from_slice(&std::mem::take(&mut self.chunk));
                Ok(None)
            }
        }
    }

    fn split(&mut self, length: usize) -> Bytes {
        self.chunk.advance(PREFIX);
        self.chunk.split_to(length)
    }

    /// The length of the first message, once all of it is there.
    fn length(&self, buffer: &[u8]) -> Result<Option<usize>, InvokeError> {
        let Some(prefix) = buffer.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        if prefix[0] != 0 {
            let text = "compressed messages are not supported on the internal API";
            return Err(InvokeError::status(GrpcCode::Unimplemented, text));
        }
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if length > self.limit {
            let text = format!(
                "grpc: received message larger than max ({length} vs. {})",
                self.limit
            );
            return Err(InvokeError::status(GrpcCode::ResourceExhausted, text));
        }
        Ok((buffer.len() >= PREFIX + length).then_some(length))
    }
}

/// Reads the status of a gRPC answer from its headers or trailers.
///
/// # Errors
/// A status other than OK, or none at all.
pub fn check_status(headers: &HeaderMap) -> Result<(), InvokeError> {
    let code = headers
        .get(GRPC_STATUS)
        .and_then(|code| code.to_str().ok())
        .and_then(|code| code.parse().ok());
    match code {
        Some(0) => Ok(()),
        Some(code) => {
            let message = headers
                .get(GRPC_MESSAGE)
                .map(|message| percent_decode(message.as_bytes()))
                .unwrap_or_default();
            Err(InvokeError::status(GrpcCode::from_i32(code), message))
        }
        None => Err(InvokeError::status(
            GrpcCode::Unavailable,
            "the stream ended without a status",
        )),
    }
}

fn percent_decode(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let digits = text
            .get(at + 1..at + 3)
            .and_then(|pair| std::str::from_utf8(pair).ok());
        match digits
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())
            .filter(|_| text[at] == b'%')
        {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(text[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Percent-encodes a message for `grpc-message`.
pub fn percent_encode(text: &str) -> HeaderValue {
    let mut out = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' => out.extend_from_slice(b"%25"),
            0x20..=0x7e => out.push(byte),
            other => out.extend_from_slice(format!("%{other:02X}").as_bytes()),
        }
    }
    HeaderValue::from_bytes(&out).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Which direction a stream of payloads has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Caller to callee.
    Request,
    /// Callee to caller; the stream ends with a status.
    Response,
}

/// The body carried by the messages after the leading one.
#[derive(Debug)]
pub struct PayloadBody<B = Incoming> {
    first: Option<Bytes>,
    reader: FrameReader<B>,
    direction: Direction,
    next_seq: u64,
    ended: bool,
}

impl<B> PayloadBody<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    /// Continues after a leading message that carried `first`.
    pub fn new(
        first: Option<(Bytes, u64)>,
        reader: FrameReader<B>,
        direction: Direction,
    ) -> Result<Self, InvokeError> {
        let mut body = Self {
            first: None,
            reader,
            direction,
            next_seq: 0,
            ended: false,
        };
        if let Some((data, seq)) = first {
            body.check_seq(seq)?;
            body.first = (!data.is_empty()).then_some(data);
        }
        Ok(body)
    }

    /// Whether nothing more can come; known early when the peer closed with its leading message.
    pub fn is_drained(&self) -> bool {
        self.first.is_none() && self.reader.is_drained()
    }

    fn check_seq(&mut self, seq: u64) -> Result<(), InvokeError> {
        if seq != self.next_seq {
            let text = format!(
                "invalid sequence number received: {seq} (expected: {})",
                self.next_seq
            );
            return Err(InvokeError::status(GrpcCode::Internal, text));
        }
        self.next_seq += 1;
        Ok(())
    }

    fn payload(&mut self, message: Bytes) -> Result<Bytes, InvokeError> {
        let malformed =
            |error: prost::DecodeError| InvokeError::status(GrpcCode::Internal, error.to_string());
        let misplaced = || InvokeError::status(GrpcCode::Internal, "metadata found in non-leading chunk");
        let payload = match self.direction {
            Direction::Request => {
                let message = InternalInvokeRequestStream::decode(message).map_err(malformed)?;
                if message
                    .request
                    .is_some_and(|request| !request.metadata.is_empty() || request.message.is_some())
                {
                    return Err(misplaced());
                }
                message.payload
            }
            Direction::Response => {
                let message = InternalInvokeResponseStream::decode(message).map_err(malformed)?;
                // Event streams repeat a response that holds an empty message at most.
                let stray = |r: &outrigger_proto::internals::v1::InternalInvokeResponse| {
                    r.status.is_some() || !r.headers.is_empty()
                };
                if message.response.as_ref().is_some_and(stray) {
                    return Err(misplaced());
                }
                message.payload
            }
        };
        let Some(payload) = payload else {
            return Ok(Bytes::new());
        };
        self.check_seq(payload.seq)?;
        Ok(payload.data)
    }
}

impl<B> HttpBody for PayloadBody<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        loop {
            let fail = |this: &mut Self, error: InvokeError| {
                this.ended = true;
                Poll::Ready(Some(Err(BodyError::Connection(error.message))))
            };
            match ready!(this.reader.poll_next(cx)) {
                Some(Ok(message)) => match this.payload(message) {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                    Err(error) => return fail(this, error),
                },
                Some(Err(error)) => return fail(this, error),
                None => {
                    this.ended = true;
                    if this.direction == Direction::Response {
                        let empty = HeaderMap::new();
                        if let Err(error) = check_status(this.reader.trailers().unwrap_or(&empty)) {
                            return fail(this, error);
                        }
                    }
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.direction == Direction::Request && self.is_drained()
    }
}

/// Writes a leading message and a body as gRPC messages.
#[derive(Debug)]
pub struct FramesBody {
    lead: Option<Vec<u8>>,
    /// Whether the leading message may wait for the first piece of the body, since that is sure to come.
    wait_for_first: bool,
    inner: Body,
    /// What [`FramesBody::await_first`] got from `inner`.
    first: Option<Option<Result<Frame<Bytes>, BodyError>>>,
    queued: VecDeque<Bytes>,
    seq: u64,
    inner_ended: bool,
    trailers: Option<HeaderMap>,
    /// Set once a failed body has been reported in the trailers.
    failed: bool,
}

impl FramesBody {
    /// The messages of a request with this leading one ([`super::lead::encode_request`]).
    pub fn request(lead: Vec<u8>, body: Body, wait_for_first: bool) -> Self {
        Self::new(lead, body, wait_for_first, None)
    }

    /// The messages of an answer with this leading one ([`super::lead::encode_response`]), ending with status OK.
    pub fn response(lead: Vec<u8>, body: Body, wait_for_first: bool) -> Self {
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
        Self::new(lead, body, wait_for_first, Some(trailers))
    }

    fn new(lead: Vec<u8>, inner: Body, wait_for_first: bool, trailers: Option<HeaderMap>) -> Self {
        let inner_ended = inner.is_end_stream();
        Self {
            lead: Some(lead),
            wait_for_first,
            inner,
            first: None,
            queued: VecDeque::new(),
            seq: 0,
            inner_ended,
            trailers,
            failed: false,
        }
    }

    /// Waits for the first piece of the body if the leading message waits for it. Sent after that, head, message and
    /// end leave in one write, where they else would in two: HTTP/2 sends the head while it asks for the body.
    pub async fn await_first(&mut self) {
        if self.wait_for_first && !self.inner_ended && self.first.is_none() {
            self.first = Some(self.inner.frame().await);
        }
    }

    /// Frames `lead` (may be empty) with a payload after it.
    fn frame(&mut self, lead: &[u8], data: Option<Bytes>) -> Bytes {
        let Some(data) = data else {
            let mut out = BytesMut::with_capacity(PREFIX + lead.len());
            put_prefix(&mut out, lead.len());
            out.extend_from_slice(lead);
            return out.freeze();
        };
        let seq = self.seq;
        self.seq += 1;
        let seq_len = if seq == 0 { 0 } else { 1 + encoded_len_varint(seq) };
        let payload_len = seq_len + 1 + encoded_len_varint(data.len() as u64) + data.len();
        let length = lead.len() + 1 + encoded_len_varint(payload_len as u64) + payload_len;
        let copied = if data.len() <= COPY_BELOW { data.len() } else { 0 };
        let mut out = BytesMut::with_capacity(PREFIX + length - data.len() + copied);
        put_prefix(&mut out, length);
        out.extend_from_slice(lead);
        out.put_u8(TAG_PAYLOAD);
        encode_varint(payload_len as u64, &mut out);
        if seq != 0 {
            out.put_u8(TAG_SEQ);
            encode_varint(seq, &mut out);
        }
        out.put_u8(TAG_DATA);
        encode_varint(data.len() as u64, &mut out);
        if copied > 0 {
            out.extend_from_slice(&data);
        } else {
            self.queued.push_back(data);
        }
        out.freeze()
    }

    fn end(&mut self, error: Option<BodyError>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.inner_ended = true;
        match (self.trailers.take(), error) {
            (None, None) => Poll::Ready(None),
            (None, Some(error)) => {
                Poll::Ready((!std::mem::replace(&mut self.failed, true)).then_some(Err(error)))
            }
            (Some(trailers), None) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            (Some(mut trailers), Some(error)) => {
                let status = HeaderValue::from(GrpcCode::Internal.as_i32());
                trailers.insert(GRPC_STATUS, status);
                trailers.insert(GRPC_MESSAGE, percent_encode(&error.to_string()));
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
        }
    }
}

fn put_prefix(out: &mut BytesMut, length: usize) {
    out.put_u8(0);
    // Lengths are bounded by the message limit, far below 4 GiB.
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

impl HttpBody for FramesBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(queued) = this.queued.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(queued))));
        }
        loop {
            if this.inner_ended {
                if let Some(lead) = this.lead.take() {
                    return Poll::Ready(Some(Ok(Frame::data(this.frame(&lead, None)))));
                }
                return this.end(None);
            }
            let polled = match this.first.take() {
                Some(first) => Poll::Ready(first),
                None => Pin::new(&mut this.inner).poll_frame(cx),
            };
            match polled {
                Poll::Pending => {
                    if !this.wait_for_first
                        && let Some(lead) = this.lead.take()
                    {
                        return Poll::Ready(Some(Ok(Frame::data(this.frame(&lead, None)))));
                    }
                    return Poll::Pending;
                }
                Poll::Ready(None) => this.inner_ended = true,
                Poll::Ready(Some(Err(error))) => return this.end(Some(error)),
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers of an HTTP body have no place on the internal wire.
                    let Ok(data) = frame.into_data() else { continue };
                    if data.is_empty() {
                        continue;
                    }
                    let lead = this.lead.take().unwrap_or_default();
                    if this.inner.is_end_stream() {
                        this.inner_ended = true;
                    }
                    return Poll::Ready(Some(Ok(Frame::data(this.frame(&lead, Some(data))))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.lead.is_none() && self.queued.is_empty() && self.inner_ended && self.trailers.is_none()
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::common::v1::StreamPayload;
    use outrigger_proto::internals::v1::InternalInvokeRequest;

    use super::*;

    fn lead() -> InternalInvokeRequestStream {
        InternalInvokeRequestStream {
            request: Some(InternalInvokeRequest {
                ver: 1,
                ..InternalInvokeRequest::default()
            }),
            payload: None,
        }
    }

    fn messages(mut bytes: Bytes) -> Vec<InternalInvokeRequestStream> {
        let mut out = Vec::new();
        while bytes.has_remaining() {
            assert_eq!(bytes.get_u8(), 0);
            let length = bytes.get_u32() as usize;
            out.push(InternalInvokeRequestStream::decode(bytes.split_to(length)).unwrap());
        }
        out
    }

    #[tokio::test]
    async fn the_first_piece_travels_with_the_leading_message() {
        for size in [1, COPY_BELOW, COPY_BELOW + 1, 100_000] {
            let data = Bytes::from(vec![7; size]);
            let body = FramesBody::request(lead().encode_to_vec(), Body::full(data.clone()), true);
            let all = messages(body.collect().await.unwrap().to_bytes());
            assert_eq!(all.len(), 1);
            assert_eq!(all[0].request, lead().request);
            assert_eq!(all[0].payload, Some(StreamPayload { data, seq: 0 }));
        }
    }

    #[tokio::test]
    async fn later_pieces_are_numbered_and_an_empty_body_is_the_leading_message_alone() {
        let empty = FramesBody::request(lead().encode_to_vec(), Body::Empty, true);
        assert_eq!(messages(empty.collect().await.unwrap().to_bytes()), [lead()]);

        let pieces = futures_util::stream::iter(
            [b"a".as_slice(), b"b", b"c"]
                .map(|piece| Ok::<_, BodyError>(Frame::data(Bytes::from_static(piece)))),
        );
        let body = FramesBody::request(
            lead().encode_to_vec(),
            Body::boxed(http_body_util::StreamBody::new(pieces)),
            true,
        );
        let all = messages(body.collect().await.unwrap().to_bytes());
        let payloads: Vec<_> = all
            .into_iter()
            .filter_map(|message| message.payload)
            .map(|p| (p.data, p.seq))
            .collect();
        assert_eq!(
            payloads,
            [("a".into(), 0), ("b".into(), 1), ("c".into(), 2)] as [(Bytes, u64); 3]
        );
    }

    #[tokio::test]
    async fn a_body_waited_for_is_sent_as_one_that_was_not() {
        let (sender, body) = http_body_util::channel::Channel::<Bytes, BodyError>::new(4);
        let mut body = FramesBody::request(lead().encode_to_vec(), Body::boxed(body), true);
        let sending = async {
            let mut sender = sender;
            tokio::task::yield_now().await;
            sender.send_data(Bytes::from_static(b"a")).await.unwrap();
            sender.send_data(Bytes::from_static(b"b")).await.unwrap();
        };
        let reading = async {
            body.await_first().await;
            messages(body.collect().await.unwrap().to_bytes())
        };
        let ((), all) = tokio::join!(sending, reading);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].request, lead().request);
        assert_eq!(all[0].payload.as_ref().map(|p| &p.data[..]), Some(&b"a"[..]));
        assert_eq!(all[1].payload.as_ref().map(|p| &p.data[..]), Some(&b"b"[..]));
    }

    #[test]
    fn messages_survive_the_status_headers_encoding() {
        let text = "näh 100% \u{7}";
        assert_eq!(percent_decode(percent_encode(text).as_bytes()), text);
    }
}
