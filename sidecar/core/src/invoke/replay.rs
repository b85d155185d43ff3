//! Bodies that can be sent again: what has been read is kept as long as it stays small.
//!
//! Pieces are shared, not copied. A body that outgrows the limit goes on streaming; it just cannot be replayed.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::{Body, BodyError};

#[derive(Debug)]
struct State {
    kept: Vec<Bytes>,
    kept_bytes: usize,
    limit: usize,
    /// What nobody has read.
    rest: Body,
    /// The number of the last attempt, which alone may read.
    attempt: u32,
    lost: bool,
}

/// One attempt's view of the body.
#[derive(Debug)]
pub struct Attempt {
    state: Arc<Mutex<State>>,
    number: u32,
    replayed: usize,
}

/// Gives out attempts, one after the other. An attempt takes the body from the one before, which may still be sending
/// it when its answer has come.
#[derive(Debug)]
pub struct Replay(Arc<Mutex<State>>);

impl Replay {
    /// Keeps at most `limit` bytes; what is in memory as a whole already can be sent again whatever its size.
    pub fn new(body: Body, limit: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            kept: Vec::new(),
            kept_bytes: 0,
            limit,
            rest: body,
            attempt: 0,
            lost: false,
        })))
    }

    /// The body from its start; `None` when it cannot be had again.
    pub fn attempt(&self) -> Option<Body> {
        let mut state = lock(&self.0);
        if state.lost {
            return None;
        }
        state.attempt += 1;
        if state.kept.is_empty() {
            match &state.rest {
                Body::Full(whole) => return Some(Body::Full(whole.clone())),
                rest if rest.is_end_stream() => return Some(std::mem::take(&mut state.rest)),
                _ => {}
            }
        }
        Some(Body::boxed(Attempt {
            state: self.0.clone(),
            number: state.attempt,
            replayed: 0,
        }))
    }

    /// Whether [`Self::attempt`] has a body to give.
    pub fn is_kept(&self) -> bool {
        !lock(&self.0).lost
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HttpBody for Attempt {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let state = &mut *lock(&this.state);
        if state.attempt != this.number {
            return Poll::Ready(Some(Err(BodyError::Connection(
                "the request is sent again".to_owned(),
            ))));
        }
        if let Some(piece) = state.kept.get(this.replayed) {
            this.replayed += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        let polled = Pin::new(&mut state.rest).poll_frame(cx);
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
        let state = lock(&self.state);
        state.attempt == self.number && state.kept.len() <= self.replayed && state.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let state = lock(&self.state);
        if state.kept.is_empty() && !state.lost {
            state.rest.size_hint()
        } else {
            SizeHint::default()
        }
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
        first.frame().await.unwrap().unwrap();
        assert_eq!(replay.attempt().unwrap().collect_bytes().await.unwrap(), "abcdef");
        // It reads no more once another one has begun.
        assert!(first.frame().await.unwrap().is_err());
        assert!(replay.is_kept());
        assert_eq!(replay.attempt().unwrap().collect_bytes().await.unwrap(), "abcdef");
    }

    #[tokio::test]
    async fn a_body_over_the_limit_streams_but_cannot_be_sent_again() {
        let replay = Replay::new(pieces(), 3);
        assert_eq!(replay.attempt().unwrap().collect_bytes().await.unwrap(), "abcdef");
        assert!(replay.attempt().is_none() && !replay.is_kept());
    }

    #[tokio::test]
    async fn an_untouched_body_can_always_be_sent() {
        let replay = Replay::new(pieces(), 0);
        drop(replay.attempt().unwrap());
        assert_eq!(replay.attempt().unwrap().collect_bytes().await.unwrap(), "abcdef");
        assert!(Replay::new(Body::Empty, 0).attempt().is_some());
        let in_memory = Replay::new(Body::full("whole"), 0);
        for _ in 0..2 {
            assert_eq!(
                in_memory.attempt().unwrap().collect_bytes().await.unwrap(),
                "whole"
            );
        }
    }
}
