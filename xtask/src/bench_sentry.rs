//! `cargo xtask bench-sentry`: what certificates cost; see `sentry/examples/load.rs`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::workspace::build;

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
    let folder = build(&args.profile, &["--bin", "sentry", "--example", "load"])?;
    let bin = args.bin.clone().unwrap_or_else(|| folder.join("sentry"));
    let status = std::process::Command::new(folder.join("examples/load"))
        .arg(bin)
        .arg(args.seconds.to_string())
        .status()
        .context("the load cannot be started")?;
    ensure!(status.success(), "the measurement failed");
    Ok(())
}
