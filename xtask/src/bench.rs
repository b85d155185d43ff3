//! `cargo xtask bench`: what the sidecars cost, against the floor of a bare two-hop proxy in the same run.
//!
//! Everything is a process of its own that speaks the wire: the app, the floor's two proxies, the load client (all
//! of them this binary under hidden names) and the sidecars. So `--bins DIR` measures any compatible `daprd`.
//! All of them stay up for the whole run and the cases take turns, round after round; a ratio is formed within a
//! round and the median over the rounds is reported, so that a machine's mood hits both sides of a ratio alike.

pub(crate) mod app;
pub(crate) mod load;
mod numbers;
pub(crate) mod process;
pub(crate) mod proxy;
mod report;
mod stage;
mod startup;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::workspace::{self, root};
use load::Outcome;
use process::Memory;
use report::{Case, Measure, Report};
use stage::{Server, Stage};

/// Options of `cargo xtask bench`.
#[derive(Args, Debug, Clone)]
pub(crate) struct BenchArgs {
    /// Measure the `daprd` in this folder instead of building ours
    #[arg(long, value_name = "DIR")]
    bins: Option<PathBuf>,
    /// The cargo profile to build with
    #[arg(long, default_value = "release")]
    profile: String,
    /// How often all cases are gone through
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of load per case, load and round
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Requests per second of the fixed-rate load
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    #[arg(long, default_value_t = 16)]
    connections: u32,
    /// Bytes in a request's body, and in its answer's
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Only cases whose name contains one of these; direct and floor are always there
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// How one sidecar finds the other
    #[arg(long, value_enum, default_value_t = Resolver::Mdns)]
    resolver: Resolver,
    /// Starts of daprd to time; 0 for none
    #[arg(long, default_value_t = 10)]
    starts: u32,
    /// Where the JSON goes, relative to the workspace
    #[arg(long, default_value = "bench-out/bench.json")]
    json: PathBuf,
}

/// A name resolution component.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq)]
enum Resolver {
    Mdns,
    Sqlite,
}

/// Which load a measure is of.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Load {
    /// A schedule of `--rate` requests per second
    Fixed,
    /// As many as are answered
    Full,
}

/// Builds, measures, prints and writes the report.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    let root = root()?;
    let built = build(args)?;
    let bins = args
        .bins
        .as_ref()
        .map_or_else(|| Ok(built.clone()), std::path::absolute)?;
    let with_sidecars = bins.join("daprd").is_file();
    ensure!(
        args.bins.is_none() || with_sidecars,
        "{} holds no daprd",
        bins.display()
    );
    let stage = Stage::set(
        &built.join("xtask"),
        with_sidecars.then(|| bins.join("daprd")),
        args,
    )?;
    let mut report = Report::new(args, &bins)?;
    for server in &stage.servers {
        report.idle.push((server.name.to_owned(), server.memory()?));
    }
    let cases = stage.cases(args);
    for round in 0..args.rounds {
        for case in &cases {
            for load in [Load::Fixed, Load::Full] {
                let measure =
                    measure(&stage, case, load, args).with_context(|| format!("case {}", case.name))?;
                eprintln!("round {} {:<22} {}", round + 1, case.name, measure.line(load));
                report.add(case, load, measure);
            }
        }
    }
    for server in &stage.servers {
        report.loaded.push((server.name.to_owned(), server.memory()?));
    }
    if with_sidecars && args.starts > 0 {
        report.startup = Some(startup::measure(&stage, args)?);
    }
    drop(stage);
    println!("{report}");
    report.write(&root.join(&args.json))
}

/// Builds this binary and daprd with the profile; the folder they are in.
fn build(args: &BenchArgs) -> Result<PathBuf> {
    let ours: &[&str] = if args.bins.is_none() {
        &["--quiet", "--bin", "xtask", "--bin", "daprd"]
    } else {
        &["--quiet", "--bin", "xtask"]
    };
    workspace::build(&args.profile, ours)
}

/// Puts one load on one case.
fn measure(stage: &Stage, case: &Case, load: Load, args: &BenchArgs) -> Result<Measure> {
    let servers: Vec<&Server> = stage
        .servers
        .iter()
        .filter(|server| case.servers.contains(&server.name))
        .collect();
    send(stage, case, load, args, 0.5)?;
    stage.delivered()?;
    let before = servers
        .iter()
        .map(|server| server.process.cpu())
        .collect::<Result<Vec<_>>>()?;
    let outcome = send(stage, case, load, args, args.seconds)?;
    // An event may still be on its way when the publisher has its answer; what it costs belongs to it.
    let delivered = if case.delivers {
        Some(stage.delivered_all(outcome.requests)?)
    } else {
        None
    };
    let mut cpu_us = 0.0;
    let mut memory = Memory::default();
    for (server, before) in servers.iter().zip(before) {
        cpu_us += server.process.cpu()?.saturating_sub(before).as_secs_f64() * 1e6;
        memory = memory.max(server.memory()?);
    }
    ensure!(
        outcome.errors == 0,
        "{} of the requests failed: {:?}",
        outcome.errors,
        outcome.first_error
    );
    Ok(Measure {
        requests_per_second: outcome.requests as f64 / outcome.seconds,
        cpu_us_per_request: (!servers.is_empty()).then(|| cpu_us / outcome.requests as f64),
        // How long an event takes at full load only says how long the queue is.
        delivery: delivered.and_then(|delivered| delivered.delay),
        latency: outcome.latency,
        lag: outcome.lag,
        memory: (!servers.is_empty()).then_some(memory),
    })
}

/// Runs the load client as a process of its own.
fn send(stage: &Stage, case: &Case, load: Load, args: &BenchArgs, seconds: f64) -> Result<Outcome> {
    let mut command = Command::new(&stage.xtask);
    command.args([
        "bench-load",
        "--address",
        &case.address.to_string(),
        "--method",
        case.method,
    ]);
    command.args([
        "--path",
        &case.path,
        "--body",
        &case.body,
        "--expect",
        &case.expect.to_string(),
    ]);
    command.args([
        "--connections",
        &args.connections.to_string(),
        "--seconds",
        &seconds.to_string(),
    ]);
    if !case.body.is_empty() {
        command.args(["--header", "content-type: application/json"]);
    }
    if load == Load::Fixed {
        command.args(["--rate", &args.rate.to_string()]);
    }
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .context("starting the load client")?;
    ensure!(
        output.status.success(),
        "the load client ended with {}",
        output.status
    );
    serde_json::from_slice(&output.stdout).context("reading the load client's report")
}
