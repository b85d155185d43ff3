//! `cargo xtask bench-features`: what each cargo feature of daprd adds, in bytes of the program and in build time.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Deserialize;

use crate::workspace::{build_folder, cargo, root};

const PACKAGE: &str = "outrigger-sidecar";

/// Options of `cargo xtask bench-features`.
#[derive(Args, Debug, Clone)]
pub(crate) struct BenchFeaturesArgs {
    /// The cargo profile to build with; `release` takes minutes per feature
    #[arg(long, default_value = "quick-release")]
    profile: String,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    features: BTreeMap<String, Vec<String>>,
}

/// A build: how large daprd became and how long it took.
#[derive(Clone, Copy)]
struct Built {
    bytes: u64,
    time: Duration,
}

pub(crate) fn run(args: &BenchFeaturesArgs) -> Result<()> {
    let root = root()?;
    let features = features(&root)?;
    // The first build compiles what all of them share, the second shows what making the program alone takes.
    build(&root, args, "")?;
    let none = rebuild(&root, args, "")?;
    println!("| feature | bytes added | build time added, s |\n| --- | ---: | ---: |");
    println!(
        "| none: {} bytes, {:.0} s for the program alone | | |",
        none.bytes,
        none.time.as_secs_f64()
    );
    for feature in &features {
        let with = rebuild(&root, args, feature)?;
        println!(
            "| `{feature}` | {} | {:.0} |",
            with.bytes.saturating_sub(none.bytes),
            with.time.saturating_sub(none.time).as_secs_f64()
        );
    }
    let all = rebuild(&root, args, &features.join(","))?;
    println!(
        "| all: {} bytes | {} | |",
        all.bytes,
        all.bytes.saturating_sub(none.bytes)
    );
    Ok(())
}

fn features(root: &Path) -> Result<Vec<String>> {
    let told = cargo(root)
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .output()
        .context("cargo cannot be started")?;
    let metadata: Metadata = serde_json::from_slice(&told.stdout).context("reading cargo metadata")?;
    let sidecar = metadata
        .packages
        .into_iter()
        .find(|package| package.name == PACKAGE)
        .context("the workspace has no sidecar")?;
    Ok(sidecar
        .features
        .into_keys()
        .filter(|name| name != "default")
        .collect())
}

/// Compiles the program itself in any case, so that times can be compared.
fn rebuild(root: &Path, args: &BenchFeaturesArgs, features: &str) -> Result<Built> {
    let main = root.join("sidecar/src/main.rs");
    let now = std::time::SystemTime::now();
    std::fs::File::options()
        .write(true)
        .open(&main)
        .and_then(|file| file.set_modified(now))
        .with_context(|| format!("touching {}", main.display()))?;
    build(root, args, features)
}

fn build(root: &Path, args: &BenchFeaturesArgs, features: &str) -> Result<Built> {
    let started = Instant::now();
    let built = cargo(root)
        .args([
            "build",
            "--quiet",
            "--locked",
            "--package",
            PACKAGE,
            "--bin",
            "daprd",
        ])
        .args(["--no-default-features", "--features", features])
        .args(["--profile", &args.profile])
        .status()
        .context("cargo cannot be started")?;
    ensure!(built.success(), "the build with {features:?} failed");
    let time = started.elapsed();
    let daprd = build_folder(root, &args.profile, None).join("daprd");
    let bytes = std::fs::metadata(&daprd)
        .with_context(|| format!("reading {}", daprd.display()))?
        .len();
    Ok(Built { bytes, time })
}
