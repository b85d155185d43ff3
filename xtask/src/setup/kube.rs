//! Kubernetes' own programs from Go modules in `.cache/kube/bin`, for the tests that need a real API server or a real
//! node. The modules in `e2e/cluster` pin every version; a changed `go.sum` builds anew.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{Stamp, check, on_path};
use crate::workspace::command;

/// The release that `e2e/cluster/kube/go.mod` asks for. Without a version in them the parts refuse each other.
const KUBERNETES: (&str, &str, &str) = ("v1.34.4", "1", "34");

/// Go modules below `e2e/cluster` with the packages that are built from each.
const MODULES: &[(&str, &[&str])] = &[
    (
        "kube",
        &[
            "k8s.io/kubernetes/cmd/kube-apiserver",
            "k8s.io/kubernetes/cmd/kubectl",
            "k8s.io/kubernetes/cmd/kube-controller-manager",
            "k8s.io/kubernetes/cmd/kube-scheduler",
            "k8s.io/kubernetes/cmd/kubelet",
            "k8s.io/kubernetes/cmd/kube-proxy",
        ],
    ),
    ("coredns", &["outrigger.example/e2e/coredns"]),
    ("helm", &["helm.sh/helm/v3/cmd/helm"]),
];

/// Builds what is missing; whether that was anything.
pub(super) fn build(root: &Path) -> Result<bool> {
    let out = root.join(".cache/kube/bin");
    fs::create_dir_all(&out)?;
    let mut fresh = false;
    for (module, packages) in MODULES {
        let folder = root.join("e2e/cluster").join(module);
        for package in *packages {
            let name = package.rsplit('/').next().unwrap_or(package);
            let wanted = fs::read_to_string(folder.join("go.sum"))?;
            let stamp = Stamp::new(out.join(format!("{name}.stamp")), wanted);
            if stamp.holds() && out.join(name).exists() {
                continue;
            }
            build_one(&folder, package, &out)?;
            fresh = stamp.leave()?;
        }
    }
    Ok(fresh)
}

fn build_one(folder: &Path, package: &str, out: &Path) -> Result<()> {
    ensure!(
        on_path("go"),
        "go is not on PATH: install Go 1.26 or later, which Kubernetes' API server is built with for the tests"
    );
    let (version, major, minor) = KUBERNETES;
    let at = "k8s.io/component-base/version";
    let flags =
        format!("-s -w -X {at}.gitVersion={version} -X {at}.gitMajor={major} -X {at}.gitMinor={minor}");
    check(
        command(folder, "go")
            .args(["build", "-trimpath", "-ldflags", &flags, "-o"])
            .arg(out)
            .arg(package)
            .env("CGO_ENABLED", "0"),
    )
    .with_context(|| format!("building {package}"))
}
