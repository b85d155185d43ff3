//! The chart on a real node: installed by `helm install` into a namespace of the restricted level, used, disturbed, taken away.
//!
//! One cluster for all scenarios, one after the other, each in a namespace of its own. A scenario that fails does not stop
//! the others; the end names them all. `SCENARIO=part-of-a-name|of-another` runs some only (and the installation).
//!
//! The cluster has two nodes, or as many as `OUTRIGGER_NODES` says. `OUTRIGGER_KUBECONFIG=FILE` takes a cluster from outside (the chart must
//! not be installed there; no need for root), and `OUTRIGGER_LOAD_IMAGE="kind load image-archive"` says how images get there: that
//! command is run with each archive's path. Without it they must be there, by the names that a failure tells.
//! `OUTRIGGER_BIN_DIR=DIR` takes all programs from there, e.g. release builds (and `pod_app`).

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use outrigger_e2e::kube::{Cluster, IMAGES, Kube, program, programs};

#[path = "kubernetes/control_plane.rs"]
mod control_plane;
#[path = "kubernetes/injection.rs"]
mod injection;
#[path = "kubernetes/live.rs"]
mod live;
#[path = "kubernetes/nodes.rs"]
mod nodes;
#[path = "kubernetes/pods.rs"]
mod pods;

/// How long something may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const SYSTEM: &str = "dapr-system";
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/outrigger");

/// The broker of the pods that need one.
const REDIS: &str = "outrigger.test/redis-server:1";
const WORKLOADS: &[&str] = &[
    "deploy/dapr-operator",
    "deploy/dapr-sentry",
    "deploy/dapr-sidecar-injector",
    "statefulset/dapr-placement-server",
    "statefulset/dapr-scheduler-server",
];

/// What all scenarios share.
struct Stage {
    cluster: Kube,
    /// Unless the cluster is from outside.
    node: Option<Cluster>,
}

type Scenario = (&'static str, fn(&mut Stage));

/// In this order: the last one takes everything away.
const SCENARIOS: &[Scenario] = &[
    ("`helm test` passes", control_plane::helm_test_passes),
    (
        "a Deployment's pods get a native sidecar and the identity volume",
        injection::a_deployment_gets_native_sidecars,
    ),
    (
        "apps call each other and keep state by their sidecars",
        pods::apps_use_their_sidecars,
    ),
    (
        "callers are known by their certificates, and plaintext is refused",
        pods::callers_are_known_by_their_certificates,
    ),
    ("events pass between pods", pods::events_pass_between_pods),
    (
        "an edited Component is in force without a restart",
        live::a_component_is_taken_up,
    ),
    (
        "the operator may be killed beneath its sidecars",
        live::the_operator_may_be_killed,
    ),
    (
        "one object that cannot be read holds up no other",
        live::one_that_cannot_be_read_holds_up_no_other,
    ),
    (
        "an app reads a Secret by its sidecar",
        pods::an_app_reads_a_secret,
    ),
    ("a Job with a sidecar completes", pods::a_job_completes),
    (
        "an annotation that cannot be is told, and a pod without an id refused",
        injection::wrong_annotations_are_told,
    ),
    (
        "admissions take milliseconds",
        control_plane::admissions_are_quick,
    ),
    (
        "a pod of an unknown creator has no sidecar, one without its account no pod",
        injection::creators_count,
    ),
    (
        "without the injector only pods that want a sidecar wait",
        injection::without_the_injector_only_sidecar_pods_wait,
    ),
    (
        "broken resources are refused by the name of the field",
        control_plane::broken_resources_are_refused,
    ),
    (
        "an app and every service of the control plane restart, and no call fails and no pod is refused meanwhile",
        pods::nothing_fails_while_all_restarts,
    ),
    (
        "a minute without the API server changes nothing",
        control_plane::the_api_server_may_be_away,
    ),
    (
        "an upgrade and a rollback keep the authority",
        control_plane::upgrades_keep_the_authority,
    ),
    (
        "actors and their reminders live in pods, and placement's replicas may be killed",
        pods::actors_live_in_pods,
    ),
    (
        "pods of two nodes work together, and one node is emptied under calls",
        nodes::nodes_work_together,
    ),
    ("jobs go with their namespace", pods::jobs_go_with_their_namespace),
    ("the control plane is small", control_plane::it_is_small),
    (
        "1000 Components in 200 namespaces at once",
        live::very_many_at_once,
    ),
    (
        "a change of roots is told as an Event",
        control_plane::a_change_of_roots_is_an_event,
    ),
    (
        "after uninstalling nothing is left",
        control_plane::uninstalling_leaves_nothing,
    ),
];

#[tokio::test]
async fn the_chart_works_on_a_real_node() {
    let dir = tempfile::tempdir().unwrap();
    let mut stage = Stage::start(dir.path()).await;
    control_plane::install(&stage);
    let chosen = std::env::var("SCENARIO").unwrap_or_default();
    let mut failed = Vec::new();
    let is_chosen = |name: &str| chosen.split('|').any(|part| name.contains(part));
    for (name, run) in SCENARIOS.iter().filter(|(name, _)| is_chosen(name)) {
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| run(&mut stage)));
        let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
        eprintln!(
            "scenario {verdict} ({:.1} s): {name}",
            start.elapsed().as_secs_f64()
        );
        if outcome.is_err() {
            failed.push(*name);
            eprintln!("{}", stage.cluster.whole_situation());
            stage.clear();
        }
    }
    assert!(failed.is_empty(), "failed: {}", failed.join("; "));
}

