//! The root certificate is changed while two sidecars talk over mutual TLS: no request fails, not even with sentry killed
//! at each step, and sidecars that know only the old root (as Go's do, which read it once) go on.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use outrigger_e2e::ask::ask;
use outrigger_e2e::process::{Daprd, DaprdOptions, Port, Program, Running, binary, exclusive, free_port};
use outrigger_e2e::sentry::{Client, csr, openssl_verify, request};
use outrigger_e2e::sentry_vectors::blocks;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

/// Requests per second.
const RATE: u64 = 1000;
/// Connections they come on.
const CLIENTS: u64 = 8;
const CONFIG: &str = "
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: conf}
spec: {mtls: {enabled: true, workloadCertTTL: <ttl>s, allowedClockSkew: 1s}}
";

/// A change of roots to be lived through.
struct Change {
    /// Lifetime of workload certificates in seconds, and so the length of a phase.
    ttl: u64,
    /// Lifetime of the authority in seconds: it is changed by sentry itself after two thirds. `None`: it is asked for.
    authority: Option<u64>,
    /// Sentry is killed at each step.
    kill: bool,
}

/// Sentry on a fixed port with its files in a folder, to be killed and started again.
struct Sentry {
    dir: std::path::PathBuf,
    ports: [Port; 3],
    more: Vec<String>,
    running: Running,
}

impl Sentry {
    fn start(dir: &Path, change: &Change) -> Self {
        std::fs::create_dir_all(dir.join("credentials")).expect("a folder");
        let config = CONFIG.replace("<ttl>", &change.ttl.to_string());
        std::fs::write(dir.join("config.yaml"), config).expect("a file");
        let ports = [free_port(), free_port(), free_port()];
        let life = change.authority.map(|seconds| format!("--issuer-ttl={seconds}s"));
        let more: Vec<String> = life.into_iter().collect();
        let running = Self::run(dir, &ports, &more);
        Self {
            dir: dir.to_path_buf(),
            ports,
            more,
            running,
        }
    }

    fn run(dir: &Path, ports: &[Port; 3], more: &[String]) -> Running {
        let number = |at: usize| ports[at].number().to_string();
        Program::new("sentry", &binary("sentry"), dir)
            .args(["--issuer-credentials=credentials", "--config=config.yaml"])
            .args([
                "--port",
                &number(0),
                "--healthz-port",
                &number(1),
                "--metrics-port",
                &number(2),
            ])
            .args(["--listen-address=127.0.0.1"])
            .args(more.iter().cloned())
            .start()
    }

    fn port(&self) -> u16 {
        self.ports[0].number()
    }

