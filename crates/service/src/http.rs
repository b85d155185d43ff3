//! An HTTP server for `warp` filters with what `warp::serve` lacks: a bound on connections, a limit on how long a
//! head may take, TLS, and a drain.

use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warp::Filter;
use warp::reply::Reply;

/// More connections than this wait for their turn.
const MAX_CONNECTIONS: usize = 512;
/// How long a request's head, or a TLS handshake, may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a server cannot listen.
#[derive(Debug, Error)]
#[error("failed to start {what} on {address}: {source}; choose another port or listen address")]
pub struct BindError {
    /// Which server.
    pub what: &'static str,
    /// The address.
    pub address: String,
    /// Why.
    pub source: std::io::Error,
}

/// Listens on a TCP port. An empty address stands for all, of both IP versions where the host has both; an IPv6
/// address may be in brackets.
///
/// # Errors
/// If the address cannot be listened on.
pub async fn listen(what: &'static str, address: &str, port: u16) -> Result<TcpListener, BindError> {
    let host = address.trim_start_matches('[').trim_end_matches(']');
    let bound = if host.is_empty() {
        match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
            Ok(listener) => Ok(listener),
            Err(_) => TcpListener::bind(("0.0.0.0", port)).await,
        }
    } else {
        TcpListener::bind((host, port)).await
    };
    bound.map_err(|source| BindError {
        what,
        address: format!("{address}:{port}"),
        source,
    })
}

/// A server that listens but does not serve yet.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<rustls::ServerConfig>>,
}

impl HttpServer {
    /// Listens; see [`listen`].
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn bind(what: &'static str, address: &str, port: u16) -> Result<Self, BindError> {
        let listener = listen(what, address, port).await?;
        let address = listener.local_addr().map_err(|source| BindError {
            what,
            address: format!("{address}:{port}"),
            source,
        })?;
        Ok(Self {
            listener,
            address,
            tls: None,
        })
    }

    /// The same over TLS. A certificate that changes is the business of the configuration's resolver.
    #[must_use]
    pub fn tls(mut self, config: Arc<rustls::ServerConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until stopped; requests under way are finished.
    pub async fn serve<F>(self, filter: F, stop: CancellationToken)
    where
        F: Filter<Error = Infallible> + Clone + Send + Sync + 'static,
        F::Extract: Reply,
        F::Future: Future + Send,
    {
        let connections = TaskTracker::new();
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let tls = self.tls.map(TlsAcceptor::from);
        loop {
            let slot = tokio::select! {
                slot = Arc::clone(&slots).acquire_owned() => slot.expect("the semaphore is never closed"),
                () = stop.cancelled() => break,
            };
            let stream = tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::debug!(%error, "connection not accepted");
                        // Out of file descriptors, most likely: do not spin.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
                () = stop.cancelled() => break,
            };
            let (filter, tls, stop) = (filter.clone(), tls.clone(), stop.clone());
            connections.spawn(async move {
                connection(stream, tls, filter, &stop).await;
                drop(slot);
            });
        }
        connections.close();
        connections.wait().await;
    }
}

async fn connection<F>(stream: TcpStream, tls: Option<TlsAcceptor>, filter: F, stop: &CancellationToken)
where
    F: Filter<Error = Infallible> + Clone + Send + Sync + 'static,
    F::Extract: Reply,
    F::Future: Future + Send,
{
    let result = match tls {
        None => requests(stream, filter, stop).await,
        Some(acceptor) => match tokio::time::timeout(HEAD_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => requests(stream, filter, stop).await,
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no TLS handshake within {HEAD_TIMEOUT:?}")),
        },
    };
    if let Err(error) = result {
        tracing::debug!("connection failed: {error}");
    }
}

async fn requests<F, S>(stream: S, filter: F, stop: &CancellationToken) -> Result<(), String>
where
    F: Filter<Error = Infallible> + Clone + Send + Sync + 'static,
    F::Extract: Reply,
    F::Future: Future + Send,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    let service = TowerToHyperService::new(warp::service(filter));
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let result = tokio::select! {
        result = &mut serving => result,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    result.map_err(|error| error.to_string())
}
