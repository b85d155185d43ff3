//! The cluster of `cargo xtask cluster`, when its process is killed.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use outrigger_e2e::kube::Kube;
use outrigger_e2e::process::{Program, binary, wait_until};

/// Another test may have the machine's one cluster.
const PATIENCE: Duration = Duration::from_secs(900);

/// What there is on this machine of a cluster in `dir`, whose process has that number: a word each.
fn there_is(dir: &Path, id: u32) -> Vec<String> {
    let dir = dir.display().to_string();
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let mounts = mounts.lines().filter(|line| line.contains(&dir)).map(|_| "mount");
    let processes = Command::new("ps").args(["-eo", "args"]).output().unwrap();
    let processes = String::from_utf8(processes.stdout).unwrap();
    let shims = processes
        .lines()
        .filter(|line| line.starts_with("/usr/bin/containerd-shim") && line.contains(&dir));
    let parts = processes
        .lines()
        .filter(|line| line.contains("kube-apiserver") || line.contains("kubelet --config"))
        .filter(|line| line.contains(&dir));
    let named = |folder: &str| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names
            .filter(|name| name.starts_with(&format!("outrigger-{id}")))
            .collect::<Vec<_>>()
    };
    let mut found: Vec<String> = mounts.map(str::to_owned).collect();
    found.extend(shims.map(|_| "shim".to_owned()));
    found.extend(parts.map(|_| "part".to_owned()));
    for folder in ["/run/netns", "/sys/fs/cgroup", "/sys/fs/cgroup/memory"] {
        found.extend(named(folder));
    }
    found
}

#[tokio::test]
async fn of_a_killed_cluster_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut cluster = Program::new("cluster", &binary("cluster"), dir)
        .args([dir.display().to_string(), "1".to_owned()])
        .start();
    let ready = dir.join("ready");
    wait_until(&mut cluster, "its kubeconfig", PATIENCE, async || ready.exists()).await;
    let kube = Kube::new(Path::new(&std::fs::read_to_string(&ready).unwrap()));
    kube.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c, \
         image: 'outrigger.test/busybox:1', imagePullPolicy: Never, command: [/bin/busybox, sleep, '600']}]}}",
    );
    kube.wait(&["--for=condition=Ready", "pod/a"], Duration::from_secs(60));
    let found = there_is(dir, cluster.id());
    let network = format!("outrigger-{}", cluster.id());
    for what in ["mount", "shim", "part", &network] {
        assert!(found.iter().any(|word| word == what), "no {what}: {found:?}");
    }

    cluster.kill();
    let removed = Command::new(binary("cluster"))
        .arg("remove-left")
        .output()
        .unwrap();
    assert!(removed.status.success(), "{removed:?}");
    assert_eq!(there_is(dir, cluster.id()), Vec::<String>::new());
    assert!(
        !dir.exists(),
        "what lies in the folder for temporary files goes too"
    );
}
