//! `cargo xtask bench-components`: what components cost over the client libraries below them; see
//! `components/api/src/testing/overhead.rs` and the examples named here.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::workspace::build;

const EXAMPLES: [&str; 7] = [
    "redis_overhead",
    "postgresql_overhead",
    "sqlite_overhead",
    "kafka_overhead",
    "rabbitmq_overhead",
    "mqtt_overhead",
    "http_overhead",
];

/// Options of `cargo xtask bench-components`.
#[derive(Args, Debug, Clone)]
pub(crate) struct BenchComponentsArgs {
    /// The cargo profile to build with
    #[arg(long, default_value = "release")]
    profile: String,
}

/// Builds and runs them, one after the other.
pub(crate) fn run(args: &BenchComponentsArgs) -> Result<()> {
    let targets: Vec<&str> = EXAMPLES
        .iter()
        .flat_map(|example| ["--example", example])
        .collect();
    let folder = build(&args.profile, &targets)?;
    println!("| component | plain client, calls/s | component, calls/s | ratio |");
    println!("| --- | ---: | ---: | ---: |");
    for example in EXAMPLES {
        let status = Command::new(folder.join("examples").join(example))
            .status()
            .with_context(|| format!("{example} cannot be started"))?;
        ensure!(status.success(), "{example} ended with {status}");
    }
    Ok(())
}
