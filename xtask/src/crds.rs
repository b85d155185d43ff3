//! `cargo xtask crds`: the definitions of the custom resources, written where `kubectl` and Helm take them from.

use std::fs;

use anyhow::{Result, ensure};

use crate::workspace::{cargo, root};

/// Folders that hold the same files: for `kubectl apply -f crds/`, and for `helm install`.
const FOLDERS: &[&str] = &["crds", "charts/outrigger/crds"];

/// Writes them.
pub(crate) fn run() -> Result<()> {
    let root = root()?;
    for folder in FOLDERS {
        let folder = root.join(folder);
        fs::create_dir_all(&folder)?;
        let status = cargo(&root)
            .args([
                "run",
                "--quiet",
                "--package",
                "outrigger-crds",
                "--bin",
                "crdgen",
                "--",
            ])
            .arg(&folder)
            .status()?;
        ensure!(status.success(), "crdgen ended with {status}");
    }
    Ok(())
}