impl Stage {
    async fn start(dir: &Path) -> Self {
        let names: Vec<&str> = IMAGES.names.iter().copied().chain(["pod_app"]).collect();
        let mut archives = programs(dir, IMAGES.registry, IMAGES.tag, &names);
        archives.push(program(dir, REDIS, Path::new("/usr/bin/redis-server")));
        let Some(kubeconfig) = std::env::var_os("OUTRIGGER_KUBECONFIG") else {
            let nodes = std::env::var("OUTRIGGER_NODES").map_or(2, |text| {
                text.parse()
                    .unwrap_or_else(|_| panic!("OUTRIGGER_NODES={text:?} is no number"))
            });
            let node = Cluster::start(dir, nodes).await;
            for archive in &archives {
                node.load_image(archive);
            }
            return Self {
                cluster: Kube::clone(&node),
                node: Some(node),
            };
        };
        let load = std::env::var("OUTRIGGER_LOAD_IMAGE").unwrap_or_default();
        let words: Vec<&str> = load.split_whitespace().collect();
        if let [command, args @ ..] = words.as_slice() {
            for archive in &archives {
                let loaded = Command::new(command).args(args).arg(archive).status();
                assert!(
                    loaded.is_ok_and(|status| status.success()),
                    "{load} {}",
                    archive.display()
                );
            }
        }
        Self {
            cluster: Kube::new(Path::new(&kubeconfig)),
            node: None,
        }
    }

    /// Does something while `front` calls these paths of its sidecar in that namespace, each one after the other, and pods are
    /// asked for: how many calls succeeded, and which failed.
    fn under_load(&self, namespace: &str, paths: &[&str], disturb: impl FnOnce()) -> (u64, Vec<String>) {
        let over = AtomicBool::new(false);
        let calling = |path: &str| {
            let url = &format!("http://127.0.0.1:3500/{path}");
            let (mut calls, mut failures) = (0, Vec::new());
            while !over.load(Ordering::Relaxed) {
                let told = pods::exec(self, namespace, "front", &["load", "5", url]);
                match told.split_once(" good, ") {
                    Some((good, "0 bad")) => calls += good.parse::<u64>().unwrap_or(0),
                    _ => failures.push(told),
                }
            }
            (calls, failures)
        };
        std::thread::scope(|scope| {
            let calling = &calling;
            let calling: Vec<_> = paths
                .iter()
                .map(|path| scope.spawn(move || calling(path)))
                .collect();
            let admitting = scope.spawn(|| control_plane::admissions(self, &over));
            {
                // Also when it fails: the threads must end.
                let _over = SetWhenDropped(&over);
                disturb();
            }
            let (admitted, refused) = admitting.join().unwrap();
            let (mut calls, mut failures) = (0, Vec::new());
            for called in calling {
                let (good, bad) = called.join().unwrap();
                calls += good;
                failures.extend(bad);
            }
            eprintln!("{admitted} pods admitted meanwhile");
            assert!(admitted > 0);
            failures.extend(refused);
            (calls, failures)
        })
    }