    fn file(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.dir.join("credentials").join(name)).ok()
    }

    /// Waits for the first roots.
    async fn roots(&self) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(roots) = self.file("ca.crt")
                && TcpStream::connect(("127.0.0.1", self.port())).await.is_ok()
            {
                return roots;
            }
            assert!(Instant::now() < deadline, "{}", self.running.log_tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The phase of the change of roots under way.
    fn phase(&self) -> Option<String> {
        let state: Value = serde_json::from_str(&self.file("rotation.json")?).ok()?;
        Some(state["phase"].as_str()?.to_owned())
    }

    fn tool(&self, word: &str) -> String {
        let output = std::process::Command::new(binary("sentry"))
            .args([word, "--issuer-credentials=credentials"])
            .current_dir(&self.dir)
            .output()
            .expect("the binary starts");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Kills it in the middle of whatever it does, and starts it again.
    fn kill_and_restart(&mut self) {
        self.running.kill();
        self.running = Self::run(&self.dir, &self.ports, &self.more);
    }
}

/// An app that answers `fine`.
async fn app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: Request<Incoming>| async move {
                request.into_body().collect().await?;
                Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from_static(b"fine"))))
            });
            tokio::spawn(async move {
                let _ = Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

fn sidecar(id: &str, app: Option<u16>, sentry: &Sentry, roots: &str, names: &Path) -> DaprdOptions {
    DaprdOptions {
        app_id: id.to_owned(),
        app_port: app,
        config: Some(format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {{name: conf}}\nspec:\n  nameResolution:\n    \
             component: sqlite\n    version: v1\n    configuration: {{connectionString: \"{}\", updateInterval: 60s}}\n",
            names.display()
        )),
        flags: vec![
            "--enable-mtls".to_owned(),
            format!("--sentry-address=127.0.0.1:{}", sentry.port()),
        ],
        env: vec![("DAPR_TRUST_ANCHORS".to_owned(), roots.to_owned())],
        ..DaprdOptions::default()
    }
}

#[derive(Default)]
struct Load {
    stop: AtomicBool,
    sent: AtomicU64,
    failed: AtomicU64,
    first: std::sync::Mutex<Option<String>>,
}

/// One client: requests at its share of the rate, on one connection.
async fn client(port: u16, load: Arc<Load>) {
    let stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("the sidecar listens");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .expect("HTTP/1");
    tokio::spawn(connection);
    let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 * CLIENTS / RATE));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    while !load.stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let request = Request::get(format!("http://127.0.0.1:{port}/v1.0/invoke/target/method/x"))
            .header("host", "127.0.0.1")
            .body(Empty::<Bytes>::new())
            .expect("a request");
        load.sent.fetch_add(1, Ordering::Relaxed);
        let answer = async {
            sender.ready().await.map_err(|e| e.to_string())?;
            let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
            let status = response.status();
            let body = response
                .into_body()
                .collect()
                .await
                .map_err(|e| e.to_string())?
                .to_bytes();
            if status.is_success() && body == "fine" {
                Ok(())
            } else {
                Err(format!("{status} {}", String::from_utf8_lossy(&body)))
            }
        };
        if let Err(problem) = answer.await {
            load.failed.fetch_add(1, Ordering::Relaxed);
            load.first
                .lock()
                .expect("no panic under the lock")
                .get_or_insert(problem);
        }
    }
}

/// A sidecar that is started now, with these roots, reaches the one that has been there since before.
async fn newcomer_calls(id: &str, sentry: &Sentry, roots: &str, dir: &Path, names: &Path) {
    let options = sidecar(id, None, sentry, roots, names);
    let newcomer = Daprd::start_ready(&options, &dir.join(id)).await;
    let answer = ask(newcomer.http_port(), "GET", "/v1.0/invoke/target/method/x", b"").await;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!((answer.status, text.as_str()), (200, "fine"), "{id}");
}

