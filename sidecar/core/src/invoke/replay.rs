//! Bodies that can be sent again: what has been read is kept as long as it stays small.
//!
//! Pieces are shared, not copied. A body that outgrows the limit goes on streaming; it just cannot be replayed.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::{Body, BodyError};

#[derive(Debug)]
struct State {
    kept: Vec<Bytes>,
    kept_bytes: usize,
    limit: usize,
    /// The unread rest, while no attempt holds it.
    rest: Option<Body>,
    lost: bool,
}

/// One attempt's view of the body.
#[derive(Debug)]
pub struct Attempt {
    state: Arc<Mutex<State>>,
    replayed: usize,
    rest: Option<Body>,
}

/// Gives out attempts, one after the other.
#[derive(Debug)]
pub struct Replay(Arc<Mutex<State>>);

impl Replay {
    /// Keeps at most `limit` bytes.
    pub fn new(body: Body, limit: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            kept: Vec::new(),
            kept_bytes: 0,
            limit,
            rest: Some(body),
            lost: false,
        })))
    }

    /// The body from its start; `None` when it cannot be had again, or another attempt still holds it.
    pub fn attempt(&self) -> Option<Body> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.lost {
            return None;
        }
        let rest = state.rest.take()?;
        if state.kept.is_empty() && rest.is_end_stream() {
            state.rest = Some(Body::Empty);
            return Some(rest);
        }
        drop(state);
        Some(Body::boxed(Attempt {
            state: self.0.clone(),
            replayed: 0,
            rest: Some(rest),
        }))
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.rest = self.rest.take();
    }
}

impl HttpBody for Attempt {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        {
            let state = this.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(piece) = state.kept.get(this.replayed).filter(|_| !state.lost) {
                let piece = piece.clone();
                this.replayed += 1;
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
        }
        let Some(rest) = &mut this.rest else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(rest).poll_frame(cx);
        let mut state = this.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref().filter(|_| !state.lost) {
                    state.kept_bytes += data.len();
                    if state.kept_bytes > state.limit {
                        state.lost = true;
                        state.kept.clear();
                    } else {
                        state.kept.push(data.clone());
                        this.replayed += 1;
                    }
                }
            }
            Poll::Ready(Some(Err(_))) => state.lost = true,
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.lost || state.kept.len() == self.replayed)
            && self.rest.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        if self.replayed == 0 {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.kept.is_empty() {
                return self.rest.as_ref().map(HttpBody::size_hint).unwrap_or_default();
            }
        }
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces() -> Body {
        let pieces =
            ["ab", "cd", "ef"].map(|p| Ok::<_, BodyError>(Frame::data(Bytes::from_static(p.as_bytes()))));
        Body::boxed(http_body_util::StreamBody::new(futures_util::stream::iter(
            pieces,
        )))
    }

    #[tokio::test]
    async fn a_small_body_can_be_sent_again_even_when_the_first_attempt_stopped_midway() {
        use http_body_util::BodyExt;
        let replay = Replay::new(pieces(), 100);
        let mut first = replay.attempt().unwrap();
        assert!(replay.attempt().is_none());
        first.frame().await.unwrap().unwrap();
        drop(first);
        assert_eq!(replay.attempt().unwrap().collect_bytes().await.unwrap(), "abcdef");
        assert_eq!(replay.attempt().unwrap().collect_bytes().await.unwrap(), "abcdef");
    }

    #[tokio::test]
    async fn a_body_over_the_limit_streams_but_cannot_be_sent_again() {
        let replay = Replay::new(pieces(), 3);
        assert_eq!(replay.attempt().unwrap().collect_bytes().await.unwrap(), "abcdef");
        assert!(replay.attempt().is_none());
    }

    #[tokio::test]
    async fn an_untouched_body_can_always_be_sent() {
        let replay = Replay::new(pieces(), 0);
        drop(replay.attempt().unwrap());
        assert_eq!(replay.attempt().unwrap().collect_bytes().await.unwrap(), "abcdef");
        assert!(Replay::new(Body::Empty, 0).attempt().is_some());
    }
}
