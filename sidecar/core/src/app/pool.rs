//! Kept-alive HTTP/1.1 connections to the app.
//!
//! A call takes an idle connection or opens one, and its answer's body brings it back. Against a general client this
//! spares a request several allocations, a channel, a task that waits for the connection to be free again and the
//! locks around them; what it cannot do (TLS, HTTP/2) is left to that client.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HOST;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Request, Response, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::{Body, BodyError};

/// Connections at the same time (contract `http-api`, section 8); further calls wait for one.
pub(super) const MAX_CONNECTIONS: usize = 1024;
/// Idle connections that are kept, and for how long.
const MAX_IDLE: usize = 64;
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// Why a call failed before the head of its answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum PoolError {
    /// No connection.
    #[error("{0}")]
    Connect(#[from] io::Error),
    /// The exchange.
    #[error("{0}")]
    Exchange(#[from] hyper::Error),
}

/// Connections to one address.
pub(super) struct Pool {
    shared: Arc<Shared>,
    host: String,
    port: u16,
    host_header: HeaderValue,
    builder: Builder,
    /// Places for connections; the task of a connection holds its place.
    room: Arc<Semaphore>,
    tasks: TaskTracker,
    /// Ends the connections with the pool.
    closing: DropGuard,
}

#[derive(Default)]
struct Shared(Mutex<Connections>);

#[derive(Default)]
struct Connections {
    /// The one that was used last is taken first.
    idle: Vec<Idle>,
    /// Calls that found neither a connection nor a place for one, in their order.
    waiting: VecDeque<oneshot::Sender<SendRequest<Body>>>,
}

struct Idle {
    sender: SendRequest<Body>,
    since: Instant,
}

impl Pool {
    /// To `authority`; heads of answers have at most `max_head` bytes.
    pub(super) fn new(authority: &Authority, max_head: usize) -> Option<Self> {
        let mut builder = Builder::new();
        builder.title_case_headers(true).max_buf_size(max_head);
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        Some(Self {
            shared: Arc::default(),
            host: host.to_owned(),
            port: authority.port_u16()?,
            host_header: HeaderValue::from_str(authority.as_str()).ok()?,
            builder,
            room: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new().drop_guard(),
        })
    }

    /// Makes a call. A kept connection that the app closed in the meantime is replaced.
    pub(super) async fn call(&self, mut request: Request<Body>) -> Result<Response<Returning>, PoolError> {
        if !request.headers().contains_key(HOST) {
            request.headers_mut().insert(HOST, self.host_header.clone());
        }
        *request.uri_mut() = origin_form(request.uri());
        loop {
            let (mut sender, is_fresh) = match self.kept().await {
                Some(sender) => (sender, false),
                // Boxed: rare, and larger than all the rest.
                None => Box::pin(self.obtain()).await?,
            };
            match sender.ready().await {
                Ok(()) => {}
                Err(error) if is_fresh => return Err(error.into()),
                Err(_) => continue,
            }
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(self.returning(response, sender)),
                Err(mut failed) => match failed.take_message() {
                    // Nothing of it was sent.
                    Some(unsent) if !is_fresh => request = unsent,
                    _ => return Err(failed.into_error().into()),
                },
            }
        }
    }

    /// A connection that takes a request at once.
    async fn kept(&self) -> Option<SendRequest<Body>> {
        let (taken, some_are_busy) = self.shared.take();
        if taken.is_some() || !some_are_busy {
            return taken;
        }
        // One that came back with the end of its answer may need one more turn of its task.
        tokio::task::yield_now().await;
        self.shared.take().0
    }

    /// A new connection, or one that comes back while there is no place for another; and whether it is new.
    async fn obtain(&self) -> Result<(SendRequest<Body>, bool), PoolError> {
        let place = match self.room.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                let returned = match self.shared.wait() {
                    Ok(sender) => return Ok((sender, false)),
                    Err(returned) => returned,
                };
                tokio::select! {
                    biased;
                    Ok(sender) = returned => return Ok((sender, false)),
                    place = self.room.clone().acquire_owned() => place.expect("it is never closed"),
                }
            }
        };
        Ok((self.connect(place).await?, true))
    }

    async fn connect(&self, place: OwnedSemaphorePermit) -> Result<SendRequest<Body>, PoolError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = self.builder.handshake(TokioIo::new(stream)).await?;
        let closing = self.closing.token().clone();
        self.tasks.spawn(async move {
            // How it ends is told to whoever uses it.
            let _ = closing.run_until_cancelled(connection).await;
            drop(place);
        });
        Ok(sender)
    }

    fn returning(&self, response: Response<Incoming>, sender: SendRequest<Body>) -> Response<Returning> {
        response.map(|body| {
            let mut returning = Returning {
                ended: body.is_end_stream(),
                body,
                sender: Some(sender),
                pool: Arc::downgrade(&self.shared),
            };
            if returning.ended {
                returning.give_back();
            }
            returning
        })
    }
}

