//! Serving HTTP/2 connections of the gRPC servers.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use outrigger_sidecar_core::accept::{Socket, accept};
use outrigger_sidecar_core::cork::cork;
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
    accept("gRPC", socket.into(), stop, |accepted| {
        connection(api.clone(), server, accepted.stream, accepted.drain)
    })
    .await;
}

async fn connection<S>(api: Arc<GrpcApi>, server: Server, stream: S, drain: CancellationToken)
where
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
    let service = service_fn(move |request| {
        let api = api.clone();
        async move { Ok::<_, std::convert::Infallible>(api.handle(server, request).await) }
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
