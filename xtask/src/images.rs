//! `cargo xtask images`: container images of the sidecar and the control plane without a container engine, the same
//! bytes from the same binaries on every machine. `docker load`, `podman load` and `ctr images import` take them.
//!
//! An image holds the program at `/NAME`, the shared libraries that it asks for, certificates of public authorities and
//! two text files: what a distroless image holds. There is no entrypoint, as the injector and the chart name the
//! program (contract `injector`, section 12).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use outrigger_oci::{Image, Source};

use crate::workspace::{cargo, root};

/// Options of `cargo xtask images`.
#[derive(Args)]
pub(crate) struct ImagesArgs {
    /// Folder for the archives
    #[arg(long, default_value = "target/images", value_name = "DIR")]
    out: PathBuf,
    /// Cargo profile of the programs
    #[arg(long, default_value = "release", value_name = "PROFILE")]
    profile: String,
    /// Take programs from this folder instead of building them
    #[arg(long, value_name = "DIR")]
    bins: Option<PathBuf>,
    /// Registry and folder that names begin with
    #[arg(long, default_value = "ghcr.io/dapr", value_name = "PREFIX")]
    registry: String,
    /// Tag of all images
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"), value_name = "TAG")]
    tag: String,
}

/// Programs, each with the package that it is built from. Every one has an image of its name; `dapr` holds all.
const PROGRAMS: &[(&str, &str)] = &[
    ("daprd", "outrigger-sidecar"),
    ("sentry", "outrigger-sentry"),
    ("placement", "outrigger-placement"),
    ("scheduler", "outrigger-scheduler"),
    ("injector", "outrigger-injector"),
];

/// Where Debian keeps the certificates of public authorities.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Builds the programs and writes the archives.
pub(crate) fn run(args: &ImagesArgs) -> Result<()> {
    let root = root()?;
    let bins = match &args.bins {
        Some(bins) => bins.clone(),
        None => build(&root, &args.profile)?,
    };
    let out = root.join(&args.out);
    fs::create_dir_all(&out).with_context(|| format!("making {}", out.display()))?;
    for (name, _) in PROGRAMS {
        write(args, &bins, &out, name, &[name])?;
    }
    let all: Vec<&str> = PROGRAMS.iter().map(|(name, _)| *name).collect();
    write(args, &bins, &out, "dapr", &all)
}

fn build(root: &Path, profile: &str) -> Result<PathBuf> {
    let mut build = cargo(root);
    build.args(["build", "--locked", "--profile", profile]);
    for (_, package) in PROGRAMS {
        build.args(["--package", package]);
    }
    let status = build.status()?;
    ensure!(status.success(), "cargo build ended with {status}");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join(if profile == "dev" { "debug" } else { profile }))
}

fn write(args: &ImagesArgs, bins: &Path, out: &Path, name: &str, programs: &[&str]) -> Result<()> {
    let mut files = base_files()?;
    for program in programs {
        let path = bins.join(program);
        for library in shared_libraries(&path)? {
            files.insert(library.display().to_string(), Source::Program(library));
        }
        files.insert(format!("/{program}"), Source::Program(path));
    }
    let image = Image {
        name: format!("{}/{name}:{}", args.registry, args.tag),
        architecture: architecture().to_owned(),
        files,
        user: "65532:65532".to_owned(),
        env: vec!["PATH=/".to_owned(), format!("SSL_CERT_FILE={CERTIFICATES}")],
        labels: BTreeMap::from([
            ("org.opencontainers.image.title".to_owned(), name.to_owned()),
            (
                "org.opencontainers.image.licenses".to_owned(),
                "Apache-2.0".to_owned(),
            ),
        ]),
        ..Image::default()
    };
    let path = out.join(format!("{name}.tar"));
    let archive = image
        .write(&path)
        .with_context(|| format!("writing {}", path.display()))?;
    println!(
        "{}  {:.1} MB compressed  {}  {}",
        image.name,
        archive.compressed as f64 / 1e6,
        archive.digest,
        path.display()
    );
    Ok(())
}

/// What every image holds beside its programs.
fn base_files() -> Result<BTreeMap<String, Source>> {
    ensure!(
        Path::new(CERTIFICATES).is_file(),
        "{CERTIFICATES} is missing: install Debian's package with `apt-get install ca-certificates`"
    );
    let text = |text: &str| Source::Text(text.to_owned());
    Ok(BTreeMap::from([
        (
            CERTIFICATES.to_owned(),
            Source::Text(fs::read_to_string(CERTIFICATES)?),
        ),
        (
            "/etc/passwd".to_owned(),
            text("root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n"),
        ),
        ("/etc/group".to_owned(), text("root:x:0:\nnonroot:x:65532:\n")),
        // Names of the pod's own hosts file go before DNS.
        ("/etc/nsswitch.conf".to_owned(), text("hosts: files dns\n")),
        ("/tmp".to_owned(), Source::SharedFolder),
    ]))
}

/// The loader and the libraries that a program asks for, by the paths under which it will look for them.
fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    ensure!(
        program.is_file(),
        "no {}: build it first, or leave out --bins",
        program.display()
    );
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("ldd tells which libraries an image needs")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("not a dynamic executable") || text.contains("statically linked") {
        return Ok(Vec::new());
    }
    ensure!(output.status.success(), "ldd {}: {text}", program.display());
    libraries(&text)
}

/// Reads what ldd printed: `name => /path (address)` or `/path (address)`; the kernel's own has no path.
fn libraries(ldd: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in ldd.lines().map(str::trim) {
        if line.contains("not found") {
            bail!("a library is missing on this machine: {line}");
        }
        let path = line.split_once("=> ").map_or(line, |(_, path)| path);
        let path = path.split(" (").next().unwrap_or(path);
        if path.starts_with('/') {
            found.push(PathBuf::from(path));
        }
    }
    Ok(found)
}

/// This machine's architecture in the words of container engines.
fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_is_built_from_a_package_of_the_workspace() {
        let packages = crate::workspace::packages().expect("cargo lists the workspace");
        for (program, package) in PROGRAMS {
            assert!(
                packages.iter().any(|known| known.name == *package),
                "{program}: no package {package}"
            );
        }
    }

    #[test]
    fn libraries_are_read_from_what_ldd_prints() {
        let text = "\tlinux-vdso.so.1 (0x00007ffe)\n\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found = libraries(text).expect("nothing is missing");
        assert_eq!(
            found,
            [
                PathBuf::from("/lib/x86_64-linux-gnu/libm.so.6"),
                PathBuf::from("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert!(libraries("\tlibx.so => not found\n").is_err());
    }
}
