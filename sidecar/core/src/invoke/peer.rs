//! Connections to other sidecars' internal API: pooled by address, re-made on failure, closed when idle
//! (contract `service-invocation`, section 4). With mTLS, a connection is good for the one app that its certificate names.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::WeakShared;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong};
use http::{Request, Response};
use outrigger_identity::{Dialer, HandshakeError, Security};
use outrigger_model::GrpcCode;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::InvokeError;
use super::exchange::{ExchangeError, PeerBody, exchange};
use crate::Body;
use crate::cork::{Heard, cork};

/// Requests that share a connection before another one is opened.
const MAX_IN_FLIGHT: usize = 2048;
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Flow control: enough for a large body on a fast network, little enough for many peers.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Largest head of an answer, and most bytes of a request that wait for the socket.
const MAX_HEAD: u32 = 16 << 10;
const MAX_SEND_BUFFER: usize = 1 << 20;
/// Streams until the peer has said how many it takes.
const FIRST_STREAMS: usize = 100;
/// Streams with errors of ours that are forgiven before the connection is given up.
const LOCAL_RESETS: usize = 1024;

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
    /// What is under way, for all who need a connection now; those who wait for it keep it going.
    dialing: Mutex<Option<WeakShared<Dialing>>>,
}

/// A connection on its way.
type Dialing = Pin<Box<dyn Future<Output = Result<Arc<Connection>, InvokeError>> + Send>>;

struct Connection {
    sender: SendRequest<Bytes>,
    in_flight: AtomicUsize,
    last_used: Mutex<Instant>,
    /// Ends the connection's task, and is cancelled at its end.
    close: CancellationToken,
}

impl Drop for Connection {
    /// `h2` does not notice by itself that nobody can send any more.
    fn drop(&mut self) {
        self.close.cancel();
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

    /// Makes sure that there is a connection to a peer.
    ///
    /// # Errors
    /// `Unavailable` when the peer cannot be reached or is not the one we want.
    pub async fn connect(&self, target: PeerTarget<'_>) -> Result<(), InvokeError> {
        self.connection(target).await.map(drop)
    }

    /// Sends a request to a peer; the lease is to be kept until the answer has been read.
    ///
    /// # Errors
    /// `Unavailable` when the peer cannot be reached, is not the one we want, or the connection breaks.
    pub async fn send(
        &self,
        target: PeerTarget<'_>,
        request: Request<Body>,
    ) -> Result<(Response<PeerBody>, Lease), InvokeError> {
        let address = target.address;
        let failed = |error: &h2::Error| {
            InvokeError::status(
                GrpcCode::Unavailable,
                format!("connection to {address} failed: {error}"),
            )
        };
        loop {
            let (connection, is_fresh) = self.connection(target).await?;
            connection.in_flight.fetch_add(1, Ordering::Relaxed);
            let lease = Lease(connection);
            let mut sender = lease.0.sender.clone();
            if let Err(error) = std::future::poll_fn(|cx| sender.poll_ready(cx)).await {
                // The peer is closing it; nothing was sent.
                lease.0.close.cancel();
                if is_fresh {
                    return Err(failed(&error));
                }
                continue;
            }
            return match exchange(&mut sender, request, &self.tasks).await {
                Ok(response) => Ok((response, lease)),
                Err(ExchangeError::Body(error)) => Err(InvokeError::internal(error.to_string())),
                Err(ExchangeError::Stream(error)) => Err(failed(&error)),
            };
        }
    }

    /// Drops the connections to a peer, so that the next call dials anew, or waits with others who do.
    pub fn forget(&self, address: &str) {
        let by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        for peer in by_address.get(address).into_iter().flatten() {
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
            dialing: Mutex::default(),
        });
        peers.push(Arc::clone(&peer));
        peer
    }

