//! Steady work through a sidecar, and what came of it.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use outrigger_e2e::ask::{get, text};
use outrigger_e2e::http::client::{Request, send};
use outrigger_e2e::process::Daprd;
use outrigger_e2e::servers::Server;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

const WORKERS: usize = 8;
/// Bytes of a value or an event: of all that is sent, no more than what is under way may stay in the sidecar.
pub(crate) const PAYLOAD: usize = 64 << 10;
/// How long a call may take: longer than any of the components' own limits, so that none is cut off from here.
const CALL: Duration = Duration::from_secs(60);
/// How long work may take to go on after a fault.
const PATIENCE: Duration = Duration::from_secs(90);

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// `POST /v1.0/state/st`.
    Writes,
    /// `POST /v1.0/publish/ps/t`, delivered to the app.
    Events,
    /// `GET /v1.0/secrets/vault/load`.
    Secrets,
    /// `POST /v1.0/bindings/mail`.
    Mails,
}

impl Work {
    /// Whether much is sent.
    pub(crate) fn is_heavy(self) -> bool {
        matches!(self, Self::Writes | Self::Events)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) acknowledged: BTreeSet<String>,
    pub(crate) failed: usize,
    /// Resident memory before the work, and the most during it, in bytes.
    pub(crate) memory_at_rest: u64,
    pub(crate) most_memory: u64,
    pub(crate) health_answers: usize,
    pub(crate) health_failures: usize,
}

struct Tally {
    outcome: Outcome,
    stopped: bool,
}

type Shared = Arc<Mutex<Tally>>;

fn with<R>(tally: &Shared, change: impl FnOnce(&mut Tally) -> R) -> R {
    change(&mut tally.lock().unwrap_or_else(PoisonError::into_inner))
}

pub(crate) struct Load {
    tally: Shared,
    tasks: JoinSet<()>,
}

impl Load {
    pub(crate) fn start(sidecar: &Daprd, work: Work) -> Self {
        let outcome = Outcome {
            acknowledged: BTreeSet::new(),
            failed: 0,
            memory_at_rest: resident(sidecar.pid()),
            most_memory: 0,
            health_answers: 0,
            health_failures: 0,
        };
        let tally = Arc::new(Mutex::new(Tally {
            outcome,
            stopped: false,
        }));
        let mut tasks = JoinSet::new();
        for worker in 0..WORKERS {
            tasks.spawn(run(tally.clone(), sidecar.http_port(), work, worker));
        }
        tasks.spawn(watch(tally.clone(), sidecar.http_port(), sidecar.pid()));
        Self { tally, tasks }
    }

