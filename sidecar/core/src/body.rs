//! The one body type that flows through the sidecar: whole, streamed from a connection, or made of a stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

/// Why a body ended early. The text is what users see inside error messages.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The caller sent more than `--max-body-size`.
    #[error("stream too large")]
    TooLarge,
    /// A gRPC message that is larger than may be, as Go words it.
    #[error("grpc: received message larger than max ({length} vs. {limit})")]
    MessageTooLarge {
        /// Its length in bytes.
        length: usize,
        /// What is taken.
        limit: usize,
    },
    /// The policy of the call gave it no more time.
    #[error("context deadline exceeded")]
    Deadline,
    /// The connection failed.
    #[error("{0}")]
    Connection(String),
}

impl From<hyper::Error> for BodyError {
    fn from(error: hyper::Error) -> Self {
        let cause =
            std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
        if cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::UnexpectedEof) {
            // As Go says that the sender stopped in the middle.
            return Self::Connection("unexpected EOF".to_owned());
        }
        Self::Connection(error.to_string())
    }
}

/// A request or response body. Streams are passed on frame by frame, never collected on the way.
#[derive(Debug, Default)]
pub enum Body {
    /// No bytes at all.
    #[default]
    Empty,
    /// Everything at once.
    Full(Full<Bytes>),
    /// Straight from a connection.
    Incoming(Incoming),
    /// Anything else.
    Boxed(BoxBody<Bytes, BodyError>),
}

impl Body {
    /// A body of these bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() {
            Self::Empty
        } else {
            Self::Full(Full::new(bytes))
        }
    }

    /// A body out of any other body.
    pub fn boxed<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes, Error = BodyError> + Send + Sync + 'static,
    {
        Self::Boxed(BoxBody::new(body))
    }

    /// All bytes. The caller has limited the body before.
    ///
    /// # Errors
    /// The body's own failure.
    pub async fn collect_bytes(self) -> Result<Bytes, BodyError> {
        match self {
            Self::Empty => Ok(Bytes::new()),
            body => Ok(body.collect().await?.to_bytes()),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::full(bytes)
    }
}

impl From<Incoming> for Body {
    fn from(incoming: Incoming) -> Self {
        Self::Incoming(incoming)
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Full(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
            Self::Boxed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(body) => body.is_end_stream(),
            Self::Incoming(body) => body.is_end_stream(),
            Self::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(body) => body.size_hint(),
            Self::Incoming(body) => body.size_hint(),
            Self::Boxed(body) => body.size_hint(),
        }
    }
}

/// Gives the first `limit` bytes, then fails with [`BodyError::TooLarge`] if there are more.
#[derive(Debug)]
pub struct Limited {
    inner: Incoming,
    left: u64,
    exceeded: bool,
}

impl Limited {
    /// Limits a body from a connection.
    pub const fn new(inner: Incoming, limit: u64) -> Self {
        Self {
            inner,
            left: limit,
            exceeded: false,
        }
    }
}

impl HttpBody for Limited {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.exceeded {
            return Poll::Ready(Some(Err(BodyError::TooLarge)));
        }
        let frame = match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
        };
        if let Some(data) = frame.data_ref() {
            let length = data.len() as u64;
            if length > this.left {
                this.exceeded = true;
                // Less than a frame's length, so it fits.
                let fits = data.slice(..usize::try_from(this.left).unwrap_or_default());
                return Poll::Ready(Some(Ok(Frame::data(fits))));
            }
            this.left -= length;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        !self.exceeded && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
