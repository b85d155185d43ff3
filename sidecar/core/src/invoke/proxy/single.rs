//! A request that may be sent again holds one message at most.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};

use crate::{Body, BodyError};

/// Compression flag and length.
const PREFIX: usize = 5;

/// Passes a body on and fails at the beginning of a second gRPC message.
#[derive(Debug)]
pub(super) struct SingleMessage {
    inner: Body,
    prefix: Vec<u8>,
    /// Bytes left of the message, once its prefix is known.
    left: usize,
    second: Arc<AtomicBool>,
}

impl SingleMessage {
    /// `second` becomes true when a second message begins.
    pub(super) const fn new(inner: Body, second: Arc<AtomicBool>) -> Self {
        Self {
            inner,
            prefix: Vec::new(),
            left: 0,
            second,
        }
    }

    /// Whether the bytes still belong to the first message.
    fn take(&mut self, mut data: &[u8]) -> bool {
        if self.prefix.len() < PREFIX {
            let (head, rest) = data.split_at(data.len().min(PREFIX - self.prefix.len()));
            self.prefix.extend_from_slice(head);
            data = rest;
            if let Some(prefix) = self.prefix.first_chunk::<PREFIX>() {
                self.left = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
            }
        }
        let fits = data.len() <= self.left;
        self.left = self.left.saturating_sub(data.len());
        fits
    }
}

impl HttpBody for SingleMessage {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && !this.take(&data.clone())
        {
            this.second.store(true, Ordering::Release);
            return Poll::Ready(Some(Err(BodyError::Connection(super::ONE_MESSAGE_ONLY.into()))));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(bytes: &[u8], piece: usize) -> Body {
        let pieces: Vec<_> = bytes
            .chunks(piece)
            .map(|piece| Ok::<_, BodyError>(Frame::data(Bytes::copy_from_slice(piece))))
            .collect();
        Body::boxed(http_body_util::StreamBody::new(futures_util::stream::iter(
            pieces,
        )))
    }

    #[tokio::test]
    async fn one_message_passes_and_a_second_one_fails_however_they_are_cut() {
        let one = b"\0\0\0\0\x03abc";
        let two = [&one[..], &one[..]].concat();
        let empty = [&b"\0\0\0\0\0"[..], &one[..]].concat();
        for piece in 1..20 {
            let second = Arc::new(AtomicBool::new(false));
            let single = SingleMessage::new(body(one, piece), second.clone());
            let read = Body::boxed(single).collect_bytes().await.unwrap();
            assert_eq!((&read[..], second.load(Ordering::Acquire)), (&one[..], false));
            for both in [&two, &empty] {
                let single = SingleMessage::new(body(both, piece), second.clone());
                assert!(Body::boxed(single).collect_bytes().await.is_err());
                assert!(second.swap(false, Ordering::AcqRel));
            }
        }
    }
}
