//! Serving a tonic service: accept, handshake, HTTP/2, an orderly end.

use std::convert::Infallible;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tower_service::Service;

use crate::LOG;
use crate::handshake::Acceptor;

/// Pause after a failed accept, so that a lack of file descriptors doesn't spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How a server behaves. The default is upstream's.
#[derive(Debug, Clone, Copy)]
pub struct ServeOptions {
    /// Ping after this idle time.
    pub keepalive_interval: Duration,
    /// The time an answer to a ping may take.
    pub keepalive_timeout: Duration,
    /// Streams at once on a connection.
    pub max_streams: u32,
    /// Time that calls in flight get once the end has begun.
    pub drain: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
            max_streams: 4096,
            drain: Duration::from_secs(10),
        }
    }
}

/// Serves a gRPC service (one that tonic generated, or a router of several) until `stop`, then lets calls in flight end.
/// Requests carry the [`crate::PeerIdentity`] of their connection in their extensions, which
/// `tonic::Request::extensions` shows; it is absent only if mTLS is off or the server asks nobody for a certificate.
pub async fn grpc<S>(
    listener: TcpListener,
    acceptor: Acceptor,
    service: S,
    options: ServeOptions,
    stop: CancellationToken,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let (connections, drain) = (TaskTracker::new(), CancellationToken::new());
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(connection(
                    stream,
                    acceptor.clone(),
                    service.clone(),
                    options,
                    drain.clone(),
                ));
            }
            Err(error) => {
                tracing::warn!(target: LOG, %error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    drain.cancel();
    connections.close();
    if tokio::time::timeout(options.drain, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            target: LOG,
            "{} connections are closed although they are still busy",
            connections.len()
        );
    }
}

async fn connection<S>(
    stream: TcpStream,
    acceptor: Acceptor,
    service: S,
    options: ServeOptions,
    drain: CancellationToken,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let from = stream
        .peer_addr()
        .map_or_else(|_| "?".to_owned(), |address| address.to_string());
    let _ = stream.set_nodelay(true);
    let accepted = tokio::select! {
        accepted = acceptor.accept(stream) => accepted,
        () = drain.cancelled() => return,
    };
    let (stream, peer) = match accepted {
        Ok(accepted) => accepted,
        Err(error) => {
            tracing::info!(target: LOG, %from, "a connection is refused: {error}");
            return;
        }
    };
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut service = service.clone();
        let mut request = request.map(Body::new);
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        async move { service.call(request).await }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        .max_concurrent_streams(options.max_streams);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(target: LOG, %error, %from, "a connection ended");
    }
}
