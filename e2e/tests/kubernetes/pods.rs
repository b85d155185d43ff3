//! Pods whose apps use their sidecars: the operator gives them their resources and their Services.

use std::time::Duration;

use super::control_plane;
use super::{PATIENCE, REDIS, SYSTEM, Stage, WORKLOADS, container, deployment};

/// What the test's app, run once more in the container of an app, prints.
pub(super) fn exec(stage: &Stage, namespace: &str, app: &str, args: &[&str]) -> String {
    let target = format!("deploy/{app}");
    let words = ["-n", namespace, "exec", &target, "-c", "app", "--", "/pod_app"];
    let words: Vec<&str> = words.iter().chain(args).copied().collect();
    let told = stage.cluster.kubectl(&words, "");
    told.unwrap_or_else(|error| error).trim().to_owned()
}

/// What the app of a Deployment gets from its sidecar: the status and the body.
pub(super) fn ask(stage: &Stage, namespace: &str, app: &str, method: &str, path: &str, body: &str) -> String {
    let url = format!("http://127.0.0.1:3500/{path}");
    exec(stage, namespace, app, &["ask", method, &url, body])
}

/// A state store that is for these apps.
pub(super) fn store(name: &str, scopes: &str) -> String {
    format!(
        "{{apiVersion: dapr.io/v1alpha1, kind: Component, metadata: {{name: {name}}}, \
         spec: {{type: state.in-memory, version: v1, metadata: []}}, scopes: [{scopes}]}}"
    )
}

