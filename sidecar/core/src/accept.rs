//! Accepting connections, for every server of the sidecar: TCP or Unix socket, an orderly end with a deadline.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Time in-flight calls get once the listener is closed.
const DRAIN: Duration = Duration::from_secs(10);
/// Pause after a failed accept, so that a lack of file descriptors doesn't spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where connections come from.
#[derive(Debug)]
pub enum Socket {
    /// TCP
    Tcp(TcpListener),
    /// A Unix socket
    Unix(UnixListener),
}

impl From<TcpListener> for Socket {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UnixListener> for Socket {
    fn from(listener: UnixListener) -> Self {
        Self::Unix(listener)
    }
}

/// A connection of either kind.
pub type Stream = Either<TcpStream, UnixStream>;

/// A connection that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: Stream,
    /// Who called; `None` on a Unix socket.
    pub remote: Option<SocketAddr>,
    /// Cancelled when the connection is to finish what it is doing and close.
    pub drain: CancellationToken,
}

impl Socket {
    async fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, remote) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                Ok((Either::Left(stream), Some(remote)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Either::Right(stream), None))
            }
        }
    }
}

/// Gives each connection of a listener to `serve` until `stop` is cancelled, then lets in-flight calls end (at most
/// 10 s). `what` names the protocol in log lines.
pub async fn accept<F, Fut>(what: &'static str, socket: Socket, stop: CancellationToken, serve: F)
where
    F: Fn(Accepted) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let connections = TaskTracker::new();
    let drain = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, remote)) => {
                let drain = drain.clone();
                connections.spawn(serve(Accepted {
                    stream,
                    remote,
                    drain,
                }));
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a {what} connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(socket);
    drain.cancel();
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
        tracing::warn!(
            "closing {} {what} connections that are still busy",
            connections.len()
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn connections_are_finished_and_new_ones_refused_once_the_server_stops() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, may_answer) = (CancellationToken::new(), Arc::new(Notify::new()));
        let answer = may_answer.clone();
        let server = tokio::spawn(accept("test", listener.into(), stop.clone(), move |accepted| {
            let answer = answer.clone();
            async move {
                assert!(accepted.remote.is_some());
                let mut stream = accepted.stream;
                accepted.drain.cancelled().await;
                answer.notified().await;
                stream.write_all(b"done").await.unwrap();
            }
        }));
        let mut client = TcpStream::connect(address).await.unwrap();
        // The connection must have been accepted before the server stops.
        tokio::time::sleep(Duration::from_millis(50)).await;
        stop.cancel();
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!server.is_finished());
        may_answer.notify_one();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "done");
        server.await.unwrap();
    }
}
