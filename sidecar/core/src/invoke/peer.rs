//! Connections to other sidecars' internal API: pooled by address, re-made on failure, closed when idle
//! (contract `service-invocation`, section 4). With mTLS, a connection is good for the one app that its certificate names.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use outrigger_identity::{Conn, Dialer, HandshakeError, Security};
use outrigger_model::GrpcCode;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::InvokeError;
use crate::cork::{Cork, cork};
use crate::{Body, BodyError};

/// Requests that share a connection before another one is opened.
const MAX_IN_FLIGHT: usize = 2048;
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Flow control: enough for a large body on a fast network, little enough for many peers.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// A sidecar to call: where it is, and whose it has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerTarget<'a> {
    /// `host:port` of its internal server.
    pub address: &'a str,
    /// The namespace of its app.
    pub namespace: &'a str,
    /// Its app.
    pub app_id: &'a str,
}

/// Connections to all peers.
pub struct Peers {
    /// Several at one address only while an address changes hands, or if somebody answers wrongly.
    by_address: Mutex<HashMap<String, Vec<Arc<Peer>>>>,
    security: Security,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    max_idle: Duration,
}

struct Peer {
    namespace: String,
    app_id: String,
    dialer: Dialer,
    connections: Mutex<Vec<Arc<Connection>>>,
    dialing: tokio::sync::Mutex<()>,
}

struct Connection {
    sender: SendRequest<Body>,
    in_flight: AtomicUsize,
    last_used: Mutex<Instant>,
    close: CancellationToken,
}

/// Runs what hyper splits off: first the task that reads and writes the connection, then pieces of requests.
/// All end with the connection.
#[derive(Clone)]
struct PeerExecutor {
    tasks: TaskTracker,
    close: CancellationToken,
    cork: Arc<Mutex<Option<Cork<Conn<TcpStream>>>>>,
}

impl<F> hyper::rt::Executor<F> for PeerExecutor
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        let handle = self.cork.lock().unwrap_or_else(PoisonError::into_inner).take();
        match handle {
            Some(handle) => {
                let close = self.close.clone();
                self.tasks.spawn(async move {
                    tokio::select! {
                        _ = handle.drive(future) => {}
                        () = close.cancelled() => {}
                    }
                });
            }
            // Ends when the connection's task does, since that fails every stream.
            None => drop(self.tasks.spawn(future)),
        }
    }
}

