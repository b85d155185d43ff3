//! What passes in a proxied call is watched without being held up: no message may be larger than the sidecar takes, and a
//! request that may be sent again holds one message at most.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use outrigger_model::GrpcCode;

use super::InvokeError;
use crate::BodyError;

/// Compression flag and length.
const PREFIX: usize = 5;
const ONE_MESSAGE_ONLY: &str = "cannot use resiliency policies with retries on streaming RPCs";

/// What is wrong with the messages of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Violation {
    /// A second one, in a request that may be sent again.
    SecondMessage,
    /// One of this length, where no more than the limit is taken.
    TooLarge { length: usize, limit: usize },
}

impl Violation {
    /// As the caller is told.
    pub(super) fn error(self) -> InvokeError {
        let code = match self {
            Self::SecondMessage => GrpcCode::FailedPrecondition,
            Self::TooLarge { .. } => GrpcCode::ResourceExhausted,
        };
        InvokeError::status(code, self.body_error().to_string())
    }

    fn body_error(self) -> BodyError {
        match self {
            Self::SecondMessage => BodyError::Connection(ONE_MESSAGE_ONLY.to_owned()),
            Self::TooLarge { length, limit } => BodyError::MessageTooLarge { length, limit },
        }
    }
}

/// What was found first, in either direction of a call.
#[derive(Debug, Clone, Default)]
pub(super) struct Found(Arc<OnceLock<Violation>>);

impl Found {
    pub(super) fn get(&self) -> Option<Violation> {
        self.0.get().copied()
    }

    /// The failure of a call, or what is behind it.
    pub(super) fn behind(&self, error: InvokeError) -> InvokeError {
        self.get().map_or(error, Violation::error)
    }
}

/// Passes a body on and fails where its messages are not as they should be; also where it breaks off because of what was
/// found in the other direction.
#[derive(Debug)]
pub(super) struct Messages<B> {
    inner: B,
    prefix: [u8; PREFIX],
    /// How much of the prefix is known.
    known: usize,
    /// Bytes left of the message whose prefix was last.
    left: usize,
    begun: usize,
    most: usize,
    limit: usize,
    found: Found,
}

impl<B> Messages<B> {
    /// Any number of messages of at most `limit` bytes.
    pub(super) const fn new(inner: B, limit: usize, found: Found) -> Self {
        Self {
            inner,
            prefix: [0; PREFIX],
            known: 0,
            left: 0,
            begun: 0,
            most: usize::MAX,
            limit,
            found,
        }
    }

    /// One message at most.
    pub(super) fn single(self) -> Self {
        Self { most: 1, ..self }
    }

    /// Goes through the next bytes.
    fn follow(&mut self, mut data: &[u8]) -> Result<(), Violation> {
        loop {
            let of_message = data.len().min(self.left);
            self.left -= of_message;
            data = &data[of_message..];
            if data.is_empty() {
                return Ok(());
            }
            if self.known == 0 {
                self.begun = self.begun.saturating_add(1);
                if self.begun > self.most {
                    return Err(Violation::SecondMessage);
                }
            }
            let of_prefix = data.len().min(PREFIX - self.known);
            self.prefix[self.known..self.known + of_prefix].copy_from_slice(&data[..of_prefix]);
            self.known += of_prefix;
            data = &data[of_prefix..];
            if self.known == PREFIX {
                let [_, length @ ..] = self.prefix;
                self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                self.known = 0;
                if self.left > self.limit {
                    let (length, limit) = (self.left, self.limit);
                    return Err(Violation::TooLarge { length, limit });
                }
            }
        }
    }
}

impl<B: HttpBody<Data = Bytes, Error = BodyError> + Unpin> HttpBody for Messages<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        let violation = match &frame {
            Some(Ok(frame)) => {
                let data = frame.data_ref().cloned().unwrap_or_default();
                let followed = this.follow(&data);
                followed.err().map(|new| *this.found.0.get_or_init(|| new))
            }
            Some(Err(_)) => this.found.get(),
            None => None,
        };
        match violation {
            Some(violation) => Poll::Ready(Some(Err(violation.body_error()))),
            None => Poll::Ready(frame),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Body;

    fn body(bytes: &[u8], piece: usize) -> Body {
        let pieces: Vec<_> = bytes
            .chunks(piece)
            .map(|piece| Ok::<_, BodyError>(Frame::data(Bytes::copy_from_slice(piece))))
            .collect();
        Body::boxed(http_body_util::StreamBody::new(futures_util::stream::iter(
            pieces,
        )))
    }

    async fn read(messages: Messages<Body>) -> Result<Bytes, BodyError> {
        Body::boxed(messages).collect_bytes().await
    }

    #[tokio::test]
    async fn one_message_passes_and_a_second_one_fails_however_they_are_cut() {
        let one = b"\0\0\0\0\x03abc";
        let two = [&one[..], &one[..]].concat();
        let empty = [&b"\0\0\0\0\0"[..], &one[..]].concat();
        for piece in 1..20 {
            let found = Found::default();
            let messages = Messages::new(body(one, piece), 3, found.clone()).single();
            assert_eq!(&read(messages).await.unwrap()[..], one);
            assert_eq!(found.get(), None);
            for both in [&two, &empty] {
                let found = Found::default();
                let messages = Messages::new(body(both, piece), 3, found.clone()).single();
                assert!(read(messages).await.is_err());
                assert_eq!(found.get(), Some(Violation::SecondMessage));
                let all = read(Messages::new(body(both, piece), 3, Found::default())).await;
                assert_eq!(all.unwrap(), both);
            }
        }
    }

    #[tokio::test]
    async fn a_message_that_is_too_large_is_told_by_its_numbers_before_it_comes() {
        // The second message: five bytes are announced, none has come.
        let bytes = b"\0\0\0\0\x01a\0\0\0\0\x05";
        for piece in 1..12 {
            let found = Found::default();
            let error = read(Messages::new(body(bytes, piece), 4, found.clone())).await;
            let text = "grpc: received message larger than max (5 vs. 4)";
            assert_eq!(error.unwrap_err().to_string(), text);
            let error = found.behind(InvokeError::internal("the stream was reset"));
            assert_eq!(
                (error.code, error.message.as_str()),
                (GrpcCode::ResourceExhausted, text)
            );
        }
    }
}
