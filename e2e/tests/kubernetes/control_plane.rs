//! The control plane itself: installed, disturbed, upgraded, measured, removed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outrigger_e2e::kube::Kube;

use super::{CHART, PATIENCE, SYSTEM, Stage, container};

/// Values of this node, which offers no volumes.
const VALUES: &[&str] = &["dapr_scheduler.cluster.inMemoryStorage=true"];
const WORKLOADS: &[&str] = &[
    "deploy/dapr-operator",
    "deploy/dapr-sentry",
    "deploy/dapr-sidecar-injector",
    "statefulset/dapr-placement-server",
    "statefulset/dapr-scheduler-server",
];

fn helm(stage: &Stage, words: &[&str], more: &[&str]) -> Result<String, String> {
    let mut all: Vec<&str> = words.to_vec();
    all.extend(["--namespace", SYSTEM]);
    for value in VALUES.iter().chain(more) {
        all.extend(["--set", value]);
    }
    stage.cluster.helm(&all)
}

/// Installs the chart into a namespace of the restricted level and waits until all is ready.
pub(super) fn install(stage: &Stage) {
    stage.cluster.apply(&format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {SYSTEM}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}}}"
    ));
    let told = helm(
        stage,
        &["install", "dapr", CHART, "--wait", "--timeout", "150s"],
        &[],
    );
    let told = told.unwrap_or_else(|error| panic!("{error}\n{}", stage.cluster.situation()));
    assert!(told.contains("dapr.io/enabled"), "{told}");
}

pub(super) fn broken_resources_are_refused(stage: &mut Stage) {
    let stage = &*stage;
    stage.in_namespace("broken", |ns| {
        for (yaml, field) in [
            ("{apiVersion: dapr.io/v1alpha1, kind: Component, metadata: {name: x}, spec: {version: v1, metadata: []}}", "spec.type"),
            ("{apiVersion: dapr.io/v1alpha1, kind: Component, metadata: {name: x}, spec: {type: state.redis, version: v1, metadata: [{value: a}]}}", "spec.metadata[0]"),
            ("{apiVersion: dapr.io/v1alpha1, kind: Component, metadata: {name: x}, spec: {type: state.redis, version: v1, metadata: []}, scopes: a}", "scopes"),
            ("{apiVersion: dapr.io/v2alpha1, kind: Subscription, metadata: {name: x}, spec: {topic: t, routes: {default: /}}}", "spec.pubsubname"),
        ] {
            let error = stage.cluster.apply_in(ns, yaml).expect_err(yaml);
            assert!(error.contains(field), "{field}: {error}");
        }
    });
}

/// While pods that want a sidecar are admitted one after the other: with failurePolicy Fail, a moment without the injector
/// would refuse one.
pub(super) fn services_restart(stage: &mut Stage) {
    let kube = Kube::new(stage.cluster.kubeconfig());
    let over = AtomicBool::new(false);
    let (admitted, failures) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| admissions(&kube, &over));
        {
            // Also when a restart fails: the thread must end.
            let _over = SetWhenDropped(&over);
            for workload in WORKLOADS {
                let restart = ["-n", SYSTEM, "rollout", "restart", workload];
                stage.cluster.kubectl(&restart, "").unwrap();
                stage.cluster.rolled_out(SYSTEM, workload, PATIENCE);
            }
        }
        asking.join().unwrap()
    });
    eprintln!("{admitted} pods admitted meanwhile");
    assert!(failures.is_empty(), "{failures:?}");
    assert!(admitted > 0);
}

struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks for pods (without making them) until told to stop: how many would have a sidecar, and what went wrong.
fn admissions(kube: &Kube, over: &AtomicBool) -> (usize, Vec<String>) {
    let yaml = format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: load, annotations: {{dapr.io/enabled: 'true', dapr.io/app-id: load}}}}, \
         spec: {{containers: [{}]}}}}",
        container("load")
    );
    let path = "jsonpath={.spec.initContainers[0].name}";
    let (mut admitted, mut failures) = (0, Vec::new());
    while !over.load(Ordering::Relaxed) {
        match kube.kubectl(&["create", "--dry-run=server", "-o", path, "-f", "-"], &yaml) {
            Ok(name) if name == "daprd" => admitted += 1,
            other => failures.push(format!("{other:?}")),
        }
    }
    (admitted, failures)
}

