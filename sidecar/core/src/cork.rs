//! One system call for everything a connection writes in one turn.
//!
//! HTTP/2 hands its frames to the socket piece by piece: a head, each piece of a body, the trailers of a gRPC
//! answer, and the same again for the next stream. Every piece is a system call here and a wake-up over there, which
//! is most of what a small call costs. [`CorkedIo`] gathers them in memory; the connection's task, driven by
//! [`Cork::drive`], sends them once the tasks that are ready have had their turn. Nothing waits for a timer.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Gathered bytes that are sent before the turn is over: bounds memory and keeps the peer busy.
const FULL: usize = 64 << 10;
/// Pieces of this size are worth a system call of their own and are not copied.
const LARGE: usize = 16 << 10;
/// Room that is kept between turns; what a burst needed beyond it is given back.
const KEPT: usize = 8 << 10;

/// A socket that gathers what is written.
pub struct CorkedIo<S>(Arc<Mutex<State<S>>>);

/// The other end of a [`CorkedIo`]: sends what was gathered.
pub struct Cork<S>(Arc<Mutex<State<S>>>);

/// Knows when a corked socket brought something.
pub struct Heard<S>(Arc<Mutex<State<S>>>);

struct State<S> {
    stream: S,
    gathered: Vec<u8>,
    /// Bytes of `gathered` that the socket has taken.
    sent: usize,
    /// Why sending failed; given to the next write.
    failed: Option<io::Error>,
    /// When something was last received.
    heard: Instant,
}

/// Puts a cork into a socket. Whoever writes to the first must run under [`Cork::drive`] of the second.
pub fn cork<S>(stream: S) -> (CorkedIo<S>, Cork<S>) {
    let state = Arc::new(Mutex::new(State {
        stream,
        gathered: Vec::new(),
        sent: 0,
        failed: None,
        heard: Instant::now(),
    }));
    (CorkedIo(Arc::clone(&state)), Cork(state))
}

fn lock<S>(state: &Mutex<State<S>>) -> MutexGuard<'_, State<S>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: AsyncWrite + Unpin> State<S> {
    /// Sends all that was gathered.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.gathered.len() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.gathered[self.sent..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
        }
        self.sent = 0;
        self.gathered.clear();
        self.gathered.shrink_to(KEPT);
        // TLS may hold back encrypted bytes that the socket did not take at once; for a socket this is nothing.
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Makes room for `more` bytes; `true` if they are to be written directly instead.
    fn poll_room(&mut self, cx: &mut Context<'_>, more: usize) -> Poll<io::Result<bool>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        if more >= LARGE || self.gathered.len() + more > FULL {
            ready!(self.poll_send(cx))?;
        }
        Poll::Ready(Ok(more >= LARGE))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CorkedIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0);
        let before = buffer.filled().len();
        let polled = Pin::new(&mut state.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            state.heard = Instant::now();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CorkedIo<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.0);
        if ready!(state.poll_room(cx, bytes.len()))? {
            return Pin::new(&mut state.stream).poll_write(cx, bytes);
        }
        state.gathered.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.0);
        let total = pieces.iter().map(|piece| piece.len()).sum();
        if ready!(state.poll_room(cx, total))? {
            return Pin::new(&mut state.stream).poll_write_vectored(cx, pieces);
        }
        for piece in pieces {
            state.gathered.extend_from_slice(piece);
        }
        Poll::Ready(Ok(total))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Does nothing but tell of an earlier failure: the end of the turn sends.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(lock(&self.0).failed.take().map_or(Ok(()), Err))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0);
        ready!(state.poll_send(cx))?;
        Pin::new(&mut state.stream).poll_shutdown(cx)
    }
}

impl<S> Heard<S> {
    /// When something was last received; at first, when the cork was put in.
    pub fn last(&self) -> Instant {
        lock(&self.0).heard
    }
}

impl<S: AsyncWrite + Unpin> Cork<S> {
    /// For whoever watches over the peer.
    pub fn heard(&self) -> Heard<S> {
        Heard(Arc::clone(&self.0))
    }

