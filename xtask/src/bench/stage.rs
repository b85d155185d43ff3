//! The stage: app, floor and sidecars, started and ready, and the cases that are played on it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::app::Delivered;
use super::load::{Connection, DUE};
use super::numbers::Latencies;
use super::process::{Memory, Process, free_port};
use super::report::Case;
use super::{BenchArgs, Resolver};

/// A process whose cost counts.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) process: Process,
}

impl Server {
    pub(crate) fn memory(&self) -> Result<Memory> {
        self.process.memory()
    }
}

/// The ports of one sidecar.
#[derive(Clone, Copy)]
struct Ports {
    http: u16,
    grpc: u16,
    internal: u16,
    metrics: u16,
}

impl Ports {
    fn free() -> Result<Self> {
        Ok(Self {
            http: free_port()?,
            grpc: free_port()?,
            internal: free_port()?,
            metrics: free_port()?,
        })
    }
}

/// Everything that runs during the measurement.
pub(crate) struct Stage {
    pub(crate) xtask: PathBuf,
    pub(crate) daprd: Option<PathBuf>,
    pub(crate) app_port: u16,
    pub(crate) servers: Vec<Server>,
    caller: Option<Ports>,
    store: Option<Ports>,
    floor_port: u16,
    redis: bool,
    /// Not measured: the app and Redis.
    _others: Vec<Process>,
    /// Last, so that it goes after the processes that write to it.
    pub(crate) folder: TempDir,
}