/// The path and query, which is all that a server is told.
fn origin_form(uri: &Uri) -> Uri {
    let path = uri.path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    Uri::from(path)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that is ready, and whether there are others that are not: an app may answer before it has read the
    /// request, and nobody is to wait for the rest of somebody else's upload.
    fn take(&self) -> (Option<SendRequest<Body>>, bool) {
        self.lock().take()
    }

    /// A connection that is ready after all, or the next one that comes back.
    fn wait(&self) -> Result<SendRequest<Body>, oneshot::Receiver<SendRequest<Body>>> {
        let mut connections = self.lock();
        if let (Some(sender), _) = connections.take() {
            return Ok(sender);
        }
        let (sender, receiver) = oneshot::channel();
        let waiting = &mut connections.waiting;
        if waiting.len() == waiting.capacity() {
            // Those who gave up must not fill the memory while nothing comes back.
            waiting.retain(|waiting| !waiting.is_closed());
        }
        waiting.push_back(sender);
        Err(receiver)
    }

    /// To whoever has waited longest, else among the idle ones.
    fn put(&self, mut sender: SendRequest<Body>) {
        if sender.is_closed() {
            return;
        }
        let mut connections = self.lock();
        while let Some(next) = connections.waiting.pop_front() {
            match next.send(sender) {
                Ok(()) => return,
                Err(back) => sender = back,
            }
        }
        if connections.idle.len() < MAX_IDLE {
            let since = Instant::now();
            connections.idle.push(Idle { sender, since });
        }
    }
}

impl Connections {
    fn take(&mut self) -> (Option<SendRequest<Body>>, bool) {
        let idle = &mut self.idle;
        if let Some(last) = idle.last()
            && last.sender.is_ready()
            && last.since.elapsed() < IDLE_TIMEOUT
        {
            return (idle.pop().map(|idle| idle.sender), false);
        }
        idle.retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < IDLE_TIMEOUT);
        match idle.iter().rposition(|idle| idle.sender.is_ready()) {
            Some(at) => (Some(idle.remove(at).sender), false),
            None => (None, !idle.is_empty()),
        }
    }
}

/// An answer's body. At its end the connection goes back; one that is not read to its end closes the connection.
pub(super) struct Returning {
    body: Incoming,
    sender: Option<SendRequest<Body>>,
    pool: Weak<Shared>,
    ended: bool,
}

impl Returning {
    fn give_back(&mut self) {
        if let (Some(sender), Some(pool)) = (self.sender.take(), self.pool.upgrade()) {
            pool.put(sender);
        }
    }
}

