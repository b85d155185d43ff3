//! What a cluster leaves behind whose process was killed: everything of it goes on. Whoever starts the next one removes it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{node, settings};
use crate::process::lock_folder;

/// Names of network namespaces and control groups of clusters begin so.
pub(super) const PREFIX: &str = "outrigger-";

/// A file with the work folder of the cluster of this machine, there as long as that is.
fn note() -> PathBuf {
    lock_folder().join("kubernetes-node.folder")
}

/// Says where the cluster's files are. Only for who has the lock of clusters, as all of this file.
pub(super) fn remember(folder: &Path) {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    let note = note();
    fs::write(&note, folder.display().to_string())
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", note.display()));
}

/// There is none any more.
pub(super) fn forget() {
    let _ = fs::remove_file(note());
}

/// Ends the processes of a cluster whose own process was killed, and removes its networks, mounts and groups, and its files if
/// they were in the folder for temporary ones.
pub(super) fn remove() {
    let networks = networks();
    for network in &networks {
        eprintln!("removing network namespace {network} of a cluster whose process was killed");
        end_all_in(network);
    }
    if let Ok(folder) = fs::read_to_string(note()) {
        let _ = Command::new("sh")
            .args(["-c", settings::CLEAN_UP, "sh", &folder])
            .status();
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        if Path::new(&folder).starts_with(std::env::temp_dir()) && !mounts.contains(&format!(" {folder}/")) {
            let _ = fs::remove_dir_all(&folder);
        }
    }
    for network in &networks {
        node::remove_network(network);
    }
    for group in node::cgroups("")
        .iter()
        .flat_map(|all| fs::read_dir(all).into_iter().flatten())
    {
        if let Ok(group) = group
            && is_left(&group.file_name().to_string_lossy())
        {
            node::remove_groups(&group.path());
        }
    }
    forget();
}

fn networks() -> Vec<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| is_left(name))
        .collect()
}

/// Whether it is of a cluster whose process, whose number it has, is no more. (One that lives has another folder for locks.)
fn is_left(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return false;
    };
    let process = rest.split('-').next().unwrap_or(rest);
    !Path::new("/proc").join(process).exists()
}

/// All but the shims, which lead to the containers: those end with them, by the clean-up.
fn end_all_in(network: &str) {
    let told = Command::new("ip").args(["netns", "pids", network]).output();
    let told = told.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    for id in told.unwrap_or_default().split_whitespace() {
        let command = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        if !command.starts_with("containerd-shim") {
            let _ = Command::new("kill")
                .args(["-s", "KILL", id])
                .stderr(Stdio::null())
                .status();
        }
    }
}