    /// A connection, and whether it was made just now. All who find none wait for one and the same dial, and share its
    /// failure as well.
    async fn connection(&self, target: PeerTarget<'_>) -> Result<(Arc<Connection>, bool), InvokeError> {
        let peer = self.peer(target);
        if let Some(connection) = peer.usable() {
            return Ok((connection, false));
        }
        loop {
            let dialing = {
                let mut dialing = peer.dialing.lock().unwrap_or_else(PoisonError::into_inner);
                // One may have ended since.
                if let Some(connection) = peer.usable() {
                    return Ok((connection, false));
                }
                let under_way = dialing.as_ref().and_then(WeakShared::upgrade);
                under_way
                    .filter(|dialing| dialing.peek().is_none())
                    .unwrap_or_else(|| {
                        let started = self.dialing(&peer, target.address).shared();
                        *dialing = started.downgrade();
                        started
                    })
            };
            let connection = dialing.await?;
            // If very many waited for it, others are to have one of their own.
            if connection.has_room() {
                return Ok((connection, true));
            }
        }
    }

    /// Opens a connection and adds it to those of its peer.
    fn dialing(&self, peer: &Arc<Peer>, address: &str) -> Dialing {
        let (peer, address) = (Arc::clone(peer), address.to_owned());
        let (tasks, close) = (self.tasks.clone(), self.shutdown.child_token());
        Box::pin(async move {
            let connection = Arc::new(Connection::dial(&address, &peer.dialer, tasks, close).await?);
            peer.connections
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(connection.clone());
            Ok(connection)
        })
    }
}

/// Resolves when nothing has been heard of the peer for a while, and a ping is not answered either.
async fn silent<S>(heard: Heard<S>, pings: Option<PingPong>) {
    let Some(mut pings) = pings else {
        return std::future::pending().await;
    };
    loop {
        let due = heard.last() + KEEPALIVE_INTERVAL;
        if Instant::now() < due {
            tokio::time::sleep_until(due).await;
            continue;
        }
        let pong = tokio::time::timeout(KEEPALIVE_TIMEOUT, pings.ping(Ping::opaque()));
        match pong.await {
            Ok(Ok(_)) => {}
            // What is wrong with the connection ends it by itself.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

impl Peer {
    /// Drops connections that are closed or idle for too long; whether any is left.
    fn keeps_any(&self, max_idle: Duration) -> bool {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|connection| {
            let keep = !connection.close.is_cancelled() && !connection.is_idle_for(max_idle);
            if !keep {
                connection.retire();
            }
            keep
        });
        !connections.is_empty()
    }

    fn usable(&self) -> Option<Arc<Connection>> {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|connection| !connection.close.is_cancelled());
        connections
            .iter()
            .find(|connection| connection.has_room())
            .cloned()
    }
}

impl Connection {
    async fn dial(
        address: &str,
        dialer: &Dialer,
        tasks: TaskTracker,
        close: CancellationToken,
    ) -> Result<Self, InvokeError> {
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
        let (io, cork) = cork(stream);
        let heard = cork.heard();
        let handshake = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEAD)
            .max_send_buffer_size(MAX_SEND_BUFFER)
            .initial_max_send_streams(FIRST_STREAMS)
            .max_local_error_reset_streams(Some(LOCAL_RESETS))
            .enable_push(false)
            .handshake::<_, Bytes>(io);
        let (sender, mut connection) = handshake.await.map_err(|error| unavailable(error.to_string()))?;
        // It is taken here only.
        let pings = connection.ping_pong();
        let (closed, peer) = (close.clone(), address.to_owned());
        tasks.spawn(async move {
            tokio::select! {
                biased;
                result = cork.drive(connection) => {
                    if let Err(error) = result {
                        tracing::debug!(%error, %peer, "connection to a sidecar ended");
                    }
                }
                () = closed.cancelled() => {}
                () = silent(heard, pings) => tracing::debug!(%peer, "a sidecar does not answer pings any more"),
            }
            closed.cancel();
        });
        Ok(Self {
            sender,
            in_flight: AtomicUsize::new(0),
            last_used: Mutex::new(Instant::now()),
            close,
        })
    }

    fn has_room(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) < MAX_IN_FLIGHT
    }

    fn is_idle_for(&self, limit: Duration) -> bool {
        self.in_flight.load(Ordering::Relaxed) == 0
            && self
                .last_used
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .elapsed()
                >= limit
    }

    /// Stops the connection's task if nothing is in flight on it; otherwise its last request does, by letting go of it.
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

