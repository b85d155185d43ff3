//! `cargo xtask cluster up|down|status`: the Kubernetes cluster of the tests, to work on by hand. It is a process of its own
//! that goes on; everything of it lies in `target/cluster`. Or a cluster from outside, which only gets the chart.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};

use crate::images::PROGRAMS;
use crate::workspace::{cargo, root};

/// Options of `cargo xtask cluster`.
#[derive(Args)]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Build our programs, start a cluster with their images, and install the chart
    Up(UpArgs),
    /// Stop it and remove all that it made; from a cluster from outside only the chart
    Down,
    /// Say whether it runs, and what runs on it
    Status,
}

#[derive(Args)]
struct UpArgs {
    /// Leave the installation of the chart to you
    #[arg(long)]
    bare: bool,
    /// How many nodes it has
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=50), value_name = "N")]
    nodes: u8,
    /// Start none: install the chart into the cluster of this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["bare", "nodes"])]
    kubeconfig: Option<PathBuf>,
    /// With --kubeconfig: what brings an image archive there, e.g. "kind load image-archive"; it is run with each one's path
    #[arg(long, requires = "kubeconfig", value_name = "COMMAND")]
    load: Option<String>,
}

/// How long bringing it up and taking it down may take.
const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) fn run(args: &ClusterArgs) -> Result<()> {
    let root = root()?;
    let place = Place::new(&root);
    match &args.what {
        What::Up(args) => match &args.kubeconfig {
            Some(file) => use_from_outside(&root, &place, file, args.load.as_deref()),
            None => up(&root, &place, args),
        },
        What::Down => down(&root, &place),
        What::Status => status(&place),
    }
}

/// Where it is, and which process it is.
struct Place {
    folder: PathBuf,
    bin: PathBuf,
}

impl Place {
    fn new(root: &Path) -> Self {
        Self {
            folder: root.join("target/cluster"),
            bin: root.join(".cache/kube/bin"),
        }
    }

    /// The process that holds it, if it runs.
    fn process(&self) -> Option<u32> {
        let id: u32 = fs::read_to_string(self.folder.join("pid"))
            .ok()?
            .trim()
            .parse()
            .ok()?;
        let command = fs::read_to_string(format!("/proc/{id}/cmdline")).ok()?;
        // Another process may have got the number since.
        command.contains("cluster").then_some(id)
    }

    /// Whether there are files of one that has no process.
    fn has_left(&self) -> bool {
        self.folder.exists() && self.process().is_none() && self.outside().is_none()
    }

    /// The path of its kubeconfig, once it is up.
    fn kubeconfig(&self) -> Option<String> {
        fs::read_to_string(self.folder.join("ready")).ok()
    }

    /// The kubeconfig of the cluster from outside that we installed the chart into.
    fn outside(&self) -> Option<String> {
        fs::read_to_string(self.folder.join("outside")).ok()
    }

    fn tool(&self, name: &str, kubeconfig: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.env("KUBECONFIG", kubeconfig);
        command
    }
}

fn refuse_a_second(place: &Place) -> Result<()> {
    if let Some(id) = place.process() {
        bail!("it runs already, as process {id}: see `cargo xtask cluster status`");
    }
    if let Some(file) = place.outside() {
        bail!("the cluster of {file} has the chart already: see `cargo xtask cluster status`");
    }
    Ok(())
}

/// Images by the user's command, and the chart.
fn use_from_outside(root: &Path, place: &Place, file: &Path, load: Option<&str>) -> Result<()> {
    refuse_a_second(place)?;
    let file = fs::canonicalize(file).with_context(|| format!("looking for {}", file.display()))?;
    let file = file
        .to_str()
        .context("the path of the kubeconfig is not UTF-8")?
        .to_owned();
    if let Some(load) = load {
        let mut words = load.split_whitespace();
        let command = words.next().context("--load is empty")?;
        let words: Vec<&str> = words.collect();
        for archive in crate::images::quick(root)? {
            let status = Command::new(command)
                .args(&words)
                .arg(&archive)
                .status()
                .with_context(|| format!("starting {command}"))?;
            ensure!(
                status.success(),
                "{load} {} ended with {status}",
                archive.display()
            );
        }
    }
    fs::create_dir_all(&place.folder)?;
    fs::write(place.folder.join("outside"), &file)?;
    install(root, place, &file)
}

