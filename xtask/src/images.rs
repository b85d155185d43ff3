//! `cargo xtask images`: container images of the sidecar and the control plane without a container engine, the same
//! bytes from the same binaries on every machine. `docker load`, `podman load` and `ctr images import` take them.
//!
//! An image holds the program at `/NAME`, certificates of public authorities and three text files: what a static
//! distroless image holds. Programs carry the C library (glibc's, which looks up names without its shared parts since
//! 2.34): a container that runs one program would share a library with nobody, and what is linked in is only what is
//! used (docs/BENCH.md: 2 to 3 MB of resident memory for each). Programs of one's own that are not static are packed
//! with the libraries that they ask for. There is no entrypoint, as the injector and the chart name the
//! program (contract `injector`, section 12).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use outrigger_oci::Image;

use crate::workspace::{build_folder, cargo, root};

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
    /// Link with the C library of this machine and pack that: for machines that have no static one (libc.a)
    #[arg(long)]
    dynamic: bool,
    /// Registry and folder that names begin with
    #[arg(long, default_value = "localhost/outrigger", value_name = "PREFIX")]
    registry: String,
    /// Tag of all images
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"), value_name = "TAG")]
    tag: String,
}

/// Programs, each with the package that it is built from. Every one has an image of its name; `dapr` holds all.
pub(crate) const PROGRAMS: &[(&str, &str)] = &[
    ("daprd", "outrigger-sidecar"),
    ("sentry", "outrigger-sentry"),
    ("placement", "outrigger-placement"),
    ("scheduler", "outrigger-scheduler"),
    ("injector", "outrigger-injector"),
    ("operator", "outrigger-operator"),
];

/// Builds the programs and writes the archives.
pub(crate) fn run(args: &ImagesArgs) -> Result<()> {
    let root = root()?;
    let bins = match &args.bins {
        Some(bins) => bins.clone(),
        None => build(&root, args)?,
    };
    let out = root.join(&args.out);
    each(args, &bins, &out)?;
    let all: Vec<&str> = PROGRAMS.iter().map(|(name, _)| *name).collect();
    write(args, &bins, &out, "dapr", &all).map(drop)
}

/// Archives of all programs, built quickly, for a cluster to try them on.
pub(crate) fn quick(root: &Path) -> Result<Vec<PathBuf>> {
    let out = root.join("target/images");
    let args = ImagesArgs {
        out: out.clone(),
        profile: "quick-release".to_owned(),
        bins: None,
        dynamic: false,
        registry: "localhost/outrigger".to_owned(),
        tag: env!("CARGO_PKG_VERSION").to_owned(),
    };
    each(&args, &build(root, &args)?, &out)
}

/// An archive of each program.
fn each(args: &ImagesArgs, bins: &Path, out: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    PROGRAMS
        .iter()
        .map(|(name, _)| write(args, bins, out, name, &[name]))
        .collect()
}

fn build(root: &Path, args: &ImagesArgs) -> Result<PathBuf> {
    let mut build = cargo(root);
    build.args(["build", "--locked", "--profile", &args.profile]);
    for (_, package) in PROGRAMS {
        build.args(["--package", package]);
    }
    let folder = match STATIC_TARGET.filter(|_| !args.dynamic) {
        None => build_folder(root, &args.profile, None),
        Some(target) => {
            // Flags for a named target don't reach build scripts and macros, which cannot be static.
            let flags = format!(r#"target.{target}.rustflags=["-C","target-feature=+crt-static"]"#);
            build.args(["--target", target, "--config", &flags]);
            build_folder(root, &args.profile, Some(target))
        }
    };
    let status = build.status()?;
    ensure!(
        status.success(),
        "cargo build ended with {status}; if the linker misses the static C library, install it (Debian: libc6-dev, \
         Fedora: glibc-static) or use --dynamic"
    );
    Ok(folder)
}

/// The target whose programs can carry glibc, where it is this machine's own.
const STATIC_TARGET: Option<&str> = if !cfg!(all(target_os = "linux", target_env = "gnu")) {
    None
} else if cfg!(target_arch = "x86_64") {
    Some("x86_64-unknown-linux-gnu")
} else if cfg!(target_arch = "aarch64") {
    Some("aarch64-unknown-linux-gnu")
} else {
    None
};

fn write(args: &ImagesArgs, bins: &Path, out: &Path, name: &str, programs: &[&str]) -> Result<PathBuf> {
    let paths: Vec<(String, PathBuf)> = programs
        .iter()
        .map(|program| (format!("/{program}"), bins.join(program)))
        .collect();
    let files = outrigger_oci::files_for(paths.iter().map(|(at, path)| (at.as_str(), path.as_path())))
        .context("the programs are not all there: build them first, or leave out --bins")?;
    let image = Image {
        name: format!("{}/{name}:{}", args.registry, args.tag),
        architecture: outrigger_oci::architecture().to_owned(),
        files,
        user: "65532:65532".to_owned(),
        env: vec![
            "PATH=/".to_owned(),
            "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt".to_owned(),
        ],
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
    Ok(path)
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
}
