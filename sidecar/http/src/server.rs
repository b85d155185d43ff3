//! Serving connections: HTTP/1.1, and HTTP/2 cleartext where allowed.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use outrigger_sidecar_core::accept::{Accepted, Socket, accept};
use tokio_util::sync::CancellationToken;

use crate::HttpApi;
use crate::linger::Lingering;
use crate::spans::Remote;

/// Time a client may take to send a request's head (contract `http-api`, section 1).
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Go adds this to its header limit.
const HEADER_SLACK: usize = 4096;

/// Smallest buffer that hyper accepts.
const MIN_BUFFER: usize = 8192;

/// Which of the two HTTP listeners a connection came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// Everything.
    Api,
    /// Health and metadata only, without authentication.
    Public,
}

/// Serves a listener until the token is cancelled, then lets in-flight requests end (at most 10 s).
pub async fn serve(
    api: Arc<HttpApi>,
    listener: Listener,
    socket: impl Into<Socket>,
    stop: CancellationToken,
) {
    accept("HTTP", socket.into(), stop, |accepted| {
        connection(api.clone(), listener, accepted)
    })
    .await;
}

async fn connection(api: Arc<HttpApi>, listener: Listener, accepted: Accepted) {
    let Accepted {
        stream,
        remote,
        drain,
    } = accepted;
    let mut builder = Builder::new(TokioExecutor::new());
    let head = api.options.read_buffer_size.saturating_add(HEADER_SLACK);
    // Not `pipeline_flush`: with it, refusals of a head that is too large or no HTTP (431, 400) never get out, because
    // the rest of that head is still in the buffer.
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_buf_size(head.max(MIN_BUFFER))
        // No pipeline_flush: with it hyper never writes the answer to a request whose body nobody reads.
        .half_close(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(head).unwrap_or(u32::MAX));
    let builder = if listener == Listener::Public || !api.options.h2c {
        builder.http1_only()
    } else {
        builder
    };
    let service = service_fn(move |mut request: Request<Incoming>| {
        let api = api.clone();
        // Only spans tell it.
        if let Some(remote) = remote.filter(|_| api.core.tracing.spans().is_on()) {
            request.extensions_mut().insert(Remote(remote));
        }
        async move { Ok::<_, std::convert::Infallible>(api.handle(listener, remote, request).await) }
    });
    let connection = builder.serve_connection(TokioIo::new(Lingering::new(stream)), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "HTTP connection ended");
    }
}