fn up(root: &Path, place: &Place, args: &UpArgs) -> Result<()> {
    refuse_a_second(place)?;
    refuse_others_than_root()?;
    if place.has_left() {
        remove_left(root, place)?;
    }
    let mut build = cargo(root);
    // As CI builds: with other packages chosen crates have other features, and everything is built anew.
    build.args(["build", "--locked", "--workspace", "--bin", "cluster"]);
    for (program, _) in PROGRAMS {
        build.args(["--bin", program]);
    }
    ensure!(build.status()?.success(), "the programs could not be built");
    fs::create_dir_all(&place.folder)?;
    let log = File::create(place.folder.join("log"))?;
    let mut child = Command::new(root.join("target/debug/cluster"))
        .arg(&place.folder)
        .arg(args.nodes.to_string())
        .current_dir(root)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C is for us, not for it.
        .process_group(0)
        .spawn()
        .context("starting target/debug/cluster")?;
    fs::write(place.folder.join("pid"), child.id().to_string())?;
    let deadline = Instant::now() + PATIENCE;
    let kubeconfig = loop {
        if let Some(path) = place.kubeconfig() {
            break path;
        }
        let ended = child.try_wait()?;
        if ended.is_some() || Instant::now() > deadline {
            let how = match ended {
                Some(status) => format!("its process ended with {status}"),
                None => {
                    tell_to_stop(child.id())?;
                    child.wait()?;
                    format!("not within {PATIENCE:?}")
                }
            };
            let log = fs::read_to_string(place.folder.join("log")).unwrap_or_default();
            bail!(
                "the cluster did not come up: {how} (parts are missing? `cargo xtask setup` installs them; logs are in {}):\n{log}",
                place.folder.display()
            );
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    if !args.bare {
        install(root, place, &kubeconfig)?;
    }
    println!(
        "export KUBECONFIG={kubeconfig} PATH={}:$PATH",
        place.bin.display()
    );
    Ok(())
}

/// Before minutes of building.
fn refuse_others_than_root() -> Result<()> {
    let told = Command::new("id")
        .arg("-u")
        .output()
        .context("asking who runs this")?;
    ensure!(
        told.stdout.trim_ascii() == b"0",
        "a cluster on this machine needs root, for network namespaces, mounts and containers: run this as root, or take a \
         cluster of yours with `--kubeconfig FILE`"
    );
    Ok(())
}

/// Of one whose process was killed: its other processes, networks, mounts and files.
fn remove_left(root: &Path, place: &Place) -> Result<()> {
    let program = root.join("target/debug/cluster");
    let status = Command::new(&program)
        .arg("remove-left")
        .status()
        .with_context(|| {
            format!(
                "starting {}, which `cargo build --workspace --bin cluster` makes",
                program.display()
            )
        })?;
    ensure!(status.success(), "{} ended with {status}", program.display());
    remove_folder(place)
}

fn remove_folder(place: &Place) -> Result<()> {
    fs::remove_dir_all(&place.folder).with_context(|| format!("removing {}", place.folder.display()))
}

fn tell_to_stop(id: u32) -> Result<()> {
    let told = Command::new("kill").arg(id.to_string()).status()?;
    ensure!(told.success(), "process {id} cannot be told to stop");
    Ok(())
}

fn install(root: &Path, place: &Place, kubeconfig: &str) -> Result<()> {
    let status = place
        .tool("helm", kubeconfig)
        .args(["install", "dapr"])
        .arg(root.join("charts/outrigger"))
        .args([
            "--namespace",
            "dapr-system",
            "--create-namespace",
            "--wait",
            "--timeout",
            "3m",
        ])
        // The node offers no volumes.
        .args(["--set", "dapr_scheduler.cluster.inMemoryStorage=true"])
        .status()
        .context("helm is built by `cargo xtask setup`")?;
    ensure!(
        status.success(),
        "helm ended with {status}; the cluster goes on: look with KUBECONFIG={kubeconfig}"
    );
    Ok(())
}

fn down(root: &Path, place: &Place) -> Result<()> {
    if let Some(file) = place.outside() {
        let status = place
            .tool("helm", &file)
            .args(["uninstall", "dapr", "--namespace", "dapr-system"])
            .args(["--wait", "--ignore-not-found"])
            .status()?;
        ensure!(
            status.success(),
            "helm ended with {status}; if that cluster is gone, remove {}",
            place.folder.display()
        );
        println!(
            "left there, as users' resources would go with them: the namespace dapr-system and the CRDs (`kubectl delete -f \
             charts/outrigger/crds`)"
        );
        return remove_folder(place);
    }
    if place.has_left() {
        println!("its process is no more: removing what it left");
        return remove_left(root, place);
    }
    let Some(id) = place.process() else {
        println!("there is none");
        return Ok(());
    };
    tell_to_stop(id)?;
    let deadline = Instant::now() + PATIENCE;
    while place.process().is_some() {
        ensure!(Instant::now() < deadline, "process {id} does not end");
        std::thread::sleep(Duration::from_millis(200));
    }
    remove_folder(place)
}

fn status(place: &Place) -> Result<()> {
    let kubeconfig = match (place.outside(), place.process(), place.kubeconfig()) {
        (Some(file), ..) => {
            println!("a cluster from outside, KUBECONFIG={file}");
            file
        }
        (None, Some(id), Some(file)) => {
            println!("process {id}, KUBECONFIG={file}");
            file
        }
        (None, Some(id), None) => {
            println!(
                "process {id} brings it up; its log is {}",
                place.folder.join("log").display()
            );
            return Ok(());
        }
        (None, None, _) if place.has_left() => {
            println!("its process is no more; `cargo xtask cluster down` removes what it left");
            return Ok(());
        }
        (None, None, _) => {
            println!("there is none; `cargo xtask cluster up` starts one");
            return Ok(());
        }
    };
    let status = place
        .tool("kubectl", &kubeconfig)
        .args(["get", "nodes,pods", "--all-namespaces", "--request-timeout=5s"])
        .status()
        .context("kubectl is built by `cargo xtask setup`")?;
    if place.outside().is_some() {
        ensure!(status.success(), "the API server of {kubeconfig} does not answer");
    }
    ensure!(
        status.success(),
        "the API server does not answer: its log is {}; `cargo xtask cluster down` removes the cluster",
        place.folder.join("kube-apiserver.log").display()
    );
    Ok(())
}
