//! Closing a connection without losing the last answer.
//!
//! An answer may be given before the request's body has been read: it is too large, or nobody wanted it. Closing the
//! socket at once with bytes unread makes the kernel reset the connection, and a client that is still sending
//! never sees the answer. So, as Go's server does, only the sending side is closed at first, and what still
//! comes is read and thrown away for a moment.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How long the client gets to read the answer.
const LINGER: Duration = Duration::from_millis(500);

/// A stream that is closed gently while the client is sending, and at once when it is silent: an idle connection does
/// not hold up the end of the process.
pub(crate) struct Lingering<S> {
    stream: S,
    /// The last read brought something; with an idle connection it waits.
    is_receiving: bool,
    closing: Option<Pin<Box<Sleep>>>,
}

impl<S> Lingering<S> {
    pub(crate) const fn new(stream: S) -> Self {
        Self {
            stream,
            is_receiving: false,
            closing: None,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.is_receiving = polled.is_ready() && buf.filled().len() > before;
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.closing.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if !this.is_receiving {
                return Poll::Ready(Ok(()));
            }
        }
        let deadline = this
            .closing
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        let mut scratch = [0_u8; 4096];
        loop {
            if deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut buf = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                // The client has closed, or is gone: nothing is left to lose.
                Ok(()) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    #[tokio::test]
    async fn what_still_comes_is_read_until_the_client_closes() {
        let (mut client, server): (DuplexStream, _) = tokio::io::duplex(64);
        let mut server = Lingering::new(server);
        let sending = async {
            // Far more than fits into the pipe: this only ends if the other side reads.
            client.write_all(&[0; 100_000]).await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            drop(client);
            answer
        };
        let closing = async {
            server.read_exact(&mut [0; 10]).await.unwrap();
            server.write_all(b"answer").await.unwrap();
            server.shutdown().await.unwrap();
        };
        let (answer, ()) = tokio::join!(sending, closing);
        assert_eq!(answer, "answer");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_closes_is_left_after_a_moment() {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(b"some").await.unwrap();
        let mut server = Lingering::new(server);
        server.read_exact(&mut [0; 4]).await.unwrap();
        let before = tokio::time::Instant::now();
        server.shutdown().await.unwrap();
        assert_eq!(before.elapsed().as_millis() / 10, LINGER.as_millis() / 10);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_closed_at_once() {
        let (_client, server) = tokio::io::duplex(64);
        let mut server = Lingering::new(server);
        let waiting = tokio::time::timeout(Duration::from_millis(1), server.read_u8()).await;
        assert!(waiting.is_err());
        let before = tokio::time::Instant::now();
        server.shutdown().await.unwrap();
        assert!(before.elapsed().is_zero());
    }
}