    /// Runs the connection that writes to the corked socket. What it wrote in a turn is sent at the end of its next
    /// one, which is due as soon as the tasks that are ready now have run: they are the ones that follow a head with
    /// its body, or have another call for the same connection. After its last turn everything is sent.
    pub async fn drive<F: Future>(self, connection: F) -> F::Output {
        let mut connection = std::pin::pin!(connection);
        let mut ended = None;
        let mut waited = false;
        std::future::poll_fn(move |cx| {
            if ended.is_none()
                && let Poll::Ready(output) = connection.as_mut().poll(cx)
            {
                ended = Some(output);
            }
            let mut state = lock(&self.0);
            if !waited && ended.is_none() && !state.gathered.is_empty() {
                waited = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match state.poll_send(cx) {
                Poll::Ready(Ok(())) => {}
                // The connection ends by its own next write or flush.
                Poll::Ready(Err(error)) if ended.is_none() => {
                    state.gathered.clear();
                    state.sent = 0;
                    state.failed = Some(error);
                    cx.waker().wake_by_ref();
                }
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "the last bytes of a connection were not sent");
                }
                // What the socket does not take has waited long enough.
                Poll::Pending => return Poll::Pending,
            }
            waited = false;
            ended.take().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    /// Counts the writes that reach it.
    struct Counted(DuplexStream, Arc<Mutex<Vec<usize>>>);

    impl AsyncRead for Counted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let count = ready!(Pin::new(&mut self.0).poll_write(cx, bytes))?;
            self.1.lock().unwrap().push(count);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    fn counted(capacity: usize) -> (Counted, DuplexStream, Arc<Mutex<Vec<usize>>>) {
        let (near, far) = tokio::io::duplex(capacity);
        let writes = Arc::new(Mutex::new(Vec::new()));
        (Counted(near, Arc::clone(&writes)), far, writes)
    }

    #[tokio::test]
    async fn what_is_written_while_others_have_their_turn_is_sent_at_once() {
        let (near, mut far, writes) = counted(1 << 20);
        let (mut io, handle) = cork(near);
        let (body_sender, body) = tokio::sync::oneshot::channel();
        let connection = handle.drive(async move {
            io.write_all(b"head").await.unwrap();
            io.flush().await.unwrap();
            let body: &[u8] = body.await.unwrap();
            for piece in [body, b"trailers"] {
                io.write_all(piece).await.unwrap();
                io.flush().await.unwrap();
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            io.write_all(b"next").await.unwrap();
        });
        let connection = tokio::spawn(connection);
        let caller = tokio::spawn(async { body_sender.send(&b"body"[..]) });
        caller.await.unwrap().unwrap();
        connection.await.unwrap();
        assert_eq!(*writes.lock().unwrap(), [16, 4]);
        let mut got = String::new();
        far.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "headbodytrailersnext");
    }

    #[tokio::test]
    async fn order_is_kept_across_small_and_large_pieces_and_a_slow_peer() {
        let (near, mut far, _) = counted(1000);
        let (mut io, handle) = cork(near);
        let pieces: Vec<Vec<u8>> = [10, LARGE, 5, FULL - 1, 3, LARGE - 1, 2 * FULL, 1]
            .iter()
            .enumerate()
            .map(|(index, length)| vec![u8::try_from(index).unwrap(); *length])
            .collect();
        let expected = pieces.concat();
        let writing = handle.drive(async move {
            for piece in &pieces {
                io.write_all(piece).await.unwrap();
            }
            io.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        let (read, ()) = tokio::join!(far.read_to_end(&mut got), writing);
        read.unwrap();
        assert!(got == expected);
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_fails_the_next_write() {
        let (near, far, _) = counted(1000);
        let (mut io, handle) = cork(near);
        drop(far);
        let failed = handle.drive(async move {
            io.write_all(b"lost").await.unwrap();
            loop {
                tokio::task::yield_now().await;
                if let Err(error) = io.flush().await {
                    return error.kind();
                }
            }
        });
        assert_eq!(failed.await, io::ErrorKind::BrokenPipe);
    }
}
