//! `cargo xtask bench-sentry`: what certificates cost; see `sentry/examples/load.rs`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::workspace::{cargo, root};

/// Options of `cargo xtask bench-sentry`.
#[derive(Args, Debug, Clone)]
pub(crate) struct BenchSentryArgs {
    /// Measure this sentry instead of building ours
    #[arg(long, value_name = "FILE")]
    bin: Option<PathBuf>,
    /// The cargo profile to build with
    #[arg(long, default_value = "release")]
    profile: String,
    /// Seconds per case
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

pub(crate) fn run(args: &BenchSentryArgs) -> Result<()> {
    let root = root()?;
    let built = cargo(&root)
        .args(["build", "--profile", &args.profile, "-p", "outrigger-sentry"])
        .args(["--bin", "sentry", "--example", "load"])
        .status()
        .context("cargo cannot be started")?;
    ensure!(built.success(), "the build of sentry failed");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let folder = target.join(&args.profile);
    let bin = args.bin.clone().unwrap_or_else(|| folder.join("sentry"));
    let status = std::process::Command::new(folder.join("examples/load"))
        .arg(bin)
        .arg(args.seconds.to_string())
        .status()
        .context("the load cannot be started")?;
    ensure!(status.success(), "the measurement failed");
    Ok(())
}
