//! Vault's KV engine behind a small server of the tests (`e2e/vault-kv`), from Go modules, in `.cache/vault`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{Stamp, check, on_path};
use crate::workspace::command;

/// Builds it if its source or its modules changed; whether that was so.
pub(super) fn build(root: &Path) -> Result<bool> {
    let (folder, out) = (root.join("e2e/vault-kv"), root.join(".cache/vault"));
    fs::create_dir_all(&out)?;
    let wanted = fs::read_to_string(folder.join("go.sum"))? + &fs::read_to_string(folder.join("main.go"))?;
    let stamp = Stamp::new(out.join("vault-kv.stamp"), wanted);
    if stamp.holds() && out.join("vault-kv").exists() {
        return Ok(false);
    }
    ensure!(
        on_path("go"),
        "go is not on PATH: install Go 1.26 or later, which Vault's KV engine is built with for the tests"
    );
    check(
        command(&folder, "go")
            .args(["build", "-trimpath", "-ldflags", "-s -w", "-o"])
            .arg(out.join("vault-kv"))
            .arg(".")
            .env("CGO_ENABLED", "0"),
    )
    .context("building e2e/vault-kv")?;
    stamp.leave()
}
