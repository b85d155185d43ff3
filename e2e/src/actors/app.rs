//! The app: actors that count in their state.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::{Ledger, TYPE};
use crate::http::client::{Answer, Request, send};

/// Longest wait for the sidecar's state API.
const STATE_LIMIT: Duration = Duration::from_secs(20);

/// The app of one host, in this process. Dropping it closes everything.
pub struct CounterApp {
    shared: Arc<Shared>,
    port: u16,
    serving: JoinSet<()>,
}

struct Shared {
    number: usize,
    ledger: Arc<Ledger>,
    /// The sidecar's HTTP API.
    sidecar: AtomicU16,
    turns: AtomicU64,
    deactivations: AtomicU64,
    /// What its health endpoint answers.
    health: AtomicU16,
    /// The next answer on each connection is its last.
    ending: AtomicBool,
    end: Notify,
}

impl CounterApp {
    /// Listens on a port of its own.
    ///
    /// # Panics
    /// If there is none.
    pub async fn start(number: usize, ledger: Arc<Ledger>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.unwrap_or_else(|e| panic!("no port for an app: {e}"));
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared {
            number,
            ledger,
            sidecar: AtomicU16::new(0),
            turns: AtomicU64::new(0),
            deactivations: AtomicU64::new(0),
            health: AtomicU16::new(200),
            ending: AtomicBool::new(false),
            end: Notify::new(),
        });
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, Arc::clone(&shared)));
        Self {
            shared,
            port,
            serving,
        }
    }

    /// Ends as an app in a pod does that is told to: takes no more connections, finishes what it was asked, and is gone.
    pub async fn end(&mut self) {
        self.shared.ending.store(true, Ordering::SeqCst);
        self.shared.end.notify_one();
        while self.serving.join_next().await.is_some() {}
    }

    /// Is there again on the same port after [`Self::end`].
    ///
    /// # Panics
    /// If somebody else has taken the port.
    pub async fn begin_again(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await;
        let listener = listener.unwrap_or_else(|e| panic!("the port of the app is not free: {e}"));
        self.shared.ending.store(false, Ordering::SeqCst);
        self.serving.spawn(accept(listener, Arc::clone(&self.shared)));
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Turns that were begun here.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.shared.turns.load(Ordering::SeqCst)
    }

    /// Deactivations that it was told.
    #[must_use]
    pub fn deactivations(&self) -> u64 {
        self.shared.deactivations.load(Ordering::SeqCst)
    }

    /// Whether it says that it is healthy.
    pub fn set_healthy(&self, is_healthy: bool) {
        let status = if is_healthy { 200 } else { 503 };
        self.shared.health.store(status, Ordering::SeqCst);
    }

    pub(super) fn serve_sidecar(&self, port: u16) {
        self.shared.sidecar.store(port, Ordering::SeqCst);
    }

    pub(super) fn excuse(&self, is_excused: bool) {
        self.shared.ledger.excuse(self.shared.number, is_excused);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => break,
            },
            () = shared.end.notified() => break,
        };
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(|request: hyper::Request<Incoming>| {
                let shared = Arc::clone(&shared);
                async move {
                    let mut response = shared.answer(request).await;
                    if shared.ending.load(Ordering::SeqCst) {
                        let close = hyper::header::HeaderValue::from_static("close");
                        response.headers_mut().insert("connection", close);
                    }
                    Ok::<_, Infallible>(response)
                }
            });
            // An error only means that the sidecar is gone; a turn under way ends with it.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    // Connections that nobody uses any more stay open for ever.
    let ended = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(Duration::from_secs(1), ended).await;
}

fn response(status: u16, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = hyper::StatusCode::from_u16(status).expect("a valid status");
    response.headers_mut().insert(
        "content-type",
        hyper::header::HeaderValue::from_static("application/json"),
    );
    response
}

impl Shared {
    async fn answer(&self, request: hyper::Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let _ = body.collect().await;
        let path: Vec<&str> = head.uri.path().trim_matches('/').split('/').collect();
        match (&head.method, path.as_slice()) {
            (_, ["dapr", "config"]) => response(200, format!("{{\"entities\":[\"{TYPE}\"]}}")),
            (_, ["healthz"]) => response(self.health.load(Ordering::SeqCst), ""),
            (&Method::DELETE, ["actors", _, _]) => {
                self.deactivations.fetch_add(1, Ordering::SeqCst);
                response(200, "")
            }
            (&Method::PUT, ["actors", _, actor, "method", "add"]) => {
                let _turn = self.ledger.turn(self.number, actor);
                match self.add(actor).await {
                    Ok(number) => response(200, number.to_string()),
                    Err(problem) => response(500, problem),
                }
            }
            _ => response(404, ""),
        }
    }

    async fn add(&self, actor: &str) -> Result<u64, String> {
        let turn = self.turns.fetch_add(1, Ordering::SeqCst);
        let base = format!("/v1.0/actors/{TYPE}/{actor}/state");
        let got = self.ask("GET", &format!("{base}/n"), None).await?;
        let text = String::from_utf8_lossy(&got.body);
        let number: u64 = match (got.status, text.trim()) {
            (204, _) | (200, "") => 0,
            (200, text) => text.parse().map_err(|_| format!("not a number: {text}"))?,
            (status, text) => return Err(format!("get: {status} {text}")),
        };
        tokio::time::sleep(Duration::from_millis(1 + turn % 9)).await;
        let next = number + 1;
        let body = format!("[{{\"operation\":\"upsert\",\"request\":{{\"key\":\"n\",\"value\":{next}}}}}]");
        let set = self.ask("POST", &base, Some(body.into_bytes())).await?;
        if set.status != 204 {
            return Err(format!(
                "set: {} {}",
                set.status,
                String::from_utf8_lossy(&set.body)
            ));
        }
        Ok(next)
    }

    async fn ask(&self, method: &str, path: &str, body: Option<Vec<u8>>) -> Result<Answer, String> {
        let request = Request {
            method: method.to_owned(),
            path: path.to_owned(),
            body,
            ..Request::default()
        };
        send(self.sidecar.load(Ordering::SeqCst), &request, STATE_LIMIT).await
    }
}
