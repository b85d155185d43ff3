//! One stream: reads the sidecar's messages and writes what is in its outbox, as the body of the response.
//!
//! No task and no channel of its own: HTTP/2 asks for the next piece, and whatever came from the sidecar in the meantime
//! is handled on the way.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use outrigger_proto::placement::v1::Host;
use prost::Message as _;

use crate::StreamId;
use crate::namespace::Ending;
use crate::outbox::{Next, Outbox};
use crate::shared::Shared;
use crate::status::{Code, Status};

/// Longest message, as in Go.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// One stream, as the body of its response.
#[derive(Debug)]
pub struct StreamBody {
    id: StreamId,
    shared: Arc<Shared>,
    outbox: Outbox,
    incoming: Option<Incoming>,
    partial: BytesMut,
    ended: bool,
}

impl StreamBody {
    /// The stream that was opened as `id`.
    pub const fn new(
        id: StreamId,
        shared: Arc<Shared>,
        outbox: Outbox,
        incoming: Incoming,
        partial: BytesMut,
    ) -> Self {
        Self {
            id,
            shared,
            outbox,
            incoming: Some(incoming),
            partial,
            ended: false,
        }
    }

    /// Handles what the sidecar has sent.
    fn read(&mut self, cx: &mut Context<'_>) {
        while let Some(incoming) = &mut self.incoming {
            match Pin::new(incoming).poll_frame(cx) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.partial.extend_from_slice(&data);
                        self.messages();
                    }
                }
                Poll::Ready(Some(Err(_))) => self.finish(Ending::Broken, None),
                Poll::Ready(None) if self.partial.is_empty() => self.finish(Ending::InOrder, None),
                Poll::Ready(None) => {
                    let status = Status::new(Code::Internal, "the stream ended in the middle of a message");
                    self.finish(Ending::Broken, Some(status));
                }
            }
        }
    }

    fn messages(&mut self) {
        loop {
            match next_message(&mut self.partial) {
                Ok(Some(host)) => self.shared.message(self.id, host),
                Ok(None) => {
                    if self.partial.is_empty() {
                        // Thousands of streams are silent most of the time: they need no buffer.
                        self.partial = BytesMut::new();
                    }
                    return;
                }
                Err(status) => return self.finish(Ending::Broken, Some(status)),
            }
        }
    }

    fn finish(&mut self, ending: Ending, status: Option<Status>) {
        self.incoming = None;
        self.shared.closed(self.id, ending, status);
    }
}

/// Takes a message out of what has arrived, if it is complete.
fn next_message(buffer: &mut BytesMut) -> Result<Option<Host>, Status> {
    let Some((head, _)) = buffer.split_first_chunk::<5>() else {
        return Ok(None);
    };
    let [compressed, length @ ..] = *head;
    let length = u32::from_be_bytes(length) as usize;
    if compressed != 0 {
        return Err(Status::new(
            Code::Unimplemented,
            "grpc: message is compressed, which this service does not accept: send it as it is",
        ));
    }
    if length > MAX_MESSAGE {
        return Err(Status::new(
            Code::ResourceExhausted,
            format!("grpc: received message larger than max ({length} vs. {MAX_MESSAGE})"),
        ));
    }
    if buffer.len() < 5 + length {
        return Ok(None);
    }
    buffer.advance(5);
    let message = buffer.split_to(length).freeze();
    Host::decode(message).map(Some).map_err(|error| {
        Status::new(
            Code::Internal,
            format!("grpc: error unmarshalling request: {error}"),
        )
    })
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.read(cx);
        match self.outbox.poll_next(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Next::Message(message)) => Poll::Ready(Some(Ok(Frame::data(message)))),
            Poll::Ready(Next::End(status)) => {
                self.ended = true;
                Poll::Ready(Some(Ok(Frame::trailers(trailers(&status)))))
            }
        }
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        // Reset by the sidecar, or the connection broke; for a stream that ended this changes nothing.
        self.shared.closed(self.id, Ending::Broken, None);
    }
}

/// A status as gRPC writes it.
#[must_use]
pub fn trailers(status: &Status) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(2);
    map.insert(
        HeaderName::from_static("grpc-status"),
        HeaderValue::from(status.code as i32),
    );
    let message = percent_encoding::utf8_percent_encode(&status.message, NEEDS_ESCAPE).to_string();
    if let Ok(value) = HeaderValue::from_str(&message)
        && !message.is_empty()
    {
        map.insert(HeaderName::from_static("grpc-message"), value);
    }
    map
}

/// What gRPC escapes in a message: everything but printable ASCII, and the percent sign.
const NEEDS_ESCAPE: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'%');