/// Counts a request on its connection for as long as its answer is read.
pub struct Lease(Arc<Connection>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        *self.0.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

impl Peers {
    /// No connections yet; connection tasks are tracked by `tasks` and end with `shutdown`.
    pub fn new(
        security: Security,
        tasks: TaskTracker,
        shutdown: CancellationToken,
        max_idle: Duration,
    ) -> Self {
        Self {
            by_address: Mutex::new(HashMap::new()),
            security,
            tasks,
            shutdown,
            max_idle,
        }
    }

    /// Sends a request to a peer; the lease is to be kept until the answer has been read.
    ///
    /// # Errors
    /// `Unavailable` when the peer cannot be reached, is not the one we want, or the connection breaks.
    pub async fn send(
        &self,
        target: PeerTarget<'_>,
        request: Request<Body>,
    ) -> Result<(Response<Incoming>, Lease), InvokeError> {
        let address = target.address;
        let connection = self.connection(target).await?;
        connection.in_flight.fetch_add(1, Ordering::Relaxed);
        let lease = Lease(connection);
        let mut sender = lease.0.sender.clone();
        let failed = |error: &hyper::Error| {
            if request_body_failed(error) {
                return InvokeError::internal(BodyError::TooLarge.to_string());
            }
            InvokeError::status(
                GrpcCode::Unavailable,
                format!("connection to {address} failed: {}", with_source(error)),
            )
        };
        sender.ready().await.map_err(|error| failed(&error))?;
        match sender.send_request(request).await {
            Ok(response) => Ok((response, lease)),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Drops the connections to a peer, so that the next call dials anew.
    pub fn forget(&self, address: &str) {
        let peers = self
            .by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(address);
        for peer in peers.into_iter().flatten() {
            for connection in peer
                .connections
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .drain(..)
            {
                connection.retire();
            }
        }
    }

    /// Closes connections that have been idle for too long, every `interval`, until shutdown.
    pub async fn collect_idle(self: Arc<Self>, interval: Duration) {
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(interval) => {}
            }
            let mut peers = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
            peers.retain(|_, peers| {
                peers.retain(|peer| peer.keeps_any(self.max_idle) || Arc::strong_count(peer) > 1);
                !peers.is_empty()
            });
        }
    }

    fn peer(&self, target: PeerTarget<'_>) -> Arc<Peer> {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if !by_address.contains_key(target.address) {
            by_address.insert(target.address.to_owned(), Vec::new());
        }
        let peers = by_address.get_mut(target.address).expect("it is there now");
        // In plain text nobody knows who answers, and one connection serves all.
        let is_plain = !self.security.mtls();
        let known = peers
            .iter()
            .find(|peer| is_plain || (peer.app_id == target.app_id && peer.namespace == target.namespace));
        if let Some(known) = known {
            return Arc::clone(known);
        }
        let peer = Arc::new(Peer {
            namespace: target.namespace.to_owned(),
            app_id: target.app_id.to_owned(),
            dialer: self.security.to_app(target.namespace, target.app_id),
            connections: Mutex::default(),
            dialing: tokio::sync::Mutex::default(),
        });
        peers.push(Arc::clone(&peer));
        peer
    }

    async fn connection(&self, target: PeerTarget<'_>) -> Result<Arc<Connection>, InvokeError> {
        let peer = self.peer(target);
        if let Some(connection) = peer.usable() {
            return Ok(connection);
        }
        let _one_at_a_time = peer.dialing.lock().await;
        if let Some(connection) = peer.usable() {
            return Ok(connection);
        }
        let connection = Arc::new(self.dial(target.address, &peer.dialer).await?);
        peer.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection.clone());
        Ok(connection)
    }

    async fn dial(&self, address: &str, dialer: &Dialer) -> Result<Connection, InvokeError> {
        let unavailable = |text: String| {
            let text = format!(
                "connection error: desc = \"transport: Error while dialing: dial tcp {address}: {text}\""
            );
            InvokeError::status(GrpcCode::Unavailable, text)
        };
        let stream = tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(address))
            .await
            .map_err(|_| unavailable("i/o timeout".into()))?
            .map_err(|error| unavailable(go_dial_error(&error)))?;
        let _ = stream.set_nodelay(true);
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let handshake = dialer.handshaker().handshake(host, stream).await;
        let stream = handshake.map_err(|error| handshake_failed(&error))?;
        let close = self.shutdown.child_token();
        let (io, handle) = cork(stream);
        let executor = PeerExecutor {
            tasks: self.tasks.clone(),
            close: close.clone(),
            cork: Arc::new(Mutex::new(Some(handle))),
        };
        let (sender, connection) = Builder::new(executor)
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake::<_, Body>(TokioIo::new(io))
            .await
            .map_err(|error| unavailable(with_source(&error)))?;
        let (closed, peer) = (close.clone(), address.to_owned());
        self.tasks.spawn(async move {
            // A retired connection ends by itself once its last sender and stream are gone.
            tokio::select! {
                result = connection => {
                    if let Err(error) = result {
                        tracing::debug!(%error, %peer, "connection to a sidecar ended");
                    }
                }
                () = closed.cancelled() => {}
            }
        });
        Ok(Connection {
            sender,
            in_flight: AtomicUsize::new(0),
            last_used: Mutex::new(Instant::now()),
            close,
        })
    }
}

impl Peer {
    /// Drops connections that are closed or idle for too long; whether any is left.
    fn keeps_any(&self, max_idle: Duration) -> bool {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|connection| {
            let keep = !connection.sender.is_closed() && !connection.is_idle_for(max_idle);
            if !keep {
                connection.retire();
            }
            keep
        });
        !connections.is_empty()
    }

    fn usable(&self) -> Option<Arc<Connection>> {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|connection| !connection.sender.is_closed());
        connections
            .iter()
            .find(|connection| connection.in_flight.load(Ordering::Relaxed) < MAX_IN_FLIGHT)
            .cloned()
    }
}

impl Connection {
    fn is_idle_for(&self, limit: Duration) -> bool {
        self.in_flight.load(Ordering::Relaxed) == 0
            && self
                .last_used
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .elapsed()
                >= limit
    }

    /// Stops the connection's task if nothing is in flight on it; otherwise it ends with its last request.
    fn retire(&self) {
        if self.in_flight.load(Ordering::Relaxed) == 0 {
            self.close.cancel();
        }
    }
}

/// A peer that is not who it should be, in the words that wrap it upstream.
fn handshake_failed(error: &HandshakeError) -> InvokeError {
    InvokeError::status(
        GrpcCode::Unavailable,
        format!("connection error: desc = \"transport: authentication handshake failed: {error}\""),
    )
}

/// An I/O error as Go's dialer words it, for the texts that users know.
pub fn go_dial_error(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        std::io::ErrorKind::TimedOut => "i/o timeout".into(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
        std::io::ErrorKind::ConnectionReset => "connect: connection reset by peer".into(),
        _ => error.to_string(),
    }
}

/// Whether the stream was reset by this side because the request's body could not be read to its end. What was wrong
/// with it gets lost on the way; a caller that is still there to be told has sent too much.
fn request_body_failed(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            return error.is_reset() && !error.is_remote() && !error.is_library();
        }
        source = cause.source();
    }
    false
}

/// An error with its causes.
pub fn with_source(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
