//! `cargo xtask bench-actors`: calls of actors in the own sidecar and across two, activations, state transactions.
//!
//! As in `bench` everything is a process of its own that speaks the wire, so `--bins DIR` measures any compatible
//! `daprd` and `placement`.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use tempfile::TempDir;

use crate::bench::load::{Connection, DUE, Outcome, WORKER};
use crate::bench::process::{Process, free_port, free_ports};
use crate::workspace::build;

/// How long placement and sidecars may take until a call succeeds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Options of `cargo xtask bench-actors`.
#[derive(Args, Debug, Clone)]
pub(crate) struct BenchActorsArgs {
    /// Measure the `daprd` and `placement` in this folder instead of building ours
    #[arg(long, value_name = "DIR")]
    bins: Option<PathBuf>,
    /// The cargo profile to build with
    #[arg(long, default_value = "release")]
    profile: String,
    /// Seconds of load per case
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Calls per second of the fixed-rate load
    #[arg(long, default_value_t = 500.0)]
    rate: f64,
    #[arg(long, default_value_t = 16)]
    connections: u32,
    /// Bytes in a call's body, and in its answer's
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// State stores to measure transactions with; calls are measured with the first
    #[arg(long, value_delimiter = ',', default_value = "redis,in-memory,sqlite")]
    stores: Vec<String>,
}

/// The processes, ended in this order.
struct Stage {
    caller: Process,
    caller_port: u16,
    host: Process,
    host_port: u16,
    placement: Process,
    _others: Vec<Process>,
    load: PathBuf,
    folder: TempDir,
}

/// Where a case's load goes.
struct Case {
    name: &'static str,
    port: u16,
    method: &'static str,
    path: String,
    body: String,
    expect: u16,
    rates: Vec<Option<f64>>,
}

