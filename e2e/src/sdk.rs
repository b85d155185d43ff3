//! Official SDKs against our sidecars: the shared world (Redis, SQLite, secrets), apps with sidecars, and a driver
//! program whose printed checks become the test's result.
//!
//! Drivers and apps are programs in the SDK's language under `e2e/sdk/`, with the unmodified SDK that
//! `cargo xtask setup` installs. A driver prints one JSON line per check, `{"check": "...", "ok": true}` or with
//! `"ok": false, "detail": "..."`, and at the end `{"done": N}`, so that one which dies on the way is noticed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::process::{Daprd, DaprdOptions, Port, Program, RedisServer, Running, free_port};
use crate::servers::{Kind, Server};
use crate::services::{RunningService, Service};

/// How long a driver may take for all its checks.
const DRIVER_LIMIT: Duration = Duration::from_secs(240);

/// Without a policy, Redis' component acknowledges what an app answers with RETRY, as upstream's does.
const RETRIES: &str = "
apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: {name: again}
spec:
  policies:
    retries:
      again: {policy: constant, duration: 50ms, maxRetries: 5}
  targets:
    components:
      pubsub:
        inbound: {retry: again}
";

/// The repository's root folder.
///
/// # Panics
/// Never: this crate lies in a folder of it.
#[must_use]
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .expect("the crate lies in a folder of the workspace")
        .to_path_buf()
}

/// Something `cargo xtask setup` installs, by its path from the root.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn installed(path: &str) -> PathBuf {
    let full = root().join(path);
    assert!(
        full.exists(),
        "{} is not there: run `cargo xtask setup` once, which installs the SDKs",
        full.display()
    );
    full
}

/// What all sidecars of one SDK test share.
pub struct World {
    dir: tempfile::TempDir,
    resources: Vec<String>,
    config: String,
    env: Vec<(String, String)>,
    flags: Vec<String>,
    sidecars: Vec<Sidecar>,
    /// The control plane.
    services: Vec<RunningService>,
    /// The database behind `querystore`.
    postgres: Option<Server>,
    /// Ends last.
    redis: RedisServer,
}

/// A sidecar, and its app if it has one. Dropping it ends both, the app first.
struct Sidecar {
    app: Option<Running>,
    daprd: Daprd,
    _port: Option<Port>,
}

/// How an app is reached, and how it is started.
pub struct App {
    /// `--app-protocol`.
    pub protocol: &'static str,
    /// The program; it gets `APP_PORT` and the sidecar's ports as `outrigger run` sets them.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
}

impl World {
    /// Redis and resources: `statestore` (SQLite), `memstore`, `pubsub` (Redis), `mempubsub`, `secrets` (a file),
    /// `redisbind`, `config` and `lock` (Redis), `tick` (an input binding), and more that the test itself needs. Sidecars find each other through SQLite, not by multicast.
    ///
    /// # Panics
    /// If Redis is not installed.
    pub async fn start(more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("cannot make a temporary folder: {e}"));
        let redis = RedisServer::start(dir.path()).await;
        let path = |name: &str| dir.path().join(name).display().to_string();
        let secrets = r#"{"plain": "hush", "nested": {"inner": "deep"}}"#;
        std::fs::write(path("secrets.json"), secrets).unwrap_or_else(|e| panic!("cannot write secrets: {e}"));
        let host = format!("127.0.0.1:{}", redis.port());
        let mut resources = vec![
            component(
                "statestore",
                "state.sqlite",
                &[("connectionString", &path("state.db"))],
            ),
            component("memstore", "state.in-memory", &[]),
            component("pubsub", "pubsub.redis", &[("redisHost", &host)]),
            RETRIES.to_owned(),
            component("mempubsub", "pubsub.in-memory", &[]),
            component("redisbind", "bindings.redis", &[("redisHost", &host)]),
            component("config", "configuration.redis", &[("redisHost", &host)]),
            component("lock", "lock.redis", &[("redisHost", &host)]),
            component(
                "tick",
                "bindings.cron",
                &[("schedule", "@every 1s"), ("direction", "input")],
            ),
            component(
                "secrets",
                "secretstores.local.file",
                &[("secretsFile", &path("secrets.json"))],
            ),
        ];
        resources.extend(more.iter().map(|text| (*text).to_owned()));
        let names = path("names.db");
        // A long interval: with the default of 5 s an entry lapses when a busy machine renews it a second late.
        let config = format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {{name: sdk}}\nspec:\n  nameResolution:\n    \
             component: sqlite\n    version: v1\n    configuration: {{connectionString: \"{names}\", updateInterval: 60s}}\n  \
             features:\n  - {{name: ActorStateTTL, enabled: true}}\n"
        );
        Self {
            dir,
            resources,
            config,
            env: Vec::new(),
            flags: Vec::new(),
            sidecars: Vec::new(),
            services: Vec::new(),
            postgres: None,
            redis,
        }
    }