impl Stage {
    /// Starts everything and waits until it is ready. Without a daprd there are only the direct call and the floor.
    pub(crate) fn set(xtask: &Path, daprd: Option<PathBuf>, args: &BenchArgs) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("outrigger-bench").tempdir()?;
        let log = |name: &str| folder.path().join(format!("{name}.log"));
        let (app_port, floor_port, middle_port) = (free_port()?, free_port()?, free_port()?);
        let mut app = Process::start(
            "app",
            Command::new(xtask).args(["bench-app", "--port", &app_port.to_string()]),
            &log("app"),
        )?;
        app.wait_ready(local(app_port), "/healthz", &log("app"))?;
        let mut others = vec![app];
        let mut servers = Vec::new();
        for (name, side, port, to) in [
            ("floor called", "called", middle_port, app_port),
            ("floor caller", "caller", floor_port, middle_port),
        ] {
            let mut command = Command::new(xtask);
            command.args([
                "bench-proxy",
                "--side",
                side,
                "--port",
                &port.to_string(),
                "--to",
                &to.to_string(),
            ]);
            let mut process = Process::start(name, &mut command, &log(name))?;
            match side {
                "caller" => drop(process.wait_ready(local(port), "/healthz", &log(name))?),
                // It takes HTTP/2 only; that it listens is all the other needs.
                _ => wait_listening(port)?,
            }
            servers.push(Server { name, process });
        }
        let mut stage = Self {
            xtask: xtask.to_path_buf(),
            daprd,
            app_port,
            servers,
            caller: None,
            store: None,
            floor_port,
            redis: false,
            _others: Vec::new(),
            folder,
        };
        if stage.daprd.is_some() {
            if wants_store(args)
                && let Some(redis) = stage.start_redis()?
            {
                others.push(redis);
            }
            stage.start_sidecars(args)?;
        }
        stage._others = others;
        Ok(stage)
    }

    /// A Redis of our own on a free port, its address written to a component; `None` where Redis is not installed.
    fn start_redis(&mut self) -> Result<Option<Process>> {
        if Command::new("redis-server").arg("--version").output().is_err() {
            eprintln!("no redis-server on PATH (cargo xtask setup installs it): its cases are left out");
            return Ok(None);
        }
        let port = free_port()?;
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        command.current_dir(self.folder.path());
        let redis = Process::start("redis", &mut command, &self.folder.path().join("redis.log"))?;
        wait_listening(port)?;
        let host = [("redisHost", format!("127.0.0.1:{port}"))];
        self.component("store", "pubsub-redis", "pubsub.redis", &host)?;
        self.subscription("store", "pubsub-redis")?;
        self.redis = true;
        Ok(Some(redis))
    }

    /// Caller and called, which are measured as they come, and a third one with components.
    fn start_sidecars(&mut self, args: &BenchArgs) -> Result<()> {
        let database = self.folder.path().join("state.db").display().to_string();
        self.component("store", "state-memory", "state.in-memory", &[])?;
        self.component(
            "store",
            "state-sqlite",
            "state.sqlite",
            &[("connectionString", database)],
        )?;
        self.component("store", "pubsub-memory", "pubsub.in-memory", &[])?;
        self.subscription("store", "pubsub-memory")?;
        let mut configuration = String::from(
            "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: bench\nspec:\n  nameResolution:\n",
        );
        match args.resolver {
            Resolver::Mdns => configuration.push_str("    component: mdns\n"),
            Resolver::Sqlite => {
                let names = self.folder.path().join("names.db");
                configuration.push_str("    component: sqlite\n    version: v1\n    configuration:\n");
                configuration.push_str(&format!("      connectionString: {}\n", names.display()));
            }
        }
        fs::write(self.folder.path().join("config.yaml"), configuration)?;
        let mut ports = Vec::new();
        let names = [
            ("daprd called", Some(self.app_port)),
            ("daprd caller", None),
            ("daprd store", Some(self.app_port)),
        ];
        for (name, app_port) in &names[..if wants_store(args) { 3 } else { 2 }] {
            let (process, address) = self.start_sidecar(name, *app_port)?;
            ports.push(address);
            self.servers.push(Server { name, process });
        }
        (self.caller, self.store) = (ports.get(1).copied(), ports.get(2).copied());
        self.settle()
    }

    /// Waits until the caller finds the called app and the stores hold the value that is read.
    fn settle(&self) -> Result<()> {
        let Some(caller) = self.caller else { return Ok(()) };
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = exchange(caller.http, "POST", "/v1.0/invoke/bench-called/method/echo", "{}");
            match answer {
                Ok((200, _)) => break,
                answer if Instant::now() > deadline => {
                    anyhow::bail!("the first invocation does not succeed: {answer:?}{}", self.logs())
                }
                _ => thread::sleep(Duration::from_millis(50)),
            }
        }
        let Some(store) = self.store else { return Ok(()) };
        for name in ["state-memory", "state-sqlite"] {
            let body = format!(r#"[{{"key":"key","value":"{}"}}]"#, "v".repeat(1022));
            let answer = exchange(store.http, "POST", &format!("/v1.0/state/{name}"), &body)?;
            ensure!(
                answer.0 == 204,
                "saving state to {name}: {answer:?}{}",
                self.logs()
            );
        }
        Ok(())
    }

    fn logs(&self) -> String {
        ["daprd called", "daprd caller", "daprd store"]
            .map(|name| {
                let text =
                    fs::read_to_string(self.folder.path().join(format!("{name}.log"))).unwrap_or_default();
                format!("\n--- {name} ---\n{text}")
            })
            .concat()
    }

    fn start_sidecar(&self, name: &'static str, app_port: Option<u16>) -> Result<(Process, Ports)> {
        let ports = Ports::free()?;
        let log = self.folder.path().join(format!("{name}.log"));
        let mut process = Process::start(name, &mut self.sidecar(name, app_port, ports)?, &log)?;
        process.wait_ready(local(ports.http), "/v1.0/healthz", &log)?;
        Ok((process, ports))
    }

    /// The command of a sidecar whose app id is `name` with dashes, as the Dapr CLI would start it.
    fn sidecar(&self, name: &str, app_port: Option<u16>, ports: Ports) -> Result<Command> {
        let daprd = self.daprd.as_ref().context("there is a daprd")?;
        let role = name.rsplit(' ').next().unwrap_or(name);
        let resources = self.folder.path().join(role);
        fs::create_dir_all(&resources)?;
        let mut command = Command::new(daprd);
        command.args([
            "--app-id",
            &format!("bench-{role}"),
            "--dapr-listen-addresses",
            "127.0.0.1",
        ]);
        command.args([
            "--dapr-http-port",
            &ports.http.to_string(),
            "--dapr-grpc-port",
            &ports.grpc.to_string(),
        ]);
        command.args(["--dapr-internal-grpc-port", &ports.internal.to_string()]);
        command.args(["--metrics-port", &ports.metrics.to_string()]);
        command.arg("--resources-path").arg(&resources);
        command
            .arg("--config")
            .arg(self.folder.path().join("config.yaml"));
        if let Some(port) = app_port {
            command.args(["--app-port", &port.to_string(), "--app-protocol", "http"]);
        }
        Ok(command)
    }

    /// Starts one more sidecar with the in-memory components and the app, and gives the times from `exec` until it
    /// is healthy outwards and healthy as a whole.
    pub(crate) fn time_start(&self) -> Result<(Duration, Duration)> {
        let ports = Ports::free()?;
        let log = self.folder.path().join("start.log");
        let mut process = Process::start(
            "daprd start",
            &mut self.sidecar("daprd start", Some(self.app_port), ports)?,
            &log,
        )?;
        let outbound = process.wait_ready(local(ports.http), "/v1.0/healthz/outbound", &log)?;
        let whole = process.wait_ready(local(ports.http), "/v1.0/healthz", &log)?;
        Ok((outbound, whole))
    }

    pub(crate) fn component(
        &self,
        role: &str,
        name: &str,
        kind: &str,
        metadata: &[(&str, String)],
    ) -> Result<()> {
        let mut text = format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: {name}\nspec:\n  type: {kind}\n  version: v1\n"
        );
        text.push_str(if metadata.is_empty() {
            "  metadata: []\n"
        } else {
            "  metadata:\n"
        });
        for (name, value) in metadata {
            text.push_str(&format!("  - name: {name}\n    value: \"{value}\"\n"));
        }
        self.resource(role, name, &text)
    }

    fn subscription(&self, role: &str, pubsub: &str) -> Result<()> {
        let text = format!(
            "apiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata:\n  name: {pubsub}\nspec:\n  pubsubname: {pubsub}\n  topic: bench\n  routes:\n    default: /event\n"
        );
        self.resource(role, &format!("subscription-{pubsub}"), &text)
    }

    fn resource(&self, role: &str, name: &str, text: &str) -> Result<()> {
        let folder = self.folder.path().join(role);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("{name}.yaml")), text).context("writing a resource")
    }

    /// The events that reached the app since this was last asked.
    pub(crate) fn delivered(&self) -> Result<Delivered> {
        let (status, body) = exchange(self.app_port, "GET", "/stats", "")?;
        ensure!(status == 200, "the app's statistics: {status} {body}");
        serde_json::from_str(&body).context("reading the app's statistics")
    }

    /// Waits until `count` events have reached the app.
    pub(crate) fn delivered_all(&self, count: u64) -> Result<Delivered> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut sum = Delivered {
            events: 0,
            delay: None,
        };
        while sum.events < count {
            ensure!(
                Instant::now() < deadline,
                "{} of {count} events were delivered{}",
                sum.events,
                self.logs()
            );
            let part = self.delivered()?;
            sum.events += part.events;
            // The first part holds all but the stragglers; its percentiles are those of the whole.
            let bulk: Option<Latencies> = part.delay.filter(|_| sum.delay.is_none());
            sum.delay = bulk.or(sum.delay);
            thread::sleep(Duration::from_millis(20));
        }
        Ok(sum)
    }

    /// The cases that can be played.
    pub(crate) fn cases(&self, args: &BenchArgs) -> Vec<Case> {
        let body = "x".repeat(args.size);
        let post = |name, port, path: &str, servers: &[&'static str]| Case {
            name,
            address: local(port),
            method: "POST",
            path: path.to_owned(),
            body: body.clone(),
            expect: 200,
            servers: servers.to_vec(),
            delivers: false,
        };
        let mut cases = vec![
            post("direct", self.app_port, "/echo", &[]),
            post(
                "floor",
                self.floor_port,
                "/echo",
                &["floor caller", "floor called"],
            ),
        ];
        let mut more = Vec::new();
        if let Some(caller) = self.caller {
            let pair = ["daprd caller", "daprd called"];
            more.push(post(
                "invoke",
                caller.http,
                "/v1.0/invoke/bench-called/method/echo",
                &pair,
            ));
        }
        if let Some(store) = self.store {
            for (name, path) in [
                ("state get memory", "/v1.0/state/state-memory/key"),
                ("state get sqlite", "/v1.0/state/state-sqlite/key"),
            ] {
                let case = post(name, store.http, path, &["daprd store"]);
                more.push(Case {
                    method: "GET",
                    body: String::new(),
                    ..case
                });
            }
            let padding = "x".repeat(args.size.saturating_sub(DUE.len() + 20));
            let event = format!(r#"{{"due":"{DUE}","padding":"{padding}"}}"#);
            for (name, path, there) in [
                ("publish memory", "/v1.0/publish/pubsub-memory/bench", true),
                ("publish redis", "/v1.0/publish/pubsub-redis/bench", self.redis),
            ] {
                let case = post(name, store.http, path, &["daprd store"]);
                more.extend(there.then(|| Case {
                    body: event.clone(),
                    expect: 204,
                    delivers: true,
                    ..case
                }));
            }
        }
        more.retain(|case| {
            args.only.is_empty() || args.only.iter().any(|part| case.name.contains(part.as_str()))
        });
        cases.append(&mut more);
        cases
    }
}

/// Whether a case is chosen that needs components.
fn wants_store(args: &BenchArgs) -> bool {
    const CASES: [&str; 4] = [
        "state get memory",
        "state get sqlite",
        "publish memory",
        "publish redis",
    ];
    args.only.is_empty()
        || CASES
            .iter()
            .any(|case| args.only.iter().any(|part| case.contains(part.as_str())))
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn wait_listening(port: u16) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::net::TcpStream::connect(local(port)).is_err() {
        ensure!(Instant::now() < deadline, "nothing listens on port {port}");
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// One request on a connection of its own; status and body.
fn exchange(port: u16, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
    let mut connection = Connection::open(local(port))?;
    let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n");
    let status =
        connection.exchange(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes())?;
    Ok((status, connection.last_body()))
}