pub(super) fn save(stage: &Stage, namespace: &str, app: &str, store: &str) -> String {
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

/// A policy of `back` lets in who `front` is, by its certificate; nobody without one gets in at all.
pub(super) fn callers_are_known_by_their_certificates(stage: &mut Stage) {
    let stage = &*stage;
    stage.in_namespace("identities", |ns| {
        let policy = format!(
            "{{apiVersion: dapr.io/v1alpha1, kind: Configuration, metadata: {{name: closed}}, spec: {{accessControl: {{\
             defaultAction: deny, trustDomain: public, policies: [{{appId: front, trustDomain: public, namespace: {ns}, \
             defaultAction: allow}}]}}}}}}"
        );
        stage.cluster.apply_in(ns, &policy).unwrap();
        for app in ["front", "back", "stranger"] {
            let annotations = format!(
                "dapr.io/enabled: 'true', dapr.io/app-id: {app}, dapr.io/app-port: '8080', dapr.io/config: closed"
            );
            let yaml = deployment(app, &annotations);
            stage.cluster.apply_in(ns, &yaml).unwrap();
        }
        for app in ["deploy/front", "deploy/back", "deploy/stranger"] {
            stage.cluster.rolled_out(ns, app, PATIENCE);
        }
        let path = "v1.0/invoke/back/method/hello";
        stage.until("an answer for the one that is let in", || {
            ask(stage, ns, "front", "GET", path, "").contains("back GET /hello")
        });
        let refused = ask(stage, ns, "stranger", "GET", path, "");
        assert!(refused.starts_with("403"), "{refused}");
        // The internal port speaks TLS only, and asks for a certificate.
        let ip = stage.get(ns, "pods", "{.items[?(@.metadata.labels.app=='back')].status.podIP}");
        let plain = exec(stage, ns, "front", &["ask", "GET", &format!("http://{ip}:50002/hello"), ""]);
        assert!(!plain.starts_with("200") && !plain.contains("back GET"), "{plain}");
        let seen = exec(stage, ns, "back", &["ask", "GET", "http://127.0.0.1:8080/seen"]);
        assert_eq!(seen.matches("GET /hello").count(), 1, "one call came through: {seen}");
    });
}

/// Two pods host a type, a third calls it; one of three replicas of placement after the other is killed meanwhile.
pub(super) fn actors_live_in_pods(stage: &mut Stage) {
    let stage = &*stage;
    control_plane::with_values(stage, &["dapr_placement.ha=true"], || {
        stage.in_namespace("actors", |ns| {
            let store = "{apiVersion: dapr.io/v1alpha1, kind: Component, metadata: {name: kv}, spec: {type: state.in-memory, \
                         version: v1, metadata: [{name: actorStateStore, value: 'true'}]}, scopes: [host]}";
            stage.cluster.apply_in(ns, store).unwrap();
            for app in ["front", "host"] {
                let annotations =
                    format!("dapr.io/enabled: 'true', dapr.io/app-id: {app}, dapr.io/app-port: '8080'");
                let mut yaml = deployment(app, &annotations);
                if app == "host" {
                    yaml = yaml
                        .replace("replicas: 1", "replicas: 2")
                        .replace("{name: app,", "{name: app, env: [{name: ACTORS, value: T}],");
                }
                stage.cluster.apply_in(ns, &yaml).unwrap();
            }
            for app in ["deploy/front", "deploy/host"] {
                stage.cluster.rolled_out(ns, app, PATIENCE);
            }
            let call = |n: usize| ask(stage, ns, "front", "POST", &format!("v1.0/actors/T/{n}/method/hello"), "");
            for n in 0..10 {
                stage.until("an actor's answer", || {
                    call(n).contains(&format!("host PUT /actors/T/{n}/method/hello"))
                });
            }
            let hosts = ["-n", ns, "get", "pods", "-l", "app=host", "-o", "name"];
            let hosts = stage.cluster.kubectl(&hosts, "").unwrap();
            let seen = |pod: &str| {
                let words = ["-n", ns, "exec", pod, "-c", "app", "--", "/pod_app", "ask", "GET"];
                let words: Vec<&str> = words.into_iter().chain(["http://127.0.0.1:8080/seen"]).collect();
                stage.cluster.kubectl(&words, "").unwrap_or_default()
            };
            for pod in hosts.lines() {
                assert!(seen(pod).contains("/method/hello"), "each hosts some of ten: {pod}");
            }
            let path = "v1.0/actors/T/3/reminders/r";
            let told = ask(stage, ns, "host", "POST", path, r#"{"dueTime": "1s", "data": 7}"#);
            assert!(told.starts_with("204"), "{told}");
            stage.until("the reminder", || {
                hosts
                    .lines()
                    .any(|pod| seen(pod).contains("PUT /actors/T/3/method/remind/r"))
            });
            let (calls, failures) = stage.under_load(ns, &["v1.0/actors/T/3/method/load"], || {
                for replica in 0..3 {
                    let pod = format!("pod/dapr-placement-server-{replica}");
                    let uid = || stage.get(SYSTEM, &pod, "{.metadata.uid}");
                    let before = uid();
                    let kill = ["-n", SYSTEM, "delete", &pod, "--force", "--grace-period=0"];
                    stage.cluster.kubectl(&kill, "").unwrap();
                    stage.until("another pod in its place", || {
                        let is_ready = stage.get(SYSTEM, &pod, "{.status.containerStatuses[0].ready}");
                        uid() != before && is_ready == "true"
                    });
                    stage.until("an answer", || call(3).starts_with("200"));
                    // One fault at a time: the three agree again, and sidecars have their leases.
                    std::thread::sleep(Duration::from_secs(8));
                }
            });
            eprintln!("{calls} calls of an actor while placement's replicas were killed");
            assert!(failures.is_empty() && calls > 100, "{calls}, {failures:?}");
        });
    });
}

/// A job whose namespace is deleted is not there when another one of that name comes.
pub(super) fn jobs_go_with_their_namespace(stage: &mut Stage) {
    /// What the app gets for a method and a body.
    type Asking<'a> = &'a dyn Fn(&str, &str) -> String;
    let stage = &*stage;
    let (name, path) = ("fleeting", "v1.0-alpha1/jobs/later");
    let with_app = |look: &dyn Fn(Asking<'_>)| {
        stage.in_namespace(name, |ns| {
            let annotations = "dapr.io/enabled: 'true', dapr.io/app-id: front, dapr.io/app-port: '8080'";
            stage
                .cluster
                .apply_in(ns, &deployment("front", annotations))
                .unwrap();
            stage.cluster.rolled_out(ns, "deploy/front", PATIENCE);
            look(&|method, body| ask(stage, ns, "front", method, path, body));
        });
        stage.until("the end of the namespace", || {
            stage.cluster.kubectl(&["get", "namespace", name], "").is_err()
        });
    };
    with_app(&|ask| {
        let made = ask("POST", r#"{"dueTime": "1h", "data": "x"}"#);
        assert!(made.starts_with("20"), "{made}");
        let there = ask("GET", "");
        assert!(there.starts_with("200"), "{there}");
    });
    with_app(&|ask| {
        let gone = ask("GET", "");
        assert!(gone.contains("not found"), "{gone}");
    });
}

/// By a broker in a pod, and a Subscription that the operator hands out.
pub(super) fn events_pass_between_pods(stage: &mut Stage) {
    let stage = &*stage;
    stage.in_namespace("events", |ns| {
        let broker = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: broker, labels: {{app: broker}}}}, spec: {{terminationGracePeriodSeconds: 1, \
             containers: [{{name: redis, image: '{REDIS}', imagePullPolicy: Never, \
             args: [/redis-server, --save, '', --dir, /tmp, --protected-mode, 'no']}}]}}}}\n---\n\
             {{apiVersion: v1, kind: Service, metadata: {{name: broker}}, spec: {{selector: {{app: broker}}, ports: [{{port: 6379}}]}}}}\n---\n\
             {{apiVersion: v1, kind: Secret, metadata: {{name: broker}}, stringData: {{address: 'broker:6379'}}}}\n---\n\
             {{apiVersion: dapr.io/v1alpha1, kind: Component, metadata: {{name: bus}}, spec: {{type: pubsub.redis, version: v1, \
             metadata: [{{name: redisHost, secretKeyRef: {{name: broker, key: address}}}}]}}}}\n---\n\
             {{apiVersion: dapr.io/v2alpha1, kind: Subscription, metadata: {{name: orders}}, spec: {{pubsubname: bus, topic: orders, \
             routes: {{default: /orders}}}}, scopes: [taker]}}"
        );
        stage.cluster.apply_in(ns, &broker).unwrap();
        stage.cluster.wait(&["-n", ns, "--for=condition=Ready", "pod/broker"], PATIENCE);
        for app in ["giver", "taker"] {
            let annotations =
                format!("dapr.io/enabled: 'true', dapr.io/app-id: {app}, dapr.io/app-port: '8080'");
            stage.cluster.apply_in(ns, &deployment(app, &annotations)).unwrap();
        }
        for app in ["deploy/giver", "deploy/taker"] {
            stage.cluster.rolled_out(ns, app, PATIENCE);
        }
        for n in 0..10 {
            let body = format!(r#"{{"order": {n}}}"#);
            let told = ask(stage, ns, "giver", "POST", "v1.0/publish/bus/orders", &body);
            assert!(told.starts_with("204"), "{told}");
        }
        let seen = |app: &str| exec(stage, ns, app, &["ask", "GET", "http://127.0.0.1:8080/seen"]);
        stage.until("all ten events", || {
            (0..10).all(|n| seen("taker").contains(&format!(r#""order":{n}"#)))
        });
        let taken = seen("taker");
        assert!(taken.contains("POST /orders") && taken.contains(r#""source":"giver""#), "{taken}");
        assert!(!seen("giver").contains("/orders"), "out of scope");
    });
}

/// An app that goes on for some seconds once it is to end, as callers learn of it late; and the whole control plane. Meanwhile
/// another app calls it all the time.
pub(super) fn nothing_fails_while_all_restarts(stage: &mut Stage) {
    let stage = &*stage;
    stage.in_namespace("rolling", |ns| {
        for app in ["front", "back"] {
            let annotations =
                format!("dapr.io/enabled: 'true', dapr.io/app-id: {app}, dapr.io/app-port: '8080'");
            let yaml = deployment(app, &annotations)
                .replace("replicas: 1", "replicas: 2")
                .replace(
                    "terminationGracePeriodSeconds: 5",
                    "terminationGracePeriodSeconds: 30",
                )
                .replace(
                    "{name: app,",
                    "{name: app, lifecycle: {preStop: {sleep: {seconds: 8}}},",
                );
            stage.cluster.apply_in(ns, &yaml).unwrap();
        }
        for app in ["deploy/front", "deploy/back"] {
            stage.cluster.rolled_out(ns, app, PATIENCE);
        }
        stage.until("an answer of the other app", || {
            ask(stage, ns, "front", "GET", "v1.0/invoke/back/method/hello", "").starts_with("200")
        });
        let restart = |namespace: &str, what: &str| {
            stage
                .cluster
                .kubectl(&["-n", namespace, "rollout", "restart", what], "")
                .unwrap();
            stage.cluster.rolled_out(namespace, what, PATIENCE);
        };
        let (calls, failures) = stage.under_load(ns, &["v1.0/invoke/back/method/load"], || {
            restart(ns, "deploy/back");
            // Those that end go on answering for a while.
            std::thread::sleep(Duration::from_secs(10));
        });
        eprintln!("{calls} calls while the app restarted");
        assert!(failures.is_empty() && calls > 100, "{calls}, {failures:?}");
        let (calls, failures) = stage.under_load(ns, &["v1.0/invoke/back/method/load"], || {
            for workload in WORKLOADS {
                restart(SYSTEM, workload);
            }
            // Longer than a sidecar may be unready before it is taken out of its Service.
            let scale = |replicas: &str| {
                let words = [
                    "-n",
                    SYSTEM,
                    "scale",
                    "statefulset/dapr-placement-server",
                    replicas,
                ];
                stage.cluster.kubectl(&words, "").unwrap();
            };
            scale("--replicas=0");
            std::thread::sleep(Duration::from_secs(12));
            scale("--replicas=1");
            stage
                .cluster
                .rolled_out(SYSTEM, "statefulset/dapr-placement-server", PATIENCE);
        });
        eprintln!("{calls} calls while the control plane restarted");
        assert!(failures.is_empty() && calls > 100, "{calls}, {failures:?}");
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
