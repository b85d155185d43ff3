//! Answers that stay under their call's policy until they end: its time limit goes on, and its circuit breaker hears
//! how they ended.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use outrigger_resiliency::Open;

use super::frames::GRPC_STATUS;
use crate::BodyError;

/// The body of such an answer.
pub(super) struct Governed<B> {
    /// `None` once the time was up, so that nobody sends any more.
    inner: Option<B>,
    open: Open,
    /// What the head of the answer said.
    is_good: bool,
}

impl<B> Governed<B> {
    /// `is_good` = the head of the answer counts as a success.
    pub(super) const fn new(inner: B, open: Open, is_good: bool) -> Self {
        Self {
            inner: Some(inner),
            open,
            is_good,
        }
    }
}

impl<B> HttpBody for Governed<B>
where
    B: HttpBody<Data = Bytes, Error = BodyError> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(inner).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let status = frame
                    .trailers_ref()
                    .and_then(|trailers| trailers.get(GRPC_STATUS));
                this.is_good &= status.is_none_or(|status| status == "0");
            }
            Poll::Ready(Some(Err(_))) => this.open.end(false),
            Poll::Ready(None) => this.open.end(this.is_good),
            Poll::Pending if this.open.poll_expired(cx).is_ready() => {
                this.inner = None;
                return Poll::Ready(Some(Err(BodyError::Deadline)));
            }
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}

impl<B> Drop for Governed<B> {
    /// Read to its end without having been asked for more, or given up by its reader: the head decides.
    fn drop(&mut self) {
        self.open.end(self.is_good);
    }
}