    /// Sets an environment variable for apps and drivers.
    #[must_use]
    pub fn with_env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Starts PostgreSQL and adds the state store on it, `querystore`, the one that can be queried.
    ///
    /// # Panics
    /// If it is not installed.
    pub async fn with_queries(mut self) -> Self {
        let server = Server::start(Kind::Postgres).await;
        let (_, of_type, pairs) = server.component();
        let pairs: Vec<(&str, &str)> = pairs
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        self.resources.push(component("querystore", of_type, &pairs));
        self.postgres = Some(server);
        self
    }

    /// Starts placement and scheduler and makes sidecars use them; actors keep their state in Redis.
    ///
    /// # Panics
    /// If a service does not come up.
    pub async fn with_actors(mut self) -> Self {
        for (name, flag) in [
            ("placement", "--placement-host-address"),
            ("scheduler", "--scheduler-host-address"),
        ] {
            let service = Service::named(name).expect("the service exists");
            let dir = self.dir.path().join(name);
            std::fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("cannot make {}: {e}", dir.display()));
            let mut running = RunningService::start(service, &dir, &[], &[]);
            running.wait_ready().await;
            self.flags
                .extend([flag.to_owned(), format!("127.0.0.1:{}", running.port(0))]);
            self.services.push(running);
        }
        let address = format!("127.0.0.1:{}", self.redis.port());
        let settings = [("redisHost", address.as_str()), ("actorStateStore", "true")];
        self.resources
            .push(component("actorstore", "state.redis", &settings));
        self
    }

    /// Starts a sidecar without an app and waits until it is ready.
    ///
    /// # Panics
    /// If it does not come up.
    pub async fn sidecar(&mut self, app_id: &str) {
        let options = self.options(app_id);
        let daprd = Daprd::start_ready(&options, &self.dir.path().join(app_id)).await;
        self.sidecars.push(Sidecar {
            app: None,
            daprd,
            _port: None,
        });
    }

    /// Starts an app with a sidecar and waits until both are ready.
    ///
    /// # Panics
    /// If one does not come up.
    pub async fn app(&mut self, app_id: &str, app: &App) {
        self.instance(app_id, app_id, app).await;
    }

    /// As [`World::app`], one of several with the same app id; `name` tells their folders apart.
    ///
    /// # Panics
    /// If one does not come up.
    pub async fn instance(&mut self, app_id: &str, name: &str, app: &App) {
        let port = free_port();
        let options = DaprdOptions {
            app_port: Some(port.number()),
            app_protocol: Some(app.protocol.to_owned()),
            ..self.options(app_id)
        };
        let dir = self.dir.path().join(name);
        let daprd = Daprd::start(&options, &dir);
        let program = Program::new(&format!("app-{app_id}"), &app.program, &dir)
            .args(app.args.iter().cloned())
            .env("APP_PORT", &port.number().to_string());
        let started = with_env(program, &daprd, &self.env).start();
        let mut sidecar = Sidecar {
            app: Some(started),
            daprd,
            _port: Some(port),
        };
        let ready = sidecar.daprd.try_ready(&[204]).await;
        let app = sidecar.app.as_ref().map(Running::log_tail).unwrap_or_default();
        ready.unwrap_or_else(|problem| panic!("{problem}\n{app}"));
        self.sidecars.push(sidecar);
    }

    fn options(&self, app_id: &str) -> DaprdOptions {
        DaprdOptions {
            app_id: app_id.to_owned(),
            resources: self.resources.clone(),
            config: Some(self.config.clone()),
            env: vec![("DAPR_HOST_IP".to_owned(), "127.0.0.1".to_owned())],
            flags: self.flags.clone(),
            ..DaprdOptions::default()
        }
    }

    /// The sidecar of an app id.
    ///
    /// # Panics
    /// If none was started.
    #[must_use]
    pub fn daprd(&self, app_id: &str) -> &Daprd {
        let found = self
            .sidecars
            .iter()
            .find(|sidecar| sidecar.daprd.app_id() == app_id);
        &found
            .unwrap_or_else(|| panic!("no sidecar {app_id} was started"))
            .daprd
    }

    /// Waits until the sidecar of an app id has ended.
    ///
    /// # Panics
    /// If it does not within ten seconds, or not with exit code 0.
    pub async fn ended(&mut self, app_id: &str) {
        let mut found = self
            .sidecars
            .iter_mut()
            .filter(|sidecar| sidecar.daprd.app_id() == app_id);
        let sidecar = found
            .next()
            .unwrap_or_else(|| panic!("no sidecar {app_id} was started"));
        let status = sidecar.daprd.process().wait_exit(Duration::from_secs(10)).await;
        assert!(
            status.is_some_and(|status| status.success()),
            "the sidecar {app_id} should have ended in order: {status:?}"
        );
    }

    /// Runs a driver beside the sidecar of `app_id` and reports its checks.
    ///
    /// # Panics
    /// If a check failed, or the driver ended early or ran fewer than `at_least` checks.
    pub async fn drive(&mut self, app_id: &str, program: &Path, args: &[String], at_least: usize) {
        let dir = self.dir.path().to_path_buf();
        let driver = Program::new(&format!("driver-{app_id}"), program, &dir).args(args.iter().cloned());
        let mut running = with_env(driver, self.daprd(app_id), &self.env).start();
        let ended = running.wait_exit(DRIVER_LIMIT).await;
        let log = running.log();
        let problems = judge(&log, at_least);
        if problems.is_empty() && ended.is_some_and(|status| status.success()) {
            return;
        }
        for sidecar in &mut self.sidecars {
            if let Some(app) = &sidecar.app {
                eprintln!("{}", app.log_tail());
            }
        }
        panic!(
            "{} problem(s), the driver ended with {ended:?}\n{}\n{}",
            problems.len(),
            running.log_tail(),
            problems.join("\n")
        );
    }
}

