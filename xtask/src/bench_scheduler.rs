//! `cargo xtask bench-scheduler`: what jobs cost; see `scheduler/examples/scheduler-load.rs`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::workspace::{cargo, root};

/// Options of `cargo xtask bench-scheduler`.
#[derive(Args, Debug, Clone)]
pub(crate) struct BenchSchedulerArgs {
    /// Measure this scheduler instead of building ours
    #[arg(long, value_name = "FILE")]
    bin: Option<PathBuf>,
    /// The cargo profile to build with
    #[arg(long, default_value = "release")]
    profile: String,
    /// Where jobs are kept: embedded, etcd (which must be installed), or both
    #[arg(long, value_delimiter = ',', default_value = "embedded,etcd")]
    stores: Vec<String>,
    /// Jobs that are stored before the measurement of the start; 0 = leave it out
    #[arg(long, default_value_t = 1_000_000)]
    stored: usize,
    /// Measure instead what so many jobs of one app are, one call each
    #[arg(long, default_value_t = 0)]
    by_calls: usize,
}

pub(crate) fn run(args: &BenchSchedulerArgs) -> Result<()> {
    let root = root()?;
    let built = cargo(&root)
        .args(["build", "--profile", &args.profile, "--workspace"])
        .args(["--bin", "scheduler", "--example", "scheduler-load"])
        .status()
        .context("cargo cannot be started")?;
    ensure!(built.success(), "the build of the scheduler failed");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let folder = target.join(&args.profile);
    let bin = args.bin.clone().unwrap_or_else(|| folder.join("scheduler"));
    for store in &args.stores {
        let status = std::process::Command::new(folder.join("examples/scheduler-load"))
            .arg(&bin)
            .arg(store)
            .args([args.stored.to_string(), args.by_calls.to_string()])
            .status()
            .context("the load cannot be started")?;
        ensure!(status.success(), "the measurement with {store} failed");
    }
    Ok(())
}
