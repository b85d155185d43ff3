//! `cargo xtask reference`: the page of all components' options, written by the test that holds it.

use anyhow::{Result, ensure};

use crate::workspace::{cargo, root};

/// Writes it.
pub(crate) fn run() -> Result<()> {
    let root = root()?;
    let status = cargo(&root)
        .args([
            "test",
            "--quiet",
            "--workspace",
            "--bin",
            "daprd",
            "--",
            "reference::",
        ])
        .env("OUTRIGGER_WRITE_REFERENCE", "1")
        .status()?;
    ensure!(
        status.success(),
        "the test that writes the page ended with {status}"
    );
    Ok(())
}
