//! Pods with and without sidecars. That a sidecar becomes ready is not asked here.

use super::{PATIENCE, SYSTEM, Stage, container, deployment};

const SIDECAR: &str = "{.items[0].spec.initContainers[?(@.name=='daprd')]";

fn sidecar_of(stage: &Stage, namespace: &str, selector: &str, field: &str) -> String {
    let path = format!("jsonpath={SIDECAR}{field}}}");
    stage
        .cluster
        .kubectl(&["-n", namespace, "get", "pods", "-l", selector, "-o", &path], "")
        .unwrap_or_default()
}

/// And the sidecar its certificate.
pub(super) fn a_deployment_gets_native_sidecars(stage: &mut Stage) {
    let stage = &*stage;
    stage.in_namespace("injection", |ns| {
        let yaml = deployment(
            "a",
            "dapr.io/enabled: 'true', dapr.io/app-id: a, dapr.io/app-port: '8080'",
        );
        stage.cluster.apply_in(ns, &yaml).unwrap();
        stage.until("the pod with its sidecar", || {
            sidecar_of(stage, ns, "app=a", ".restartPolicy") == "Always"
        });
        let args = sidecar_of(stage, ns, "app=a", ".args");
        for wanted in [
            "/daprd",
            "dapr-api.dapr-system.svc.cluster.local:443",
            "--enable-mtls",
            "kubernetes",
        ] {
            assert!(args.contains(wanted), "{wanted}: {args}");
        }
        let context = sidecar_of(stage, ns, "app=a", ".securityContext");
        assert!(context.contains(r#""drop":["ALL"]"#), "{context}");
        let volumes = stage
            .cluster
            .kubectl(
                &[
                    "-n",
                    ns,
                    "get",
                    "pods",
                    "-l",
                    "app=a",
                    "-o",
                    "jsonpath={.items[0].spec.volumes[*].name}",
                ],
                "",
            )
            .unwrap();
        assert!(volumes.contains("dapr-identity-token"), "{volumes}");
        // By the token of its pod, which sentry has reviewed by this API server.
        stage.until("the sidecar's certificate from sentry", || {
            let logs = ["-n", ns, "logs", "-l", "app=a", "-c", "daprd", "--tail=-1"];
            let logs = stage.cluster.kubectl(&logs, "").unwrap_or_default();
            logs.contains("Security is initialized successfully")
        });
    });
}

pub(super) fn wrong_annotations_are_told(stage: &mut Stage) {
    let stage = &*stage;
    stage.in_namespace("annotations", |ns| {
        let pod = |name: &str, annotations: &str| {
            format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, annotations: {{{annotations}}}}}, spec: {{containers: [{}]}}}}",
                container(name)
            )
        };
        // The administrator is in system:masters, whose pods get sidecars.
        let yaml = pod("typo", "dapr.io/enabled: 'true', dapr.io/app-id: typo, dapr.io/app-prt: '80', dapr.io/sidecar-cpu-limit: many");
        let told = stage.cluster.apply_in(ns, &yaml).unwrap();
        assert!(told.contains("dapr.io/app-prt") && told.contains("dapr.io/sidecar-cpu-limit"), "{told}");
        let yaml = pod("clash", "dapr.io/enabled: 'true', dapr.io/app-id: clash, dapr.io/app-port: '3500', \
            dapr.io/max-body-size: 8Mi, dapr.io/http-max-request-size: '4'");
        let told = stage.cluster.apply_in(ns, &yaml).unwrap();
        assert!(told.contains("dapr.io/app-port and the sidecar's HTTP API are both port 3500"), "{told}");
        assert!(told.contains("only dapr.io/max-body-size counts"), "{told}");
        // What only the API server can refuse, it does by the sidecar's name.
        let yaml = pod("greedy", "dapr.io/enabled: 'true', dapr.io/app-id: greedy, \
            dapr.io/sidecar-cpu-request: '2', dapr.io/sidecar-cpu-limit: '1'");
        let error = stage.cluster.apply_in(ns, &yaml).unwrap_err();
        assert!(error.contains("must be less than or equal to cpu limit"), "{error}");
        let yaml = pod("bad", "dapr.io/enabled: 'true', dapr.io/app-id: 'Not.An.Id'");
        let error = stage.cluster.apply_in(ns, &yaml).unwrap_err();
        assert!(error.contains("Not.An.Id"), "{error}");
    });
}

