//! How the release binaries are laid out, for the build scripts of our programs.
//!
//! A process's resident memory is mostly the code it has touched, and the kernel maps code by the 64 KiB and more around
//! each touch. The small functions that everything uses (`alloc`, `core`, the runtime) are emitted beside whatever code
//! used them first, so that a start that runs 1 MB of code spreads over ten. `layout.ld` puts them side by side.
//! Measured in docs/BENCH.md.

use std::process::Command;

/// glibc from this version on takes relocations in the packed form, a hundredth of the size.
const PACKED_SINCE: (u32, u32) = (2, 36);

/// Tells cargo how to link the programs of the package whose build script calls it. Only release builds for Linux are
/// touched. `OUTRIGGER_LAYOUT=off` leaves those alone as well, for linkers that take no script.
pub fn emit() {
    println!("cargo::rerun-if-env-changed=OUTRIGGER_LAYOUT");
    let setting = |name: &str| std::env::var(name).unwrap_or_default();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/layout.ld");
    println!("cargo::rerun-if-changed={script}");
    if setting("PROFILE") != "release"
        || setting("CARGO_CFG_TARGET_OS") != "linux"
        || setting("OUTRIGGER_LAYOUT") == "off"
    {
        return;
    }
    println!("cargo::rustc-link-arg-bins=-Wl,-T,{script}");
    if setting("CARGO_CFG_TARGET_ENV") == "gnu"
        && setting("HOST") == setting("TARGET")
        && glibc().is_some_and(|version| version >= PACKED_SINCE)
    {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of this machine's glibc.
fn glibc() -> Option<(u32, u32)> {
    let told = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    version(&String::from_utf8_lossy(&told.stdout))
}

fn version(told: &str) -> Option<(u32, u32)> {
    let (major, minor) = told.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_glibc_is_read_and_nothing_else_is_taken_for_one() {
        assert_eq!(version("glibc 2.36\n"), Some((2, 36)));
        for other in ["", "musl 1.2", "glibc", "glibc 2", "glibc x.y"] {
            assert_eq!(version(other), None, "{other}");
        }
    }
}