    /// A fresh namespace, gone when `run` ends.
    fn in_namespace(&self, name: &str, run: impl FnOnce(&str)) {
        self.cluster.kubectl(&["create", "namespace", name], "").unwrap();
        // Its account is made by a controller.
        self.until("the namespace's account", || {
            let ask = ["-n", name, "get", "serviceaccount", "default"];
            self.cluster.kubectl(&ask, "").is_ok()
        });
        run(name);
        let _ = self
            .cluster
            .kubectl(&["delete", "namespace", name, "--wait=false"], "");
    }

    /// Takes away what a scenario that failed has left.
    fn clear(&self) {
        let every = ["uncordon", "--selector=kubernetes.io/hostname"];
        let _ = self.cluster.kubectl(&every, "");
        let names = "jsonpath={range .items[*]}{.metadata.name} {end}";
        let all = self.cluster.kubectl(&["get", "namespaces", "-o", names], "");
        let all = all.unwrap_or_default();
        let left = all
            .split_whitespace()
            .filter(|name| !name.starts_with("kube-") && !["default", SYSTEM].contains(name));
        let words: Vec<&str> = ["delete", "namespace", "--wait=false"]
            .into_iter()
            .chain(left)
            .collect();
        let _ = self.cluster.kubectl(&words, "");
        for deployment in WORKLOADS.iter().filter(|name| name.starts_with("deploy/")) {
            let words = ["-n", SYSTEM, "scale", deployment, "--replicas=1"];
            let _ = self.cluster.kubectl(&words, "");
        }
    }

    /// Waits for a condition.
    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(
                Instant::now() < deadline,
                "waited {PATIENCE:?} in vain for {what}\n{}",
                self.cluster.situation()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// What `kubectl get` says of one object, by a JSON path; empty if there is none.
    fn get(&self, namespace: &str, what: &str, path: &str) -> String {
        let path = format!("jsonpath={path}");
        self.cluster
            .kubectl(&["-n", namespace, "get", what, "-o", &path], "")
            .unwrap_or_default()
    }
}

struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Id and resident megabytes of the process of this machine whose command is `/NAME`; none of a cluster from outside.
fn process(name: &str) -> Option<(u32, f64)> {
    let command = format!("/{name}\0");
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        line.starts_with(&command).then_some(())?;
        let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        let kibibytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some((id, kibibytes * 1024.0 / 1e6))
    })
}

/// A Deployment of the test's app with these annotations on its pods.
fn deployment(name: &str, annotations: &str) -> String {
    format!(
        "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: {name}}}, spec: {{replicas: 1, selector: {{matchLabels: {{app: {name}}}}}, \
         template: {{metadata: {{labels: {{app: {name}}}, annotations: {{{annotations}}}}}, spec: {{terminationGracePeriodSeconds: 5, containers: [{}]}}}}}}}}",
        container(name)
    )
}

/// The test's app as a container.
fn container(name: &str) -> String {
    format!(
        "{{name: app, image: '{}/pod_app:{}', imagePullPolicy: Never, args: [/pod_app, serve, {name}]}}",
        IMAGES.registry, IMAGES.tag
    )
}
