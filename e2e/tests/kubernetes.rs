//! The chart on a real node: installed by `helm install` into a namespace of the restricted level, used, disturbed, taken away.
//!
//! One cluster for all scenarios, one after the other, each in a namespace of its own. A scenario that fails does not stop
//! the others; the end names them all. `SCENARIO=part-of-a-name` runs some only (and the installation).

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use outrigger_e2e::kube::{Cluster, IMAGES, programs};

#[path = "kubernetes/control_plane.rs"]
mod control_plane;
#[path = "kubernetes/injection.rs"]
mod injection;
#[path = "kubernetes/pods.rs"]
mod pods;

/// How long something may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const SYSTEM: &str = "dapr-system";
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/outrigger");

/// What all scenarios share.
struct Stage {
    cluster: Cluster,
}

type Scenario = (&'static str, fn(&mut Stage));

/// In this order: the last one takes everything away.
const SCENARIOS: &[Scenario] = &[
    (
        "a Deployment's pods get a native sidecar and the identity volume",
        injection::a_deployment_gets_native_sidecars,
    ),
    (
        "apps call each other and keep state by their sidecars",
        pods::apps_use_their_sidecars,
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
        "every service of the control plane restarts, and no pod is refused meanwhile",
        control_plane::services_restart,
    ),
    (
        "a minute without the API server changes nothing",
        control_plane::the_api_server_may_be_away,
    ),
    (
        "an upgrade and a rollback keep the authority",
        control_plane::upgrades_keep_the_authority,
    ),
    ("the control plane is small", control_plane::it_is_small),
    (
        "after uninstalling nothing is left",
        control_plane::uninstalling_leaves_nothing,
    ),
];

#[tokio::test]
async fn the_chart_works_on_a_real_node() {
    let dir = tempfile::tempdir().unwrap();
    let mut stage = Stage {
        cluster: Cluster::start(dir.path()).await,
    };
    let names: Vec<&str> = IMAGES.names.iter().copied().chain(["pod_app"]).collect();
    for archive in programs(dir.path(), IMAGES.registry, IMAGES.tag, &names) {
        stage.cluster.load_image(&archive);
    }
    control_plane::install(&stage);
    let chosen = std::env::var("SCENARIO").unwrap_or_default();
    let mut failed = Vec::new();
    for (name, run) in SCENARIOS.iter().filter(|(name, _)| name.contains(&chosen)) {
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| run(&mut stage)));
        let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
        eprintln!(
            "scenario {verdict} ({:.1} s): {name}",
            start.elapsed().as_secs_f64()
        );
        if outcome.is_err() {
            failed.push(*name);
        }
    }
    assert!(
        failed.is_empty(),
        "failed: {}\n{}",
        failed.join("; "),
        stage.cluster.situation()
    );
}

impl Stage {
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
