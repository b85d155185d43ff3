//! Serving HTTP/2 connections of the gRPC servers.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use outrigger_identity::{Acceptor, Authorise};
use outrigger_sidecar_core::accept::{Socket, accept};
use outrigger_sidecar_core::cork::cork;
use outrigger_sidecar_core::invoke::access::PeerCaller;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::{GrpcApi, Server};

/// Ping after this idle time, and the time an answer may take (contract `service-invocation`, section 1).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
const MAX_STREAMS: u32 = 4096;

/// Serves a listener until the token is cancelled, then lets in-flight calls end (at most 10 s).
pub async fn serve(api: Arc<GrpcApi>, server: Server, socket: impl Into<Socket>, stop: CancellationToken) {
    // The app speaks plain text; other sidecars prove who they are, and each call is judged by it.
    let acceptor = match server {
        Server::Api => Acceptor::plain(),
        Server::Internal => api.core.security.acceptor(Authorise::Any),
    };
    accept("gRPC", socket.into(), stop, |accepted| {
        let (api, acceptor) = (api.clone(), acceptor.clone());
        async move {
            let shaken = tokio::select! {
                shaken = acceptor.accept(accepted.stream) => shaken,
                () = accepted.drain.cancelled() => return,
            };
            match shaken {
                Ok((stream, peer)) => {
                    let caller = peer.as_ref().map(PeerCaller::from);
                    connection(api, server, stream, caller, accepted.drain).await;
                }
                Err(error) => {
                    let from = accepted.remote.map(|address| address.to_string()).unwrap_or_default();
                    tracing::info!(target: "dapr.runtime.security", %from, "a connection is refused: {error}");
                }
            }
        }
    })
    .await;
}

async fn connection<S>(
    api: Arc<GrpcApi>,
    server: Server,
    stream: S,
    caller: Option<PeerCaller>,
    drain: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        // gRPC has no date, and metadata travels on to callers.
        .auto_date_header(false)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(api.options.max_headers);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let api = api.clone();
        if let Some(caller) = &caller {
            request.extensions_mut().insert(caller.clone());
        }
        // Boxed, as hyper and the runtime move the future of a call eight times, and hold it twice over.
        Box::pin(async move { Ok::<_, std::convert::Infallible>(api.handle(server, request).await) })
    });
    let (io, handle) = cork(stream);
    let connection = builder.serve_connection(TokioIo::new(io), service);
    let served = async {
        tokio::pin!(connection);
        tokio::select! {
            result = connection.as_mut() => result,
            () = drain.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    if let Err(error) = handle.drive(served).await {
        tracing::debug!(%error, "gRPC connection ended");
    }
}