pub(crate) fn run(args: &BenchActorsArgs) -> Result<()> {
    let bins = match &args.bins {
        Some(bins) => std::path::absolute(bins)?,
        None => build(
            &args.profile,
            &["--bin", "daprd", "--bin", "placement", "--bin", "xtask"],
        )?,
    };
    let mut table = String::from(
        "| case | load | per second | p50 ms | p99 ms | CPU µs each |\n| --- | --- | ---: | ---: | ---: | ---: |\n",
    );
    let mut memory = String::new();
    for (number, store) in args.stores.iter().enumerate() {
        let stage = Stage::set(&bins, store)?;
        if number == 0 {
            let echo = |id: &str| format!("/v1.0/actors/bench/{id}/method/echo");
            let body = "x".repeat(args.size);
            let call = |name, port, id, rates: &[Option<f64>]| Case {
                name,
                port,
                method: "PUT",
                path: echo(id),
                body: body.clone(),
                expect: 200,
                rates: rates.to_vec(),
            };
            let both = [Some(args.rate), None];
            for case in [
                call("call, own sidecar", stage.host_port, WORKER, &both),
                call("call, two sidecars", stage.caller_port, WORKER, &both),
                call("activation, own sidecar", stage.host_port, DUE, &[None]),
            ] {
                measure(&stage, &case, args, &mut table)?;
            }
        }
        let padding = "x".repeat(args.size);
        let case = Case {
            name: "state transaction",
            port: stage.host_port,
            method: "POST",
            path: format!("/v1.0/actors/bench/{WORKER}/state"),
            body: format!(r#"[{{"operation":"upsert","request":{{"key":"k","value":"{padding}"}}}}]"#),
            expect: 204,
            rates: vec![Some(args.rate), None],
        };
        let mut of_store = String::new();
        measure(&stage, &case, args, &mut of_store)?;
        table.push_str(&of_store.replace("state transaction", &format!("state transaction, {store}")));
        for (name, process) in [
            ("host", &stage.host),
            ("caller", &stage.caller),
            ("placement", &stage.placement),
        ] {
            let resident = process.memory()?;
            writeln!(
                memory,
                "RSS after the load ({store}): {name} {:.1} MB, of it anonymous {:.1} MB",
                resident.rss_kb as f64 / 1e3,
                resident.anonymous_kb as f64 / 1e3
            )?;
        }
    }
    println!("{table}\n{memory}");
    Ok(())
}

/// Puts each load of a case on it, after a moment of warming up.
fn measure(stage: &Stage, case: &Case, args: &BenchActorsArgs, table: &mut String) -> Result<()> {
    for rate in &case.rates {
        send(stage, case, *rate, args, 1.0)?;
        let before = stage.host.cpu()? + stage.caller.cpu()?;
        let outcome = send(stage, case, *rate, args, args.seconds)?;
        ensure!(
            outcome.errors == 0,
            "{}: {} failed: {:?}",
            case.name,
            outcome.errors,
            outcome.first_error
        );
        let cpu = (stage.host.cpu()? + stage.caller.cpu()?).saturating_sub(before);
        let load = rate.map_or("full".to_owned(), |rate| format!("{rate}/s"));
        let line = format!(
            "| {} | {load} | {:.0} | {:.3} | {:.3} | {:.1} |",
            case.name,
            outcome.requests as f64 / outcome.seconds,
            outcome.latency.p50_ms,
            outcome.latency.p99_ms,
            cpu.as_secs_f64() * 1e6 / outcome.requests as f64,
        );
        eprintln!("{line}");
        table.push_str(&line);
        table.push('\n');
    }
    Ok(())
}

/// Runs the load client as a process of its own.
fn send(
    stage: &Stage,
    case: &Case,
    rate: Option<f64>,
    args: &BenchActorsArgs,
    seconds: f64,
) -> Result<Outcome> {
    let mut command = Command::new(&stage.load);
    command
        .args(["bench-load", "--address", &local(case.port).to_string()])
        .args([
            "--method",
            case.method,
            "--path",
            &case.path,
            "--body",
            &case.body,
        ])
        .args(["--expect", &case.expect.to_string()])
        .args(["--connections", &args.connections.to_string()])
        .args(["--seconds", &seconds.to_string()])
        .args(["--header", "content-type: application/json"]);
    if let Some(rate) = rate {
        command.args(["--rate", &rate.to_string()]);
    }
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.context("starting the load client")?;
    ensure!(
        output.status.success(),
        "the load client ended with {}",
        output.status
    );
    serde_json::from_slice(&output.stdout).context("reading the load client's report")
}

impl Stage {
    fn set(bins: &Path, store: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("outrigger-bench").tempdir()?;
        let load = match bins.join("xtask") {
            ours if ours.is_file() => ours,
            _ => std::env::current_exe()?,
        };
        let log = |name: &str| folder.path().join(format!("{name}.log"));
        let app_port = free_port()?;
        let mut app = Process::start(
            "app",
            Command::new(&load).args(["bench-app", "--port", &app_port.to_string()]),
            &log("app"),
        )?;
        app.wait_ready(local(app_port), "/healthz", &log("app"))?;
        let mut others = vec![app];
        let settings = match store {
            "redis" => {
                let port = free_port()?;
                let mut command = Command::new("redis-server");
                command.args([
                    "--bind",
                    "127.0.0.1",
                    "--save",
                    "",
                    "--appendonly",
                    "no",
                    "--port",
                ]);
                command.arg(port.to_string()).current_dir(folder.path());
                others.push(Process::start("redis", &mut command, &log("redis"))?);
                format!("\n  - {{name: redisHost, value: \"127.0.0.1:{port}\"}}")
            }
            "sqlite" => {
                let file = folder.path().join("state.db");
                format!("\n  - {{name: connectionString, value: \"{}\"}}", file.display())
            }
            _ => String::new(),
        };
        let resources = folder.path().join("resources");
        fs::create_dir_all(&resources)?;
        fs::write(
            resources.join("store.yaml"),
            format!(
                "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: store}}\nspec:\n  type: state.{store}\n  version: v1\n  \
                 metadata:\n  - {{name: actorStateStore, value: \"true\"}}{settings}\n"
            ),
        )?;
        let (placement, service) = start_placement(bins, folder.path(), &[])?;
        let sidecar = |role: &str, app: Option<u16>| {
            let mut command = Command::new(bins.join("daprd"));
            command.arg("--resources-path").arg(&resources);
            if let Some(app) = app {
                command.args(["--app-port", &app.to_string(), "--app-protocol", "http"]);
            }
            start_sidecar(&mut command, role, service, folder.path())
        };
        let (host, host_port) = sidecar("bench-host", Some(app_port))?;
        let (caller, caller_port) = sidecar("bench-caller", None)?;
        let stage = Self {
            caller,
            caller_port,
            host,
            host_port,
            placement,
            _others: others,
            load,
            folder,
        };
        stage.settle()?;
        Ok(stage)
    }

    /// Waits until actors answer through both sidecars, and makes those active whose state is written.
    fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for port in [self.caller_port, self.host_port] {
            for id in 0..64 {
                let path = format!("/v1.0/actors/bench/{id}/method/echo");
                let request = format!(
                    "PUT {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
                );
                loop {
                    let status =
                        Connection::open(local(port)).and_then(|mut open| open.exchange(request.as_bytes()));
                    match status {
                        Ok(200) => break,
                        other => ensure!(
                            Instant::now() < deadline,
                            "no actor answers through port {port} within {PATIENCE:?}, last {other:?}; logs are in {}",
                            self.folder.path().display()
                        ),
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
        Ok(())
    }
}

/// A placement service of one replica; its port.
pub(crate) fn start_placement(bins: &Path, folder: &Path, more: &[&str]) -> Result<(Process, u16)> {
    let [port, raft, health, metrics] = free_ports()?;
    let log = folder.join("placement.log");
    let mut placement = Process::start(
        "placement",
        Command::new(bins.join("placement"))
            .args(["--id", "p0", "--initial-cluster", &format!("p0=127.0.0.1:{raft}")])
            .args(["--port", &port.to_string(), "--listen-address", "127.0.0.1"])
            .args(["--healthz-port", &health.to_string()])
            .args(["--metrics-port", &metrics.to_string()])
            .args(more)
            .current_dir(folder),
        &log,
    )?;
    placement.wait_ready(local(health), "/healthz", &log)?;
    Ok((placement, port))
}

/// A sidecar at the placement service of this port; the port of its HTTP API.
pub(crate) fn start_sidecar(
    command: &mut Command,
    app_id: &str,
    placement: u16,
    folder: &Path,
) -> Result<(Process, u16)> {
    let [http, grpc, internal, metrics] = free_ports()?;
    command
        .args(["--app-id", app_id, "--dapr-listen-addresses", "127.0.0.1"])
        .args([
            "--dapr-http-port",
            &http.to_string(),
            "--dapr-grpc-port",
            &grpc.to_string(),
        ])
        .args(["--dapr-internal-grpc-port", &internal.to_string()])
        .args(["--metrics-port", &metrics.to_string()])
        .args(["--placement-host-address", &format!("127.0.0.1:{placement}")])
        .env("DAPR_HOST_IP", "127.0.0.1");
    let log = folder.join(format!("{app_id}.log"));
    let mut sidecar = Process::start(app_id, command, &log)?;
    sidecar.wait_ready(local(http), "/v1.0/healthz", &log)?;
    Ok((sidecar, http))
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
