//! The workspace as `cargo metadata` describes it, cut down to what the chores ask.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The repository's root folder.
pub(crate) fn root() -> Result<PathBuf> {
    // Cargo sets this for everything it runs, so a copy of the tree finds itself and not where it was built.
    let manifest_dir = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let root = manifest_dir
        .parent()
        .context("xtask lies in a folder of the workspace")?;
    ensure!(
        root.join("Cargo.lock").is_file(),
        "{} is not the workspace root",
        root.display()
    );
    Ok(root.to_path_buf())
}

/// A command that runs in the workspace root.
pub(crate) fn command(root: &Path, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root);
    command
}

/// The cargo that runs us, or the one on PATH.
pub(crate) fn cargo(root: &Path) -> Command {
    command(root, std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Builds targets of the workspace (`--bin NAME` …) with a profile; the folder they are in, examples in `examples` below it.
pub(crate) fn build(profile: &str, targets: &[&str]) -> Result<PathBuf> {
    let root = root()?;
    let built = cargo(&root)
        .args(["build", "--workspace", "--profile", profile])
        .args(targets)
        .status()
        .context("cargo cannot be started")?;
    ensure!(built.success(), "the build failed");
    Ok(build_folder(&root, profile, None))
}

/// Where cargo puts what it builds with a profile, for a target if one is named.
pub(crate) fn build_folder(root: &Path, profile: &str, target: Option<&str>) -> PathBuf {
    let folder = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    // The profile `dev` is the one whose folder has another name.
    let profile = if profile == "dev" { "debug" } else { profile };
    folder.join(target.unwrap_or_default()).join(profile)
}

#[cfg(test)]
pub(crate) use metadata::{Dependency, Package, packages};

#[cfg(test)]
mod metadata {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }

    /// A crate of this workspace.
    #[derive(Deserialize)]
    pub(crate) struct Package {
        pub(crate) name: String,
        pub(crate) manifest_path: PathBuf,
        pub(crate) dependencies: Vec<Dependency>,
        pub(crate) targets: Vec<Target>,
    }

    /// One line of a crate's `[dependencies]`, `[dev-dependencies]` or `[build-dependencies]`.
    #[derive(Deserialize)]
    pub(crate) struct Dependency {
        pub(crate) name: String,
        /// `None` for a normal one, else `dev` or `build`.
        pub(crate) kind: Option<String>,
        /// Where it lies, if it is not from a registry.
        pub(crate) path: Option<PathBuf>,
    }

    /// A library, binary, test, example or build script.
    #[derive(Deserialize)]
    pub(crate) struct Target {
        pub(crate) src_path: PathBuf,
    }

    /// Every crate of the workspace, by `cargo metadata`.
    pub(crate) fn packages() -> Result<Vec<Package>> {
        let output = cargo(&root()?)
            .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
            .output()
            .context("running cargo metadata")?;
        ensure!(
            output.status.success(),
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let metadata: Metadata = serde_json::from_slice(&output.stdout).context("reading cargo metadata")?;
        ensure!(!metadata.packages.is_empty(), "cargo metadata lists no package");
        Ok(metadata.packages)
    }
}
