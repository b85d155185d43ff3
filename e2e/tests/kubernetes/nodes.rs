//! What needs two nodes: pods of one call those of the other, actors live on both, and one is emptied.

use std::time::Duration;

use super::pods::{ask, exec};
use super::{PATIENCE, Stage, deployment};

/// Where the pods of an app may be: on that node.
fn on(node: &str) -> String {
    format!("nodeSelector: {{kubernetes.io/hostname: {node}}}")
}

/// One on each, and on those that are left while one is not to be used. The app goes on for a while once it is to end, as
/// callers learn of it late.
fn spread(app: &str) -> String {
    format!(
        "topologySpreadConstraints: [{{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, \
         nodeTaintsPolicy: Honor, labelSelector: {{matchLabels: {{app: {app}}}}}}}]"
    )
}

/// Apps on two nodes know each other by their certificates, ten actors have hosts on both, and no call fails while the pods of
/// one node are evicted; all actors live on the other then.
pub(super) fn nodes_work_together(stage: &mut Stage) {
    let stage = &*stage;
    let path = "jsonpath={.items[*].metadata.name}";
    let nodes = stage.cluster.kubectl(&["get", "nodes", "-o", path], "").unwrap();
    let nodes: Vec<&str> = nodes.split_whitespace().collect();
    let [first, second, ..] = nodes[..] else {
        eprintln!("left out: this cluster has one node");
        return;
    };
    stage.in_namespace("nodes", |ns| {
        for (app, caller) in [("front", "back"), ("back", "front"), ("host", "front")] {
            let policy = format!(
                "{{apiVersion: dapr.io/v1alpha1, kind: Configuration, metadata: {{name: {app}}}, spec: {{accessControl: {{\
                 defaultAction: deny, trustDomain: public, policies: [{{appId: {caller}, trustDomain: public, namespace: {ns}, \
                 defaultAction: allow}}]}}}}}}"
            );
            stage.cluster.apply_in(ns, &policy).unwrap();
        }
        let store = "{apiVersion: dapr.io/v1alpha1, kind: Component, metadata: {name: kv}, spec: {type: state.in-memory, \
                     version: v1, metadata: [{name: actorStateStore, value: 'true'}]}, scopes: [host]}";
        stage.cluster.apply_in(ns, store).unwrap();
        for (app, place) in [("front", on(first)), ("back", on(second)), ("host", spread("host"))] {
            let annotations = format!(
                "dapr.io/enabled: 'true', dapr.io/app-id: {app}, dapr.io/app-port: '8080', dapr.io/config: {app}"
            );
            let grace = "terminationGracePeriodSeconds:";
            let mut yaml = deployment(app, &annotations).replace(grace, &format!("{place}, {grace}"));
            if app == "host" {
                yaml = yaml
                    .replace("replicas: 1", "replicas: 2")
                    .replace(&format!("{grace} 5"), &format!("{grace} 30"))
                    .replace(
                        "{name: app,",
                        "{name: app, env: [{name: ACTORS, value: T}], lifecycle: {preStop: {sleep: {seconds: 8}}},",
                    );
            }
            stage.cluster.apply_in(ns, &yaml).unwrap();
        }
        for app in ["deploy/front", "deploy/back", "deploy/host"] {
            stage.cluster.rolled_out(ns, app, PATIENCE);
        }
        for (caller, callee) in [("front", "back"), ("back", "front")] {
            let path = format!("v1.0/invoke/{callee}/method/hello");
            stage.until("an answer from the other node", || {
                ask(stage, ns, caller, "GET", &path, "").contains(&format!("{callee} GET /hello"))
            });
        }
        let refused = ask(stage, ns, "back", "GET", "v1.0/invoke/host/method/hello", "");
        assert!(refused.starts_with("403"), "{refused}");

        let hosts = || {
            let columns = "jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName}{'\\n'}{end}";
            let words = ["-n", ns, "get", "pods", "-l", "app=host", "-o", columns];
            stage.cluster.kubectl(&words, "").unwrap()
        };
        let before = hosts();
        assert!(before.contains(first) && before.contains(second), "{before}");
        let all_actors_answer = || {
            for n in 0..10 {
                stage.until("an actor's answer", || {
                    ask(stage, ns, "front", "POST", &format!("v1.0/actors/T/{n}/method/hello"), "")
                        .contains(&format!("host PUT /actors/T/{n}/method/hello"))
                });
            }
        };
        all_actors_answer();
        for line in before.lines() {
            let pod = line.split(' ').next().unwrap();
            let words = ["-n", ns, "exec", pod, "-c", "app", "--", "/pod_app", "ask", "GET", "http://127.0.0.1:8080/seen"];
            let seen = stage.cluster.kubectl(&words, "").unwrap();
            assert!(seen.contains("/method/hello"), "each hosts some of ten: {line}");
        }

        let actors = [0, 1, 2].map(|n| format!("v1.0/actors/T/{n}/method/load"));
        let paths: Vec<&str> = actors.iter().map(String::as_str).chain(["v1.0/invoke/host/method/load"]).collect();
        let (calls, failures) = stage.under_load(ns, &paths, || {
            let drain = ["drain", second, "--pod-selector=app=host", "--delete-emptydir-data", "--timeout=60s"];
            stage.cluster.kubectl(&drain, "").unwrap();
            stage.cluster.rolled_out(ns, "deploy/host", PATIENCE);
            std::thread::sleep(Duration::from_secs(2));
        });
        let after = hosts();
        all_actors_answer();
        stage.cluster.kubectl(&["uncordon", second], "").unwrap();
        eprintln!("{calls} calls while the app's pods of a node were evicted");
        assert!(failures.is_empty() && calls > 100, "{calls}, {failures:?}");
        assert!(!after.contains(second), "{after}");
        let kept = exec(stage, ns, "front", &["ask", "GET", "http://127.0.0.1:8080/seen"]);
        assert_eq!(kept.matches("GET /hello").count(), 1, "the caller was not restarted: {kept}");
    });
}