/// Ready containers and restarts of the control plane's pods.
fn restarts(stage: &Stage) -> String {
    let path =
        "jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].restartCount}{'\\n'}{end}";
    stage
        .cluster
        .kubectl(&["-n", SYSTEM, "get", "pods", "-o", path], "")
        .unwrap()
}

pub(super) fn the_api_server_may_be_away(stage: &mut Stage) {
    let before = restarts(stage);
    let apiserver = stage.cluster.process("kube-apiserver");
    apiserver.signal("STOP");
    std::thread::sleep(Duration::from_secs(60));
    stage.cluster.process("kube-apiserver").signal("CONT");
    for workload in WORKLOADS {
        stage.until(workload, || {
            stage
                .cluster
                .kubectl(&["-n", SYSTEM, "rollout", "status", workload, "--timeout=5s"], "")
                .is_ok()
        });
    }
    assert_eq!(restarts(stage), before, "no process ended meanwhile");
}

/// To high availability and other values, and back.
pub(super) fn upgrades_keep_the_authority(stage: &mut Stage) {
    let authority = |stage: &Stage| stage.get(SYSTEM, "secret/dapr-trust-bundle", r"{.data.ca\.crt}");
    let before = authority(stage);
    assert!(!before.is_empty());
    let wait = ["--wait", "--timeout", "150s"];
    let upgrade: Vec<&str> = ["upgrade", "dapr", CHART].into_iter().chain(wait).collect();
    helm(
        stage,
        &upgrade,
        &[
            "global.logAsJson=true",
            "global.ha.enabled=true",
            "global.ha.replicaCount=2",
        ],
    )
    .unwrap_or_else(|error| panic!("{error}\n{}", stage.cluster.situation()));
    assert_eq!(authority(stage), before);
    let replicas = |what: &str| stage.get(SYSTEM, what, "{.status.readyReplicas}");
    assert_eq!(replicas("statefulset/dapr-placement-server"), "3");
    assert_eq!(replicas("deploy/dapr-sentry"), "2");
    stage.until("log lines as the new values want them", || {
        let logs = ["-n", SYSTEM, "logs", "-l", "app=dapr-sentry", "--tail=1"];
        let lines = stage.cluster.kubectl(&logs, "").unwrap_or_default();
        lines.lines().any(|line| line.starts_with('{'))
    });
    let rollback: Vec<&str> = ["rollback", "dapr", "1", "--namespace", SYSTEM]
        .into_iter()
        .chain(wait)
        .collect();
    stage
        .cluster
        .helm(&rollback)
        .unwrap_or_else(|error| panic!("{error}\n{}", stage.cluster.situation()));
    assert_eq!(authority(stage), before);
}

/// Debug builds are larger than what users run: this only notices leaks and blunders.
pub(super) fn it_is_small(stage: &mut Stage) {
    let mut total = 0;
    for name in ["operator", "sentry", "injector", "placement", "scheduler"] {
        let kilobytes = resident(name).unwrap_or_else(|| panic!("no process {name} of the cluster"));
        eprintln!("resident: {name} {:.1} MB", kilobytes as f64 / 1000.0);
        total += kilobytes;
    }
    eprintln!("resident: together {:.1} MB", total as f64 / 1000.0);
    assert!(total < 200_000, "{total} kB\n{}", stage.cluster.situation());
}

/// Resident kilobytes of the process whose command is `/NAME`.
fn resident(name: &str) -> Option<u64> {
    let command = format!("/{name}\0");
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        line.starts_with(&command).then_some(())?;
        let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    })
}

pub(super) fn uninstalling_leaves_nothing(stage: &mut Stage) {
    stage
        .cluster
        .helm(&[
            "uninstall",
            "dapr",
            "--namespace",
            SYSTEM,
            "--wait",
            "--timeout",
            "120s",
        ])
        .unwrap();
    let kinds = "all,secrets,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets,persistentvolumeclaims,leases";
    stage.until("nothing of ours in the namespace", || {
        let left = stage
            .cluster
            .kubectl(&["-n", SYSTEM, "get", kinds, "-o", "name"], "")
            .unwrap_or_default();
        left.lines()
            .all(|line| line == "serviceaccount/default" || line.starts_with("lease"))
    });
    let cluster_wide = stage
        .cluster
        .kubectl(
            &[
                "get",
                "clusterroles,clusterrolebindings,mutatingwebhookconfigurations",
                "-o",
                "name",
            ],
            "",
        )
        .unwrap();
    assert!(!cluster_wide.contains("dapr"), "{cluster_wide}");
}