/// The variables by which SDKs find their sidecar, and the world's own.
fn with_env(program: Program, daprd: &Daprd, more: &[(String, String)]) -> Program {
    let program = more
        .iter()
        .fold(program, |program, (key, value)| program.env(key, value));
    program
        .env("APP_ID", daprd.app_id())
        .env("DAPR_HTTP_PORT", &daprd.http_port().to_string())
        .env("DAPR_GRPC_PORT", &daprd.grpc_port().to_string())
        .env("PYTHONUNBUFFERED", "1")
        .env("PYTHONDONTWRITEBYTECODE", "1")
}

/// A Component resource.
#[must_use]
pub fn component(name: &str, kind: &str, metadata: &[(&str, &str)]) -> String {
    let mut text = format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: {name}}}\nspec:\n  type: {kind}\n  version: v1\n"
    );
    if !metadata.is_empty() {
        text.push_str("  metadata:\n");
    }
    for (name, value) in metadata {
        text.push_str(&format!("  - {{name: {name}, value: \"{value}\"}}\n"));
    }
    text
}

/// A line of a driver.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Check {
        check: String,
        ok: bool,
        #[serde(default)]
        detail: String,
    },
    Done {
        done: usize,
    },
}

/// What is wrong with a driver's output. Lines that are no JSON are the SDK's own chatter.
fn judge(log: &str, at_least: usize) -> Vec<String> {
    let (mut count, mut done, mut problems) = (0, None, Vec::new());
    for line in log.lines() {
        match serde_json::from_str(line) {
            Ok(Line::Check { check, ok, detail }) => {
                count += 1;
                if !ok {
                    problems.push(format!("FAILED {check}: {detail}"));
                }
            }
            Ok(Line::Done { done: total }) => done = Some(total),
            Err(_) => {}
        }
    }
    if done != Some(count) {
        problems.push(format!(
            "the driver stopped early: {count} checks, and at the end {done:?}"
        ));
    }
    if count < at_least {
        problems.push(format!("only {count} checks, expected at least {at_least}"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_lines_are_no_problem_and_chatter_is_passed_over() {
        let log = "starting\n{\"check\":\"a\",\"ok\":true}\nx\n{\"done\":1}\n";
        assert_eq!(judge(log, 1), Vec::<String>::new());
    }

    #[test]
    fn failed_checks_early_ends_and_missing_checks_are_problems() {
        let log = "{\"check\":\"a\",\"ok\":false,\"detail\":\"why\"}\n";
        let problems = judge(log, 2);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert_eq!(problems[0], "FAILED a: why");
    }
}