#[cfg(test)]
mod tests {
    use outrigger_identity::ControlPlane;
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn peers() -> Peers {
        let control_plane = ControlPlane::new("cluster.local", "dapr-system").unwrap();
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let idle = Duration::from_secs(180);
        Peers::new(Security::disabled(control_plane), tasks, shutdown, idle)
    }

    async fn call(peers: &Peers, address: &str) -> Result<http::StatusCode, InvokeError> {
        let target = PeerTarget {
            address,
            namespace: "n",
            app_id: "a",
        };
        let request = Request::post(format!("http://{address}/p"))
            .body(Body::full("x"))
            .unwrap();
        let (response, _lease) = tokio::time::timeout(LIMIT, peers.send(target, request))
            .await
            .expect("no hang")?;
        Ok(response.status())
    }

    #[tokio::test]
    async fn a_peer_that_closes_its_connection_in_order_is_called_over_a_new_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = tokio::spawn(async move {
            let mut accepted = 0;
            while accepted < 3 {
                accepted += 1;
                let (stream, _) = listener.accept().await.unwrap();
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
                respond.send_response(Response::new(()), true).unwrap();
                connection.graceful_shutdown();
                while connection.accept().await.is_some() {}
            }
        });
        let peers = peers();
        for _ in 0..3 {
            assert_eq!(call(&peers, &address).await.unwrap(), 200);
        }
        serving.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_wait_for_a_peer_that_does_not_answer_hear_so_at_once() {
        // A queue that is full, so that nothing answers any more.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        let patience = Duration::from_millis(200);
        while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, patience) {
            queued.push(stream);
        }
        let (peers, address) = (peers(), address.to_string());
        let started = Instant::now();
        let calls = (0..5).map(|number| {
            let (peers, address) = (&peers, &address);
            async move {
                tokio::time::sleep(Duration::from_secs(number)).await;
                if number == 3 {
                    // Whoever waits goes on waiting, and those who come later with them.
                    peers.forget(address);
                }
                let target = PeerTarget {
                    address,
                    namespace: "n",
                    app_id: "a",
                };
                peers.connect(target).await.unwrap_err()
            }
        });
        for error in futures_util::future::join_all(calls).await {
            assert_eq!(error.code, GrpcCode::Unavailable);
            assert!(error.message.ends_with("i/o timeout\""), "{error}");
        }
        let took = started.elapsed();
        assert!(took < DIAL_TIMEOUT + Duration::from_secs(1), "{took:?}");
    }

    /// Watches over a connection; how long it took until the peer was given up, if it was.
    async fn watched(near: tokio::io::DuplexStream) -> Option<Duration> {
        let (io, cork) = cork(near);
        let heard = cork.heard();
        let (sender, mut connection) = h2::client::handshake(io).await.unwrap();
        let pings = connection.ping_pong();
        let started = Instant::now();
        let watch = tokio::time::timeout(Duration::from_secs(100), silent(heard, pings));
        let result = tokio::select! {
            _ = cork.drive(connection) => panic!("the connection does not end by itself"),
            result = watch => result,
        };
        drop(sender);
        result.ok().map(|()| started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_answers_no_ping_is_given_up_and_one_that_does_is_kept() {
        let (near, _far) = tokio::io::duplex(1 << 16);
        let given_up = watched(near).await.expect("it is given up");
        assert_eq!(
            given_up.as_secs(),
            (KEEPALIVE_INTERVAL + KEEPALIVE_TIMEOUT).as_secs()
        );

        let (near, far) = tokio::io::duplex(1 << 16);
        let serving = tokio::spawn(async move {
            let mut connection = h2::server::handshake(far).await.unwrap();
            let _ = connection.accept().await;
        });
        assert_eq!(watched(near).await, None);
        serving.abort();
    }
}
