//! `cargo xtask bench-placement`: how a table reaches a crowd of sidecars, and what placement and a sidecar keep in memory;
//! see `placement/examples/crowd.rs`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::bench_actors::{start_placement, start_sidecar};
use crate::workspace::build;

/// Options of `cargo xtask bench-placement`.
#[derive(Args, Debug, Clone)]
pub(crate) struct BenchPlacementArgs {
    /// A folder with `placement`, `daprd` and `crowd` instead of building them
    #[arg(long, value_name = "DIR")]
    bins: Option<PathBuf>,
    /// The cargo profile to build with
    #[arg(long, default_value = "release")]
    profile: String,
    /// Sidecars, one run for each number
    #[arg(long, value_delimiter = ',', default_value = "10,100,1000,10000")]
    hosts: Vec<usize>,
    /// Actor types
    #[arg(long, default_value_t = 100)]
    types: usize,
    /// How many of them each sidecar hosts
    #[arg(long, default_value_t = 1)]
    each: usize,
    /// Tell them whole tables, as Go's sidecars are told, instead of what changed
    #[arg(long)]
    whole: bool,
}

pub(crate) fn run(args: &BenchPlacementArgs) -> Result<()> {
    let (bins, crowd) = match &args.bins {
        Some(bins) => (bins.clone(), bins.join("crowd")),
        None => {
            let bins = build(
                &args.profile,
                &["--bin", "daprd", "--bin", "placement", "--example", "crowd"],
            )?;
            let crowd = bins.join("examples/crowd");
            (bins, crowd)
        }
    };
    for hosts in &args.hosts {
        println!(
            "== {hosts} sidecars, each with {} of {} types, told {}",
            args.each,
            args.types,
            if args.whole { "whole tables" } else { "changes" }
        );
        let folder = tempfile::Builder::new().prefix("outrigger-bench").tempdir()?;
        // Thousands on the cores of the service itself take longer than a round may with the default of 8 s.
        let more: &[&str] = if *hosts > 2000 {
            &[
                "--disseminate-timeout",
                "60s",
                "--keepalive-time",
                "10s",
                "--keepalive-timeout",
                "10s",
            ]
        } else {
            &[]
        };
        let (placement, port) = start_placement(&bins, folder.path(), more)?;
        let mut command = Command::new(bins.join("daprd"));
        command.env("NAMESPACE", "crowd");
        let (sidecar, _) = start_sidecar(&mut command, "onlooker", port, folder.path())?;
        let numbers = [
            usize::from(port),
            *hosts,
            args.types,
            args.each,
            usize::from(!args.whole),
            placement.id() as usize,
            sidecar.id() as usize,
        ];
        let status = Command::new(&crowd)
            .args(numbers.map(|number| number.to_string()))
            .status()
            .context("the crowd cannot be started")?;
        ensure!(status.success(), "the measurement failed");
    }
    Ok(())
}