pub(super) fn creators_count(stage: &mut Stage) {
    let stage = &*stage;
    stage.in_namespace("creators", |ns| {
        stage.cluster.apply(&format!(
            "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: stranger, namespace: {ns}}}}}\n---\n\
             {{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {{name: stranger, namespace: {ns}}}, \
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}}, \
             subjects: [{{kind: ServiceAccount, name: stranger, namespace: {ns}}}]}}"
        ));
        let account = format!("system:serviceaccount:{ns}:stranger");
        let yaml = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p, annotations: {{dapr.io/enabled: 'true', dapr.io/app-id: p}}}}, spec: {{containers: [{}]}}}}",
            container("p")
        );
        stage
            .cluster
            .kubectl(&["-n", ns, "--as", &account, "create", "-f", "-"], &format!("---\n{yaml}"))
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(stage.get(ns, "pod/p", "{.spec.initContainers}"), "");
        // A Deployment whose account does not exist says so, and gets its pod once there is one.
        let yaml = deployment("missing", "dapr.io/enabled: 'true', dapr.io/app-id: missing")
            .replace("terminationGracePeriodSeconds: 5,", "serviceAccountName: later, terminationGracePeriodSeconds: 5,");
        stage.cluster.apply_in(ns, &yaml).unwrap();
        stage.until("a message that names the account", || {
            let conditions = stage.get(ns, "deploy/missing", "{.status.conditions[*].message}");
            conditions.contains(r#"serviceaccount "later" not found"#)
        });
        stage
            .cluster
            .kubectl(&["-n", ns, "create", "serviceaccount", "later"], "")
            .unwrap();
        stage.until("the pod with its sidecar", || {
            sidecar_of(stage, ns, "app=missing", ".name") == "daprd"
        });
    });
}

pub(super) fn without_the_injector_only_sidecar_pods_wait(stage: &mut Stage) {
    let stage = &*stage;
    let scale = |replicas: &str| {
        let words = ["-n", SYSTEM, "scale", "deploy/dapr-sidecar-injector", replicas];
        stage.cluster.kubectl(&words, "").unwrap();
    };
    scale("--replicas=0");
    stage
        .cluster
        .kubectl(
            &[
                "-n",
                SYSTEM,
                "wait",
                "--for=delete",
                "pod",
                "-l",
                "app=dapr-sidecar-injector",
                "--timeout=60s",
            ],
            "",
        )
        .unwrap();
    stage.in_namespace("away", |ns| {
        for (name, annotations) in [
            ("plain", ""),
            ("declined", "dapr.io/enabled: 'false'"),
            ("wanting", "dapr.io/enabled: 'true', dapr.io/app-id: wanting"),
        ] {
            let yaml = deployment(name, annotations);
            stage.cluster.apply_in(ns, &yaml).unwrap();
        }
        stage.cluster.rolled_out(ns, "deploy/plain", PATIENCE);
        stage.cluster.rolled_out(ns, "deploy/declined", PATIENCE);
        stage.until("a message that names the webhook", || {
            let conditions = stage.get(ns, "deploy/wanting", "{.status.conditions[*].message}");
            conditions.contains("sidecar-injector.dapr.io")
        });
        // The control plane's own pods do not need it: it comes back by itself.
        scale("--replicas=1");
        stage
            .cluster
            .rolled_out(SYSTEM, "deploy/dapr-sidecar-injector", PATIENCE);
        stage.until("the pod with its sidecar", || {
            sidecar_of(stage, ns, "app=wanting", ".name") == "daprd"
        });
    });
}
