//! `outrigger run` with placement and scheduler of its own: actors, reminders and jobs without a further step.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::{Duration, Instant};

use outrigger_e2e::ask::{ask, text};
use outrigger_e2e::process::{Port, Program, Running, binary, free_port};

const LIMIT: Duration = Duration::from_secs(60);

/// An app that hosts actors of type `Cat` and writes down every call it gets.
const APP: &str = r#"
import http.server, sys
class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, body=b""):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        with open("calls", "a") as calls:
            calls.write(self.command + " " + self.path + "\n")
        found = self.path != "/dapr/subscribe"
        self.send_response(200 if found else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer(b'{"entities":["Cat"]}' if self.path == "/dapr/config" else b"")
    do_POST = do_PUT = do_DELETE = answer
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), App).serve_forever()
"#;

fn run(home: &Path, name: &str, http: &Port, app: Option<&Port>) -> Running {
    let port = http.number().to_string();
    let mut program = Program::new(name, &binary("outrigger"), home)
        .args(["run", "--app-id", name, "--dapr-http-port", &port])
        .env("HOME", &home.display().to_string())
        .env("OUTRIGGER_REDIS", "off");
    if let Some(app) = app {
        let app = app.number().to_string();
        program = program
            .args(["--app-port", &app, "--", "python3", "app.py"])
            .args([&app]);
    }
    program.start()
}

/// How often the app got a call.
fn calls(home: &Path, call: &str) -> usize {
    let calls = std::fs::read_to_string(home.join("calls")).unwrap_or_default();
    calls.lines().filter(|line| *line == call).count()
}

async fn until(what: &str, runs: &[&Running], mut is_so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so().await {
        let logs: Vec<String> = runs.iter().map(|run| run.log_tail()).collect();
        assert!(Instant::now() < end, "not {what}\n{}", logs.join("\n"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Asks a sidecar once it listens.
async fn accepted(http: &Port, path: &str, body: &str) -> bool {
    if tokio::net::TcpStream::connect(("127.0.0.1", http.number()))
        .await
        .is_err()
    {
        return false;
    }
    let answer = ask(http.number(), "POST", path, body.as_bytes()).await;
    if !(200..300).contains(&answer.status) {
        eprintln!("{path}: {} {}", answer.status, text(&answer));
        return false;
    }
    true
}

#[tokio::test]
async fn jobs_and_reminders_work_at_once_and_outlive_the_run_that_had_the_services() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("app.py"), APP).unwrap();
    let (app, one, two) = (free_port(), free_port(), free_port());
    let first = format!("first-{}", app.number());
    let second = format!("second-{}", app.number());
    let mut owner = run(home.path(), &first, &one, None);
    let services = home.path().join(".dapr/outrigger/services");
    until("running", &[&owner], async || {
        tokio::net::TcpStream::connect(("127.0.0.1", one.number()))
            .await
            .is_ok()
    })
    .await;
    let mut apps = run(home.path(), &second, &two, Some(&app));
    let job = r#"{"schedule":"@every 1s","data":{"n":1}}"#;
    until("scheduled", &[&owner, &apps], async || {
        accepted(&two, "/v1.0-alpha1/jobs/tick", job).await
    })
    .await;
    let reminder = r#"{"dueTime":"0s","period":"1s"}"#;
    until("reminded", &[&owner, &apps], async || {
        accepted(&two, "/v1.0/actors/Cat/tom/reminders/feed", reminder).await
    })
    .await;
    let (tick, feed) = ("POST /job/tick", "PUT /actors/Cat/tom/method/remind/feed");
    until("triggered", &[&owner, &apps], async || {
        calls(home.path(), tick) >= 2 && calls(home.path(), feed) >= 2
    })
    .await;

    owner.kill();
    // What the app gets from now on comes from services that its own run has started.
    let before = (calls(home.path(), tick), calls(home.path(), feed));
    until("triggered by the other run", &[&apps], async || {
        calls(home.path(), tick) >= before.0 + 8 && calls(home.path(), feed) >= before.1 + 8
    })
    .await;

    apps.terminate();
    let status = apps.wait_exit(LIMIT).await;
    assert!(
        status.is_some_and(|status| status.success()),
        "{}",
        apps.log_tail()
    );
    let ports = ["mtls.json", "plain.json"]
        .iter()
        .find_map(|name| std::fs::read_to_string(services.join(name)).ok())
        .unwrap();
    let ports: std::collections::BTreeMap<String, u16> = serde_json::from_str(&ports).unwrap();
    for (name, port) in ports {
        let left = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
        assert!(left.is_err(), "{name} is still there");
    }
}