async fn change_roots(change: Change) {
    let _alone = exclusive("sentry-rotation").await;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let names = dir.path().join("names.db");
    let mut sentry = Sentry::start(&dir.path().join("sentry"), &change);
    let old = sentry.roots().await;
    let app = app().await;
    let target = sidecar("target", Some(app.port()), &sentry, &old, &names);
    let _target = Daprd::start_ready(&target, &dir.path().join("target")).await;
    let caller = Daprd::start_ready(
        &sidecar("caller", None, &sentry, &old, &names),
        &dir.path().join("caller"),
    )
    .await;
    let load = Arc::new(Load::default());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| tokio::spawn(client(caller.http_port(), Arc::clone(&load))))
        .collect();
    let started = Instant::now();
    if change.authority.is_none() {
        sentry.tool("rotate");
    }
    let mut seen: Vec<String> = Vec::new();
    let mut newcomer = 0;
    let length = change.authority.unwrap_or_default() + 4 * change.ttl + 60;
    let deadline = started + Duration::from_secs(length);
    // Until the change is over and every certificate of before has been renewed.
    while !(sentry.phase().is_none() && sentry.file("ca.crt").is_some_and(|roots| roots != old)) {
        assert!(
            Instant::now() < deadline,
            "{seen:?}\n{}",
            sentry.running.log_tail()
        );
        if let Some(phase) = sentry.phase().filter(|phase| seen.last() != Some(phase)) {
            seen.push(phase.clone());
            if change.kill {
                sentry.kill_and_restart();
            }
            if phase == "distribute" || phase == "switch" {
                newcomer += 1;
                let now = sentry.roots().await;
                newcomer_calls(&format!("new-{newcomer}"), &sentry, &now, dir.path(), &names).await;
                if change.authority.is_none() {
                    // Like a Go sidecar of before, which knows the old root only, when it is started again.
                    newcomer_calls(&format!("old-{newcomer}"), &sentry, &old, dir.path(), &names).await;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    if change.kill {
        sentry.kill_and_restart();
    }
    let new = sentry.roots().await;
    newcomer_calls("new-last", &sentry, &new, dir.path(), &names).await;
    if change.authority.is_none() {
        newcomer_calls("old-last", &sentry, &old, dir.path(), &names).await;
    }
    tokio::time::sleep(Duration::from_secs(change.ttl * 3 / 4)).await;
    load.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("a client does not panic");
    }

    let (sent, failed) = (
        load.sent.load(Ordering::Relaxed),
        load.failed.load(Ordering::Relaxed),
    );
    let first = load.first.lock().expect("no panic under the lock").clone();
    assert_eq!(failed, 0, "{failed} of {sent} requests failed, first: {first:?}");
    let rate = sent / started.elapsed().as_secs().max(1);
    eprintln!(
        "{sent} requests in {:?}, {rate}/s, none failed; phases seen: {seen:?}",
        started.elapsed()
    );
    assert!(
        rate >= RATE / 4,
        "only {rate} requests a second: the machine is too busy for this test"
    );
    for phase in ["distribute", "switch"] {
        assert!(seen.iter().any(|seen| seen == phase), "{seen:?}");
    }
    assert_eq!(blocks(&new).len(), 1, "the old root is withdrawn");
    if change.authority.is_some() {
        // What the old issuer certified ended with it.
        return;
    }
    let status: Value = serde_json::from_str(&sentry.tool("status")).expect("the status is JSON");
    assert!(
        status["rotation"].is_null() && status["authority"]["madeBySentry"] == true,
        "{status}"
    );

    // What is signed now holds at the new root, and at the old one through the new root's certificate by the old issuer.
    let mut client = Client::connect(sentry.port())
        .await
        .expect("sentry takes connections");
    let answer = client
        .sign(&request("web", "shop", &csr("p256", &[])))
        .await
        .expect("an answer");
    let answer = answer.expect("a certificate");
    let chain = String::from_utf8_lossy(&answer.workload_certificate).into_owned();
    openssl_verify(&chain, &new, dir.path()).expect("OpenSSL verifies the chain at the new root");
    openssl_verify(&chain, &old, dir.path()).expect("OpenSSL verifies the chain at the old root");
    let leaf_and_issuer: String = chain
        .split_inclusive("-----END CERTIFICATE-----\n")
        .take(2)
        .collect();
    assert!(openssl_verify(&leaf_and_issuer, &old, dir.path()).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_sentry_renews_its_expiring_authority_by_itself() {
    // Two phases of 10 and 11 s, begun at 44 s, are over before the old authority is.
    change_roots(Change {
        ttl: 10,
        authority: Some(66),
        kill: false,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_the_root_is_changed_and_sentry_is_killed_at_each_step() {
    change_roots(Change {
        ttl: 16,
        authority: None,
        kill: true,
    })
    .await;
}

/// The same for longer, with certificates that live two minutes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "ten minutes: cargo test -p outrigger-e2e --test sentry_rotation -- --ignored"]
async fn no_request_fails_while_the_root_is_changed_slowly_with_and_without_sentry_killed() {
    for kill in [false, true] {
        change_roots(Change {
            ttl: 120,
            authority: None,
            kill,
        })
        .await;
    }
}