    async fn until(&self, what: &str, done: impl Fn(&Outcome) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !with(&self.tally, |tally| done(&tally.outcome)) {
            let so_far = with(&self.tally, |tally| {
                (tally.outcome.acknowledged.len(), tally.outcome.failed)
            });
            assert!(
                Instant::now() < end,
                "{what}: not within {PATIENCE:?} (acknowledged, failed: {so_far:?})"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for that many further acknowledgements.
    pub(crate) async fn more(&self, what: &str, more: usize) {
        let goal = with(&self.tally, |tally| tally.outcome.acknowledged.len()) + more;
        self.until(what, |outcome| outcome.acknowledged.len() >= goal)
            .await;
    }

    /// Waits for that many further acknowledgements; how long the first took.
    pub(crate) async fn again(&self, what: &str, many: usize) -> Duration {
        let back = Instant::now();
        self.more(what, 1).await;
        let waited = back.elapsed();
        self.more(what, many).await;
        waited
    }

    /// Waits for that many further failures.
    pub(crate) async fn failures(&self, more: usize) {
        let goal = with(&self.tally, |tally| tally.outcome.failed) + more;
        self.until("failures while the server is away", |outcome| {
            outcome.failed >= goal
        })
        .await;
    }

    pub(crate) async fn stop(mut self) -> Outcome {
        with(&self.tally, |tally| tally.stopped = true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        with(&self.tally, |tally| tally.outcome.clone())
    }
}

async fn run(tally: Shared, port: u16, work: Work, worker: usize) {
    for n in 0.. {
        if with(&tally, |tally| tally.stopped) {
            return;
        }
        let name = format!("{worker}-{n}");
        let pad = "x".repeat(PAYLOAD);
        let (method, path, body) = match work {
            Work::Writes => (
                "POST",
                "/v1.0/state/st",
                format!("[{{\"key\":\"{name}\",\"value\":\"{name}{pad}\"}}]"),
            ),
            Work::Events => (
                "POST",
                "/v1.0/publish/ps/t",
                format!("{{\"name\":\"{name}\",\"pad\":\"{pad}\"}}"),
            ),
            Work::Secrets => ("GET", "/v1.0/secrets/vault/load", String::new()),
            Work::Mails => (
                "POST",
                "/v1.0/bindings/mail",
                format!("{{\"operation\":\"create\",\"data\":\"{name}\"}}"),
            ),
        };
        let request = Request {
            method: method.into(),
            path: path.into(),
            headers: vec![("content-type".into(), "application/json".into())],
            body: (!body.is_empty()).then(|| body.into_bytes()),
            chunked: false,
        };
        let ok = send(port, &request, CALL).await.is_ok_and(|answer| match work {
            Work::Secrets => answer.status == 200 && answer.body == br#"{"word":"hush"}"#,
            _ => answer.status == 204,
        });
        with(&tally, |tally| {
            if ok {
                tally.outcome.acknowledged.insert(name);
            } else {
                tally.outcome.failed += 1;
            }
        });
        tokio::time::sleep(Duration::from_millis(if ok { 5 } else { 50 })).await;
    }
}

/// Looks at memory and health.
async fn watch(tally: Shared, port: u16, pid: u32) {
    let request = Request {
        method: "GET".into(),
        path: "/v1.0/healthz".into(),
        ..Request::default()
    };
    while !with(&tally, |tally| tally.stopped) {
        let healthy = send(port, &request, Duration::from_secs(20))
            .await
            .is_ok_and(|answer| answer.status == 204);
        let memory = resident(pid);
        with(&tally, |tally| {
            tally.outcome.most_memory = tally.outcome.most_memory.max(memory);
            if healthy {
                tally.outcome.health_answers += 1;
            } else {
                tally.outcome.health_failures += 1;
            }
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Bytes of a process in memory.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line
        .and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0);
    kib << 10
}

/// Everything acknowledged can be read, or came to the app.
pub(crate) async fn nothing_is_lost(
    sidecar: &Daprd,
    work: Work,
    outcome: &Outcome,
    app: &App,
    server: &Server,
) {
    if work == Work::Secrets {
        return;
    }
    if work == Work::Mails {
        let mails = server.mails();
        let bodies: HashSet<&str> = mails
            .iter()
            .filter_map(|mail| mail["body"].as_str())
            .map(str::trim)
            .collect();
        for name in &outcome.acknowledged {
            assert!(
                bodies.contains(name.as_str()),
                "{name} was acknowledged and is lost"
            );
        }
        return;
    }
    if work == Work::Writes {
        for name in &outcome.acknowledged {
            let answer = get(sidecar.http_port(), &format!("/v1.0/state/st/{name}")).await;
            let value = text(&answer);
            assert!(
                answer.status == 200
                    && value.starts_with(&format!("\"{name}x"))
                    && value.len() == name.len() + PAYLOAD + 2,
                "{name} was acknowledged and is lost"
            );
        }
        return;
    }
    let end = Instant::now() + PATIENCE;
    loop {
        let missing: Vec<_> = {
            let seen = app.seen.lock().unwrap();
            outcome
                .acknowledged
                .iter()
                .filter(|name| !seen.contains(*name))
                .cloned()
                .collect()
        };
        if missing.is_empty() {
            return;
        }
        let (lost, of) = (missing.len(), outcome.acknowledged.len());
        assert!(
            Instant::now() < end,
            "{lost} of {of} acknowledged events are lost: {:?}",
            &missing[..lost.min(10)]
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The sum of a counter's series with `success="false"`.
pub(crate) async fn failures_in_metrics(sidecar: &Daprd, name: &str) -> f64 {
    let scrape = text(&get(sidecar.metrics_port(), "/metrics").await);
    let lines = scrape
        .lines()
        .filter(|line| line.starts_with(name) && line.contains("success=\"false\""));
    lines
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

/// An app that notes the events it gets.
pub(crate) struct App {
    port: u16,
    seen: Arc<Mutex<HashSet<String>>>,
    serving: JoinHandle<()>,
}

impl App {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, seen) = (
            listener.local_addr().unwrap().port(),
            Arc::new(Mutex::new(HashSet::new())),
        );
        let noting = seen.clone();
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, noting.clone()));
            }
        });
        Self { port, seen, serving }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(stream: TcpStream, seen: Arc<Mutex<HashSet<String>>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut first, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if first.is_empty() {
                line.clone_into(&mut first);
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let status = if first.contains("/event") {
            let event: serde_json::Value = serde_json::from_slice(&body).unwrap();
            seen.lock()
                .unwrap()
                .insert(event["data"]["name"].as_str().unwrap().to_owned());
            "200 OK"
        } else {
            "404 Not Found"
        };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        if stream.get_mut().write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
