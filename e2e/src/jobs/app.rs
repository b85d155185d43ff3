//! The app: takes every job and remembers when.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What came of one job.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// How often it came.
    pub count: usize,
    /// When it came first.
    pub first: Instant,
    /// When it came last.
    pub last: Instant,
    /// The longest time between two calls.
    pub longest_gap: Duration,
}

type Book = Arc<Mutex<BTreeMap<String, Seen>>>;

/// An app in this process. Dropping it closes everything.
#[derive(Debug)]
pub struct JobApp {
    port: u16,
    book: Book,
    _serving: JoinSet<()>,
}

impl JobApp {
    /// Listens on a port of its own.
    ///
    /// # Panics
    /// If there is none.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.unwrap_or_else(|e| panic!("no port for an app: {e}"));
        let port = listener.local_addr().expect("it is bound").port();
        let book = Book::default();
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, Arc::clone(&book)));
        Self {
            port,
            book,
            _serving: serving,
        }
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many jobs came.
    #[must_use]
    pub fn jobs(&self) -> usize {
        self.lock().len()
    }

    /// How often a job came.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.lock().get(name).map_or(0, |seen| seen.count)
    }

    /// All that came, by name.
    #[must_use]
    pub fn seen(&self) -> BTreeMap<String, Seen> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Seen>> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, book: Book) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let book = Arc::clone(&book);
        connections.spawn(async move {
            let service = service_fn(|request: hyper::Request<Incoming>| {
                let book = Arc::clone(&book);
                async move {
                    let (head, body) = request.into_parts();
                    let _ = body.collect().await;
                    let mut answer = Response::new(Empty::<Bytes>::new());
                    match head.uri.path().strip_prefix("/job/") {
                        Some(name) => note(&book, name),
                        None => *answer.status_mut() = StatusCode::NOT_FOUND,
                    }
                    Ok::<_, Infallible>(answer)
                }
            });
            // An error only means that the sidecar is gone.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

fn note(book: &Book, name: &str) {
    let now = Instant::now();
    let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
    let seen = book.entry(name.to_owned()).or_insert(Seen {
        count: 0,
        first: now,
        last: now,
        longest_gap: Duration::ZERO,
    });
    seen.count += 1;
    seen.longest_gap = seen.longest_gap.max(now - seen.last);
    seen.last = now;
}