impl HttpBody for Returning {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx).map_err(BodyError::from);
        match &polled {
            Poll::Ready(Some(Err(_))) => this.sender = None,
            Poll::Ready(None) => this.ended = true,
            Poll::Ready(Some(Ok(_))) => this.ended = this.body.is_end_stream(),
            Poll::Pending => {}
        }
        if this.ended {
            this.give_back();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// An app that answers `answers` requests on each connection and then closes it; it says which connection it was.
    async fn app(answers: usize) -> (Pool, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = Authority::try_from(listener.local_addr().unwrap().to_string()).unwrap();
        let serving = tokio::spawn(async move {
            for number in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                for _ in 0..answers {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => break,
                        }
                    }
                    let head = String::from_utf8(head).unwrap();
                    if head.is_empty() {
                        break;
                    }
                    assert!(head.starts_with("GET /p?q=1 HTTP/1.1\r\n"), "{head}");
                    assert!(head.contains("\r\nHost: 127.0.0.1:"), "{head}");
                    let body = format!("connection {number}");
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        });
        (Pool::new(&authority, 1 << 16).unwrap(), serving)
    }

    fn request() -> Request<Body> {
        Request::get("http://app/p?q=1").body(Body::Empty).unwrap()
    }

    async fn text(response: Response<Returning>) -> String {
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_connection_serves_call_after_call_and_two_calls_at_once_take_two() {
        let (pool, serving) = app(100).await;
        for _ in 0..5 {
            assert_eq!(text(pool.call(request()).await.unwrap()).await, "connection 0");
        }
        let first = pool.call(request()).await.unwrap();
        serving.abort();
        drop(first);
    }

    #[tokio::test]
    async fn a_connection_that_the_app_has_closed_is_replaced() {
        let (pool, serving) = app(1).await;
        for number in 0..5 {
            assert_eq!(
                text(pool.call(request()).await.unwrap()).await,
                format!("connection {number}")
            );
            // The end may or may not have been noticed when the next call begins: both must work.
            if number % 2 == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        serving.abort();
    }

    #[tokio::test]
    async fn nobody_waits_for_the_rest_of_another_calls_upload() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = Authority::try_from(listener.local_addr().unwrap().to_string()).unwrap();
        let pool = Pool::new(&authority, 1 << 16).unwrap();
        let serving = tokio::spawn(async move {
            let mut streams = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 1024];
                let _ = stream.read(&mut head).await.unwrap();
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                stream.write_all(answer).await.unwrap();
                streams.push(stream);
            }
        });
        let (_upload, body) = http_body_util::channel::Channel::<Bytes, BodyError>::new(1);
        let slow = Request::post("http://app/p?q=1").body(Body::boxed(body)).unwrap();
        assert_eq!(text(pool.call(slow).await.unwrap()).await, "ok");
        let next = tokio::time::timeout(Duration::from_secs(5), pool.call(request()));
        assert_eq!(text(next.await.expect("it does not wait").unwrap()).await, "ok");
        serving.abort();
    }

    #[tokio::test]
    async fn an_answer_that_is_not_read_to_its_end_takes_its_connection_with_it() {
        let (pool, serving) = app(100).await;
        drop(pool.call(request()).await.unwrap());
        assert_eq!(text(pool.call(request()).await.unwrap()).await, "connection 1");
        serving.abort();
    }

    #[tokio::test]
    async fn there_are_no_more_connections_than_places_and_calls_wait_for_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = Authority::try_from(listener.local_addr().unwrap().to_string()).unwrap();
        let mut pool = Pool::new(&authority, 1 << 16).unwrap();
        assert_eq!(pool.room.available_permits(), MAX_CONNECTIONS);
        pool.room = Arc::new(Semaphore::new(2));
        let (go, gate) = tokio::sync::watch::channel(false);
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            let mut count = 0;
            while let Ok((mut stream, _)) = listener.accept().await {
                count += 1;
                let mut gate = gate.clone();
                connections.spawn(async move {
                    let mut head = [0; 1024];
                    while stream.read(&mut head).await.is_ok_and(|read| read > 0) {
                        gate.wait_for(|go| *go).await.unwrap();
                        let count = format!("{count}");
                        let answer = format!(
                            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{count}",
                            count.len()
                        );
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        let call = || async { text(pool.call(request()).await.unwrap()).await };
        let given_up = tokio::time::timeout(Duration::from_millis(100), async {
            tokio::join!(call(), call(), call());
        });
        assert!(given_up.await.is_err(), "the third has no place");
        let opening = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            go.send_replace(true);
        };
        let calls = futures_util::future::join_all((0..6).map(|_| call()));
        let (answers, ()) =
            tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(calls, opening) })
                .await
                .expect("no hang");
        // The two that were given up took their connections with them.
        assert!(
            answers.iter().all(|number| number == "3" || number == "4"),
            "{answers:?}"
        );
        // When the app closes its connections there is room for others.
        serving.abort();
        assert!(serving.await.unwrap_err().is_cancelled());
        let refused = tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                if let Err(PoolError::Connect(error)) = pool.call(request()).await {
                    break error.kind();
                }
            }
        });
        assert_eq!(refused.await, Ok(io::ErrorKind::ConnectionRefused));
    }
}
