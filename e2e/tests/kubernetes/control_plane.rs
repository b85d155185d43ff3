//! The control plane itself: installed, disturbed, upgraded, measured, removed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{CHART, SYSTEM, Stage, WORKLOADS, container, process};

/// Values of this node, which offers no volumes.
const VALUES: &[&str] = &["dapr_scheduler.cluster.inMemoryStorage=true"];

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
            ("{apiVersion: dapr.io/v1alpha1, kind: HTTPEndpoint, metadata: {name: x}, spec: {baseUrl: api.test}}", "spec.baseUrl"),
            ("{apiVersion: dapr.io/v1alpha1, kind: Resiliency, metadata: {name: x}, spec: {policies: {retries: {r: {duration: soon}}}, targets: {}}}", "spec.policies.retries.r.duration"),
            ("{apiVersion: dapr.io/v1alpha1, kind: Configuration, metadata: {name: x}, spec: {accessControl: {policies: [{appId: a, namespace: b}]}}}", "spec.accessControl.policies[0]"),
            ("{apiVersion: dapr.io/v2alpha1, kind: Subscription, metadata: {name: x}, spec: {topic: t, routes: {default: /}}}", "spec.pubsubname"),
        ] {
            let error = stage.cluster.apply_in(ns, yaml).expect_err(yaml);
            assert!(error.contains(field), "{field}: {error}");
        }
    });
}

/// Asks for pods (without making them) until told to stop: how many would have a sidecar, and what went wrong. With
/// failurePolicy Fail, a moment without the injector would refuse one.
pub(super) fn admissions(stage: &Stage, over: &std::sync::atomic::AtomicBool) -> (usize, Vec<String>) {
    let yaml = format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: load, annotations: {{dapr.io/enabled: 'true', dapr.io/app-id: load}}}}, \
         spec: {{containers: [{}]}}}}",
        container("load")
    );
    let path = "jsonpath={.spec.initContainers[0].name}";
    let (mut admitted, mut failures) = (0, Vec::new());
    while !over.load(Ordering::Relaxed) {
        let words = ["create", "--dry-run=server", "-o", path, "-f", "-"];
        match stage.cluster.kubectl(&words, &yaml) {
            Ok(name) if name == "daprd" => admitted += 1,
            other => failures.push(format!("{other:?}")),
        }
    }
    (admitted, failures)
}

/// Prints how long the API server takes for a pod with a sidecar and for one without, as its client sees it.
pub(super) fn admissions_are_quick(stage: &mut Stage) {
    const PODS: usize = 300;
    let median = |annotations: &str| {
        let pod = |n: usize| {
            format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: quick-{n}, annotations: {{{annotations}}}}}, spec: {{containers: [{}]}}}}",
                container("quick")
            )
        };
        let pods: Vec<String> = (0..PODS).map(pod).collect();
        let words = ["-v=6", "create", "--dry-run=server", "-o", "name", "-f", "-"];
        let input = format!("---\n{}", pods.join("\n---\n"));
        let (_, told) = stage.cluster.kubectl_told(&words, &input).unwrap();
        let mut times: Vec<u32> = told
            .lines()
            .filter(|line| line.contains("POST") && line.contains("/pods"))
            .filter_map(|line| {
                let (_, rest) = line.split_once("milliseconds=")?;
                rest.split_whitespace().next()?.trim_matches('"').parse().ok()
            })
            .collect();
        assert_eq!(
            times.len(),
            PODS,
            "{}",
            told.lines().take(5).collect::<Vec<_>>().join("\n")
        );
        times.sort_unstable();
        (times[PODS / 2], times[PODS * 99 / 100])
    };
    let (plain, plain_slow) = median("");
    let (injected, slow) = median("dapr.io/enabled: 'true', dapr.io/app-id: quick");
    eprintln!("a pod without a sidecar {plain} ms (p99 {plain_slow}), with one {injected} ms (p99 {slow})");
}

pub(super) fn helm_test_passes(stage: &mut Stage) {
    let told = stage
        .cluster
        .helm(&["test", "dapr", "--namespace", SYSTEM, "--timeout", "120s"]);
    let told = told.unwrap_or_else(|error| panic!("{error}\n{}", stage.cluster.situation()));
    assert!(told.contains("Succeeded"), "{told}");
}

/// A change of roots is told as an Event on the Secret. It takes as long as certificates live; the cluster is taken away
/// before.
pub(super) fn a_change_of_roots_is_an_event(stage: &mut Stage) {
    let rotate = "exec deploy/dapr-sentry -- /sentry rotate --mode kubernetes --trust-domain cluster.local";
    let rotate: Vec<&str> = ["-n", SYSTEM].into_iter().chain(rotate.split(' ')).collect();
    stage
        .cluster
        .kubectl(&rotate, "")
        .unwrap_or_else(|error| panic!("{error}"));
    stage.until("the Event", || {
        let reasons = "jsonpath={.items[*].reason}";
        let words = [
            "-n",
            SYSTEM,
            "get",
            "events",
            "--field-selector=involvedObject.kind=Secret",
            "-o",
            reasons,
        ];
        let events = stage.cluster.kubectl(&words, "").unwrap_or_default();
        events.contains("RootRotationStarted")
    });
    stage.until("both roots where pods get them from", || {
        let published = stage.get(SYSTEM, "configmap/dapr-trust-bundle", r"{.data.ca\.crt}");
        published.matches("BEGIN CERTIFICATE").count() == 2
    });
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
    let Some(node) = &mut stage.node else {
        eprintln!("left out: the API server of a cluster from outside is not ours to stop");
        return;
    };
    node.process("kube-apiserver").signal("STOP");
    std::thread::sleep(Duration::from_secs(60));
    node.process("kube-apiserver").signal("CONT");
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
    roll_back(stage);
    assert_eq!(authority(stage), before);
}

/// To what was installed first.
fn roll_back(stage: &Stage) {
    let words = [
        "rollback",
        "dapr",
        "1",
        "--namespace",
        SYSTEM,
        "--wait",
        "--timeout",
        "150s",
    ];
    let told = stage.cluster.helm(&words);
    told.unwrap_or_else(|error| panic!("{error}\n{}", stage.cluster.situation()));
}

/// Does something while the chart is installed with other values.
pub(super) fn with_values(stage: &Stage, values: &[&str], run: impl FnOnce()) {
    let wait = ["--wait", "--timeout", "150s"];
    let upgrade: Vec<&str> = ["upgrade", "dapr", CHART].into_iter().chain(wait).collect();
    helm(stage, &upgrade, values).unwrap_or_else(|error| panic!("{error}\n{}", stage.cluster.situation()));
    run();
    roll_back(stage);
}

/// Debug builds are larger than what users run: with those this only notices leaks and blunders.
pub(super) fn it_is_small(stage: &mut Stage) {
    if stage.node.is_none() {
        eprintln!("left out: processes of a cluster from outside cannot be measured");
        return;
    }
    let mut total = 0.0;
    for name in ["operator", "sentry", "injector", "placement", "scheduler"] {
        let (_, megabytes) = process(name).unwrap_or_else(|| panic!("no process {name} of the cluster"));
        eprintln!("resident: {name} {megabytes:.1} MB");
        total += megabytes;
    }
    eprintln!("resident: together {total:.1} MB");
    assert!(total < 200.0, "{total} MB\n{}", stage.cluster.situation());
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
        left.lines().all(|line| line == "serviceaccount/default")
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
