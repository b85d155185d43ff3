//! What checks and tests need beside the Rust toolchain, installed once and found again in a moment:
//! Debian's servers, Kafka's jars in `.cache/kafka`, cargo-deny, the official SDKs in `.cache/venv` (Python) and
//! `.cache/npm` (JavaScript), Vault's KV engine in `.cache/vault`, and Kubernetes' programs in `.cache/kube`.
//!
//! Each part leaves a stamp with what it was asked for; a changed list installs anew. Nothing is put outside
//! `.cache` but Debian packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::workspace::{cargo, command, root};

mod kube;
mod vault;

/// The release of cargo-deny that deny.toml is written for.
const CARGO_DENY: &str = "0.20.2";

/// Debian packages by a program, or a folder, that shows they are there.
const DEBIAN: &[(&str, &str)] = &[
    ("redis-server", "redis-server"),
    ("/usr/lib/postgresql", "postgresql"),
    ("rabbitmq-server", "rabbitmq-server"),
    ("mosquitto", "mosquitto"),
    ("mosquitto_pub", "mosquitto-clients"),
    ("java", "openjdk-17-jre-headless"),
    ("mvn", "maven"),
    ("cc", "build-essential"),
    ("python3", "python3-venv"),
    ("etcd", "etcd-server"),
    ("etcdctl", "etcd-client"),
    ("busybox", "busybox-static"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni", "containernetworking-plugins"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
];

/// Installs whatever is missing. Quick when nothing is.
pub(crate) fn run() -> Result<()> {
    let root = root()?;
    part("Debian packages", debian)?;
    part("Kafka", || kafka(&root))?;
    part("cargo-deny", || cargo_deny(&root))?;
    part("Python SDK", || python(&root))?;
    part("JavaScript SDK", || node(&root))?;
    part("Vault's KV engine", || vault::build(&root))?;
    part("Kubernetes", || kube::build(&root))
}

/// Where cargo-deny lies once [`run`] has been through.
pub(crate) fn cargo_deny_path(root: &Path) -> PathBuf {
    root.join(".cache/tools/bin/cargo-deny")
}

fn part(name: &str, install: impl FnOnce() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    let fresh = install().with_context(|| format!("setting up {name}"))?;
    let what = if fresh { "installed" } else { "there" };
    println!("setup: {name}: {what} ({:.1} s)", start.elapsed().as_secs_f64());
    Ok(())
}

fn debian() -> Result<bool> {
    let missing: Vec<_> = DEBIAN
        .iter()
        .filter(|(program, _)| !on_path(program) && !Path::new(program).is_dir())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(false);
    }
    let remedy = || format!("install them by hand: apt-get install {}", missing.join(" "));
    check(Command::new("apt-get").args(["update", "-qq"])).with_context(remedy)?;
    let mut install = Command::new("apt-get");
    install
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(&missing);
    // Debian starts servers as services on install; tests start their own on free ports.
    check(
        install
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("RUNLEVEL", "1"),
    )
    .with_context(remedy)?;
    Ok(true)
}

fn cargo_deny(root: &Path) -> Result<bool> {
    let stamp = Stamp::new(root.join(".cache/tools/cargo-deny.stamp"), CARGO_DENY.to_owned());
    if stamp.holds() && cargo_deny_path(root).exists() {
        return Ok(false);
    }
    check(
        cargo(root)
            .args([
                "install",
                "--quiet",
                "--locked",
                "cargo-deny",
                "--version",
                CARGO_DENY,
                "--root",
                ".cache/tools",
            ])
            // Its own target folder, removed below: it shares nothing with ours.
            .env("CARGO_TARGET_DIR", root.join(".cache/tools/target")),
    )?;
    let _ = fs::remove_dir_all(root.join(".cache/tools/target"));
    stamp.leave()
}

/// Kafka's server and what it needs, from Maven Central: the tests start it without a distribution of Kafka.
fn kafka(root: &Path) -> Result<bool> {
    let folder = root.join(".cache/kafka");
    let pom = include_str!("setup/kafka-pom.xml");
    let stamp = Stamp::new(folder.join("outrigger.stamp"), pom.to_owned());
    if stamp.holds() && folder.join("jars").is_dir() {
        return Ok(false);
    }
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("pom.xml"), pom)?;
    check(command(&folder, "mvn").args([
        "--quiet",
        "--batch-mode",
        "dependency:copy-dependencies",
        "-DincludeScope=runtime",
        "-DoutputDirectory=jars",
    ]))?;
    stamp.leave()
}

/// The Python SDK in `.cache/venv`; whether it was installed just now.
pub(crate) fn python(root: &Path) -> Result<bool> {
    let requirements = root.join("e2e/sdk/python/requirements.txt");
    let stamp = Stamp::new(
        root.join(".cache/venv/outrigger.stamp"),
        fs::read_to_string(&requirements)?,
    );
    let pip = root.join(".cache/venv/bin/pip");
    if stamp.holds() && pip.exists() {
        return Ok(false);
    }
    if !pip.exists() {
        check(command(root, "python3").args(["-m", "venv", ".cache/venv"]))
            .context("python3 -m venv failed; Debian has it in the package python3-venv")?;
    }
    check(
        command(root, &pip)
            .args(["install", "--quiet", "--disable-pip-version-check", "-r"])
            .arg(&requirements),
    )?;
    stamp.leave()
}

fn node(root: &Path) -> Result<bool> {
    let (wanted, folder) = (root.join("e2e/sdk/js"), root.join(".cache/npm"));
    let lock = wanted.join("package-lock.json");
    let stamp = Stamp::new(folder.join("outrigger.stamp"), fs::read_to_string(&lock)?);
    if stamp.holds() && folder.join("node_modules").exists() {
        return Ok(false);
    }
    ensure!(
        on_path("npm"),
        "npm is not on PATH: install Node 20 or later (Debian: apt-get install nodejs npm)"
    );
    fs::create_dir_all(&folder)?;
    fs::copy(wanted.join("package.json"), folder.join("package.json"))?;
    fs::copy(lock, folder.join("package-lock.json"))?;
    check(command(&folder, "npm").args(["ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]))?;
    stamp.leave()
}

/// A file that remembers what was asked for when a part was last installed.
struct Stamp {
    path: PathBuf,
    content: String,
}

impl Stamp {
    fn new(path: PathBuf, content: String) -> Self {
        Self { path, content }
    }

    fn holds(&self) -> bool {
        fs::read_to_string(&self.path).is_ok_and(|found| found == self.content)
    }

    /// Written last, so that an install that broke off is done again.
    fn leave(&self) -> Result<bool> {
        fs::write(&self.path, &self.content).with_context(|| format!("writing {}", self.path.display()))?;
        Ok(true)
    }
}

/// Whether a program of this name is on PATH.
fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|paths| std::env::split_paths(&paths).any(|folder| folder.join(program).is_file()))
}

/// Runs a command to its end and fails if it does.
fn check(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_holds_only_for_what_it_was_left_for() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("stamp");
        let stamp = Stamp::new(path.clone(), "one".to_owned());
        assert!(!stamp.holds());
        stamp.leave().expect("writable");
        assert!(stamp.holds());
        assert!(!Stamp::new(path, "two".to_owned()).holds());
    }

    #[test]
    fn the_shell_is_on_path_and_nonsense_is_not() {
        assert!(on_path("sh"));
        assert!(!on_path("no-such-program-anywhere"));
    }
}
