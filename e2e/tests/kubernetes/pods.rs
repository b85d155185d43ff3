//! Pods whose apps use their sidecars: the operator gives them their resources and their Services.

use super::{PATIENCE, Stage, container, deployment};

/// What the app of a Deployment gets from its sidecar: the status and the body.
fn ask(stage: &Stage, namespace: &str, app: &str, method: &str, path: &str, body: &str) -> String {
    let (target, url) = (format!("deploy/{app}"), format!("http://127.0.0.1:3500/{path}"));
    let words = [
        "-n", namespace, "exec", &target, "-c", "app", "--", "/pod_app", "ask",
    ];
    let words: Vec<&str> = words.into_iter().chain([method, url.as_str(), body]).collect();
    let told = stage.cluster.kubectl(&words, "");
    told.unwrap_or_else(|error| error).trim().to_owned()
}

fn store(name: &str, scopes: &str) -> String {
    format!(
        "{{apiVersion: dapr.io/v1alpha1, kind: Component, metadata: {{name: {name}}}, \
         spec: {{type: state.in-memory, version: v1, metadata: []}}, scopes: [{scopes}]}}"
    )
}

fn save(stage: &Stage, namespace: &str, app: &str, store: &str) -> String {
    let path = format!("v1.0/state/{store}");
    ask(
        stage,
        namespace,
        app,
        "POST",
        &path,
        r#"[{"key": "k", "value": 7}]"#,
    )
}

/// Two apps: what one asks of the other and of its store, which the other may not use.
pub(super) fn apps_use_their_sidecars(stage: &mut Stage) {
    let stage = &*stage;
    stage.in_namespace("pods", |ns| {
        stage.cluster.apply_in(ns, &store("kv", "front")).unwrap();
        for app in ["front", "back"] {
            let annotations =
                format!("dapr.io/enabled: 'true', dapr.io/app-id: {app}, dapr.io/app-port: '8080'");
            stage
                .cluster
                .apply_in(ns, &deployment(app, &annotations))
                .unwrap();
        }
        // With their sidecars: a pod is Ready when those are, too.
        for app in ["deploy/front", "deploy/back"] {
            stage.cluster.rolled_out(ns, app, PATIENCE);
        }
        let invoke = || ask(stage, ns, "front", "GET", "v1.0/invoke/back/method/hello", "");
        stage.until("an answer of the other app", || {
            invoke().contains("back GET /hello")
        });

        let saved = save(stage, ns, "front", "kv");
        assert!(saved.starts_with("204"), "{saved}");
        let read = ask(stage, ns, "front", "GET", "v1.0/state/kv/k", "");
        assert_eq!(read, "200 7");
        let refused = save(stage, ns, "back", "kv");
        assert!(
            refused.contains("ERR_STATE_STORE_NOT_CONFIGURED"),
            "out of scope: {refused}"
        );
    });
}

/// By the built-in secret store, with the rights of the pod's account.
pub(super) fn an_app_reads_a_secret(stage: &mut Stage) {
    let stage = &*stage;
    stage.in_namespace("secrets", |ns| {
        for yaml in [
            "{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {k: v}}",
            "{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: reader}, \
             rules: [{apiGroups: [''], resources: [secrets], verbs: [get], resourceNames: [s]}]}",
            "{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: reader}, \
             roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}, \
             subjects: [{kind: ServiceAccount, name: default}]}",
        ] {
            stage.cluster.apply_in(ns, yaml).unwrap();
        }
        let yaml = deployment("reader", "dapr.io/enabled: 'true', dapr.io/app-id: reader");
        stage.cluster.apply_in(ns, &yaml).unwrap();
        stage.cluster.rolled_out(ns, "deploy/reader", PATIENCE);
        let path = "v1.0/secrets/kubernetes/s";
        let told = ask(stage, ns, "reader", "GET", path, "");
        assert!(told.starts_with("200") && told.contains(r#"{"k":"v"}"#), "{told}");
    });
}

/// Its sidecar does not keep it from ending.
pub(super) fn a_job_completes(stage: &mut Stage) {
    let stage = &*stage;
    stage.in_namespace("jobs", |ns| {
        let serving = container("job");
        let asking = serving.replace(
            "serve, job",
            "ask, GET, 'http://127.0.0.1:3500/v1.0/healthz/outbound'",
        );
        assert_ne!(serving, asking);
        let yaml = format!(
            "{{apiVersion: batch/v1, kind: Job, metadata: {{name: once}}, spec: {{backoffLimit: 20, template: {{\
             metadata: {{annotations: {{dapr.io/enabled: 'true', dapr.io/app-id: once}}}}, \
             spec: {{restartPolicy: OnFailure, containers: [{asking}]}}}}}}}}"
        );
        stage.cluster.apply_in(ns, &yaml).unwrap();
        stage.until("the Job to complete", || {
            stage.get(ns, "job/once", "{.status.succeeded}") == "1"
        });
    });
}
