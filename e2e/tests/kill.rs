//! SIGKILL in the middle of work: what was acknowledged is not lost.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use outrigger_e2e::ask::soon;
use outrigger_e2e::process::{Daprd, DaprdOptions, RedisServer, free_port};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// One request on a connection of its own; `None` if no whole answer came.
async fn request(port: u16, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.get(9..12)?.parse().ok()?, body.to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_sidecar_loses_no_acknowledged_write_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let options = DaprdOptions {
        app_id: "writer".into(),
        resources: vec![format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: lite\nspec:\n  type: state.sqlite\n  \
             version: v1\n  metadata:\n  - name: connectionString\n    value: \"{}\"\n",
            dir.path().join("state.db").display()
        )],
        ..Default::default()
    };
    let mut sidecar = Daprd::start_ready(&options, &dir.path().join("one")).await;
    let port = sidecar.http_port();
    let acknowledged = std::sync::Arc::new(AtomicUsize::new(0));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let acknowledged = acknowledged.clone();
        writers.spawn(async move {
            let mut keys = Vec::new();
            for n in 0.. {
                let key = format!("{writer}-{n}");
                let body = format!("[{{\"key\":\"{key}\",\"value\":\"{key}\"}}]");
                match request(port, "POST", "/v1.0/state/lite", &body).await {
                    Some((204, _)) => {
                        keys.push(key);
                        acknowledged.fetch_add(1, Ordering::SeqCst);
                    }
                    _ => break,
                }
            }
            keys
        });
    }
    soon("200 writes", async || acknowledged.load(Ordering::SeqCst) >= 200).await;
    sidecar.process().kill();
    let mut keys = Vec::new();
    while let Some(written) = writers.join_next().await {
        keys.extend(written.unwrap());
    }
    let again = Daprd::start_ready(&options, &dir.path().join("two")).await;
    for key in keys {
        let got = request(again.http_port(), "GET", &format!("/v1.0/state/lite/{key}"), "").await;
        assert_eq!(
            got.unwrap(),
            (200, format!("\"{key}\"")),
            "{key} was acknowledged and is lost"
        );
    }
}

/// Events sent in each of the tests below.
const EVENTS: usize = 60;

fn consumer(dir: &Path, redis: &RedisServer, app_port: u16) -> DaprdOptions {
    std::fs::create_dir_all(dir).unwrap();
    DaprdOptions {
        app_id: "consumer".into(),
        app_port: Some(app_port),
        resources: vec![
            format!(
                "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: ps\nspec:\n  type: pubsub.redis\n  \
                 version: v1\n  metadata:\n  - name: redisHost\n    value: \"127.0.0.1:{}\"\n  \
                 - name: processingTimeout\n    value: \"1000\"\n  - name: redeliverInterval\n    value: \"200\"\n",
                redis.port()
            ),
            "apiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata:\n  name: sub\nspec:\n  pubsubname: ps\n  \
             topic: t\n  routes:\n    default: /event\n"
                .to_owned(),
        ],
        ..Default::default()
    }
}

async fn publish_all(port: u16) {
    for n in 0..EVENTS {
        let answer = request(port, "POST", "/v1.0/publish/ps/t", &format!("{{\"n\":{n}}}")).await;
        assert_eq!(answer.map(|(status, _)| status), Some(204), "event {n}");
    }
}

/// An app in a process of its own: it thinks about each event for a while, then writes its number down.
struct App(Child);

impl App {
    fn start(port: u16, notes: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "child_app", "--nocapture"])
            .env("KILL_APP_PORT", port.to_string())
            .env("KILL_APP_NOTES", notes)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn noted(notes: &Path) -> BTreeSet<usize> {
    let text = std::fs::read_to_string(notes).unwrap_or_default();
    // A line without its end was being written at the moment of the kill.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| line.parse().unwrap()).collect()
}

/// Not a test of its own: the app of the tests below.
#[tokio::test]
#[ignore = "started by other tests as a child process"]
async fn child_app() {
    let port: u16 = std::env::var("KILL_APP_PORT").unwrap().parse().unwrap();
    let notes = std::env::var("KILL_APP_NOTES").unwrap();
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let notes = notes.clone();
        tokio::spawn(async move {
            let _ = serve(stream, &notes).await;
        });
    }
}

async fn serve(stream: TcpStream, notes: &str) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut path, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_lowercase();
            if line.is_empty() {
                break;
            }
            if path.is_empty() {
                path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let status = if path == "/event" {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let event: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let mut file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(notes)?;
            file.write_all(format!("{}\n", event["data"]["n"]).as_bytes())?;
            "200 OK"
        } else {
            "404 Not Found"
        };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        stream.get_mut().write_all(answer.as_bytes()).await?;
    }
}

async fn everything_is_noted(notes: &Path) {
    let all: BTreeSet<usize> = (0..EVENTS).collect();
    soon("all events", async || noted(notes) == all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_sidecar_loses_no_acknowledged_event() {
    let dir = tempfile::tempdir().unwrap();
    let redis = RedisServer::start(dir.path()).await;
    let notes = dir.path().join("notes");
    let port = free_port();
    let _app = App::start(port.number(), &notes);
    let options = consumer(dir.path(), &redis, port.number());
    let mut sidecar = Daprd::start_ready(&options, &dir.path().join("one")).await;
    publish_all(sidecar.http_port()).await;
    soon("the first events", async || noted(&notes).len() >= 5).await;
    sidecar.process().kill();
    assert!(noted(&notes).len() < EVENTS, "killed too late to prove anything");
    let _again = Daprd::start_ready(&options, &dir.path().join("two")).await;
    everything_is_noted(&notes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_app_loses_no_acknowledged_event() {
    let dir = tempfile::tempdir().unwrap();
    let redis = RedisServer::start(dir.path()).await;
    let notes = dir.path().join("notes");
    let port = free_port();
    let mut app = App::start(port.number(), &notes);
    let options = consumer(dir.path(), &redis, port.number());
    let sidecar = Daprd::start_ready(&options, &dir.path().join("one")).await;
    publish_all(sidecar.http_port()).await;
    soon("the first events", async || noted(&notes).len() >= 5).await;
    app.kill();
    assert!(noted(&notes).len() < EVENTS, "killed too late to prove anything");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let _again = App::start(port.number(), &notes);
    everything_is_noted(&notes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_is_asked_to_stop_finishes_events_in_hand_and_handles_none_twice() {
    let dir = tempfile::tempdir().unwrap();
    let redis = RedisServer::start(dir.path()).await;
    let notes = dir.path().join("notes");
    let port = free_port();
    let _app = App::start(port.number(), &notes);
    let options = consumer(dir.path(), &redis, port.number());
    let mut sidecar = Daprd::start_ready(&options, &dir.path().join("one")).await;
    publish_all(sidecar.http_port()).await;
    soon("the first events", async || noted(&notes).len() >= 5).await;
    sidecar.process().terminate();
    let exit = sidecar.process().wait_exit(Duration::from_secs(20)).await;
    assert!(exit.is_some_and(|exit| exit.success()), "{exit:?}");
    assert!(noted(&notes).len() < EVENTS, "stopped too late to prove anything");
    let _again = Daprd::start_ready(&options, &dir.path().join("two")).await;
    everything_is_noted(&notes).await;
    let lines = std::fs::read_to_string(&notes).unwrap().lines().count();
    assert_eq!(lines, EVENTS, "an event that was in hand was delivered again");
}
