//! A gRPC client that shows everything: headers apart from trailers, each message, how the call ended.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::channel::{Channel, Sender};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::frame::{Deframer, Status, frame};

/// How many request messages may wait for the server to take them.
const QUEUE: usize = 64;
/// What the client calls itself. The sidecars under test pass it on.
const USER_AGENT: &str = "golden-replayer";

/// What has come so far.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// The headers, once they came. An error without headers of its own has none.
    pub headers: HeaderMap,
    /// The messages, undecoded.
    pub responses: Vec<Bytes>,
    /// Trailers and status, once the call has ended.
    pub end: Option<(Status, HeaderMap)>,
}

/// A call. Dropping it cancels it.
#[derive(Debug)]
pub struct Call {
    requests: Option<Sender<Bytes>>,
    progress: watch::Receiver<Progress>,
    told: watch::Sender<Progress>,
    tasks: JoinSet<()>,
}

impl Call {
    /// Begins a call of `/service/method` at 127.0.0.1 on a connection of its own. With a `limit`, it ends with
    /// DEADLINE_EXCEEDED after that time, and the server is told so.
    #[must_use]
    pub fn begin(port: u16, path: &str, metadata: HeaderMap, limit: Option<Duration>) -> Self {
        let (requests, body) = Channel::new(QUEUE);
        let (told, progress) = watch::channel(Progress::default());
        let mut tasks = JoinSet::new();
        let mut request = Request::post(format!("http://127.0.0.1:{port}{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", USER_AGENT);
        if let Some(limit) = limit {
            request = request.header("grpc-timeout", format!("{}m", limit.as_millis()));
        }
        let mut request = request.body(body).expect("a path of the descriptors is a path");
        request.headers_mut().extend(metadata);
        let teller = told.clone();
        tasks.spawn(async move {
            let (status, trailers) = perform(port, request, &teller).await;
            finish(&teller, status, trailers);
        });
        if let Some(limit) = limit {
            let teller = told.clone();
            tasks.spawn(async move {
                tokio::time::sleep(limit).await;
                finish(
                    &teller,
                    Status::new("DEADLINE_EXCEEDED", "Deadline Exceeded"),
                    HeaderMap::new(),
                );
            });
        }
        Self {
            requests: Some(requests),
            progress,
            told,
            tasks,
        }
    }

    /// Sends a message. Nothing happens if the server does not listen any more.
    pub async fn send(&mut self, message: &[u8]) {
        if let Some(requests) = &mut self.requests {
            let ended = self.progress.wait_for(|p| p.end.is_some());
            tokio::select! {
                // Fails only if the call is over, which is seen in its end.
                _ = requests.send_data(frame(message)) => {}
                _ = ended => {}
            }
        }
    }

    /// Says that no further message comes.
    pub fn close(&mut self) {
        self.requests = None;
    }

    /// Gives the call up.
    pub fn cancel(&mut self) {
        self.tasks.abort_all();
        finish(
            &self.told,
            Status::new("CANCELLED", "Locally cancelled by application!"),
            HeaderMap::new(),
        );
    }

    /// Waits for `count` messages in total or the end of the call, but not longer than `limit`.
    pub async fn wait_responses(&mut self, count: usize, limit: Duration) {
        let enough = self
            .progress
            .wait_for(|p| p.end.is_some() || p.responses.len() >= count);
        // Too few in time is for the comparison to tell.
        let _ = tokio::time::timeout(limit, enough).await;
    }

    /// Waits for the end of the call, but not longer than `limit`.
    pub async fn wait_end(&mut self, limit: Duration) {
        let ended = self.progress.wait_for(|p| p.end.is_some());
        let _ = tokio::time::timeout(limit, ended).await;
    }

    /// What has come so far.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }
}

/// The first end counts.
fn finish(told: &watch::Sender<Progress>, status: Status, trailers: HeaderMap) {
    told.send_modify(|progress| {
        progress.end.get_or_insert((status, trailers));
    });
}

/// Does the call to its end.
async fn perform(
    port: u16,
    request: Request<Channel<Bytes>>,
    told: &watch::Sender<Progress>,
) -> (Status, HeaderMap) {
    let unavailable = |problem: String| (Status::new("UNAVAILABLE", &problem), HeaderMap::new());
    let stream = match TcpStream::connect(("127.0.0.1", port)).await {
        Ok(stream) => stream,
        Err(e) => return unavailable(format!("connection error: {e}")),
    };
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = match handshake {
        Ok(parts) => parts,
        Err(e) => return unavailable(format!("no HTTP/2: {e}")),
    };
    let exchange = async {
        match sender.send_request(request).await {
            Ok(response) => receive(response, told).await,
            Err(e) => (broken(&e), HeaderMap::new()),
        }
    };
    tokio::pin!(connection, exchange);
    tokio::select! {
        outcome = &mut exchange => outcome,
        // What has arrived may not be read yet.
        _ = &mut connection => exchange.await,
    }
}

async fn receive(response: Response<Incoming>, told: &watch::Sender<Progress>) -> (Status, HeaderMap) {
    let (parts, mut body) = response.into_parts();
    // Status among the headers: there are no headers, these are the trailers.
    if let Some(status) = Status::from_trailers(&parts.headers) {
        return (status, parts.headers);
    }
    let grpc = parts.headers.get("content-type").map(|v| v.as_bytes());
    if !parts.status.is_success() || !grpc.is_some_and(|t| t.starts_with(b"application/grpc")) {
        let problem = format!("not gRPC: HTTP status {}, {:?}", parts.status, parts.headers);
        return (Status::new("UNKNOWN", &problem), HeaderMap::new());
    }
    told.send_modify(|progress| progress.headers = parts.headers);
    let mut deframer = Deframer::default();
    let mut trailers = HeaderMap::new();
    while let Some(part) = body.frame().await {
        let part = match part {
            Ok(part) => part,
            Err(e) => return (broken(&e), trailers),
        };
        match part.into_data() {
            Ok(data) => deframer.push(&data),
            Err(part) => trailers = part.into_trailers().unwrap_or_default(),
        }
        loop {
            match deframer.next_message() {
                Ok(Some(message)) => told.send_modify(|progress| progress.responses.push(message)),
                Ok(None) => break,
                Err(problem) => return (Status::new("INTERNAL", &problem), trailers),
            }
        }
    }
    let status = Status::from_trailers(&trailers);
    let status = status
        .unwrap_or_else(|| Status::new("INTERNAL", "server closed the stream without sending trailers"));
    (status, trailers)
}

/// What a stream that ended without trailers means, as gRPC's HTTP/2 mapping says.
fn broken(error: &hyper::Error) -> Status {
    let mut text = error.to_string();
    let mut source: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    let code = if text.contains("operation canceled") || text.contains("no longer needed") {
        "CANCELLED"
    } else {
        "UNAVAILABLE"
    };
    Status::new(code, &text)
}
