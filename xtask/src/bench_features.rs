//! `cargo xtask bench-features`: what each cargo feature of daprd adds, in bytes of the program and in processor time of
//! a build (which other work on the machine hardly changes).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Deserialize;

use crate::bench::process::children_time;
use crate::workspace::{cargo, command, root};

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

/// A build: how large daprd became and what processor time it took.
#[derive(Clone, Copy)]
struct Built {
    bytes: u64,
    time: Duration,
}

pub(crate) fn run(args: &BenchFeaturesArgs) -> Result<()> {
    let root = root()?;
    let features = features(&root)?;
    let target = root.join("target");
    std::fs::create_dir_all(&target).with_context(|| format!("making {}", target.display()))?;
    let folder = tempfile::Builder::new()
        .prefix("bench-features-")
        .tempdir_in(&target)
        .context("a folder to build in")?;
    // What all of them share; the second build shows what making the program alone takes.
    let base = folder.path().join("none");
    build(&root, args, &base, "")?;
    let none = rebuild(&root, args, &base, "")?;
    println!("| feature | bytes added | processor time of the build added, s |\n| --- | ---: | ---: |");
    println!(
        "| none: {} bytes, {:.0} s for the program alone | | |",
        none.bytes,
        none.time.as_secs_f64()
    );
    let all = features.join(",");
    for feature in features.iter().chain([&all]) {
        // Each starts from what all share, not from what the features before it have compiled.
        let own = folder.path().join("own");
        copy(&base, &own)?;
        let with = rebuild(&root, args, &own, feature)?;
        std::fs::remove_dir_all(&own).with_context(|| format!("removing {}", own.display()))?;
        println!(
            "| `{feature}` | {} | {:.0} |",
            with.bytes.saturating_sub(none.bytes),
            with.time.saturating_sub(none.time).as_secs_f64()
        );
    }
    Ok(())
}

/// With the times of the files, by which cargo knows what is fresh.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = command(Path::new("."), "cp")
        .args(["--archive", "--reflink=auto"])
        .args([from, to])
        .status()
        .context("cp cannot be started")?;
    ensure!(copied.success(), "{} cannot be copied", from.display());
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
fn rebuild(root: &Path, args: &BenchFeaturesArgs, folder: &Path, features: &str) -> Result<Built> {
    let main = root.join("sidecar/src/main.rs");
    let now = std::time::SystemTime::now();
    std::fs::File::options()
        .write(true)
        .open(&main)
        .and_then(|file| file.set_modified(now))
        .with_context(|| format!("touching {}", main.display()))?;
    build(root, args, folder, features)
}

fn build(root: &Path, args: &BenchFeaturesArgs, folder: &Path, features: &str) -> Result<Built> {
    let before = children_time()?;
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
        .args(["--profile", &args.profile, "--target-dir"])
        .arg(folder)
        .status()
        .context("cargo cannot be started")?;
    ensure!(built.success(), "the build with {features:?} failed");
    let time = children_time()?.saturating_sub(before);
    let daprd = folder.join(&args.profile).join("daprd");
    let bytes = std::fs::metadata(&daprd)
        .with_context(|| format!("reading {}", daprd.display()))?
        .len();
    Ok(Built { bytes, time })
}
