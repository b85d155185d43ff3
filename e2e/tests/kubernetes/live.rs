//! What changes while apps run: resources that are edited, an operator that dies, very many objects, and one that cannot be
//! read.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::pods::{ask, exec, store};
use super::{PATIENCE, SYSTEM, Stage, deployment, process};

const SECRETS: &str = "http://127.0.0.1:3500/v1.0/secrets/env/X";
const METADATA: &str = "http://127.0.0.1:3500/v1.0/metadata";

fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()
}

/// When an answer of the app's sidecar first had `text` in it, in milliseconds since 1970.
fn first_seen(stage: &Stage, namespace: &str, app: &str, url: &str, text: &str) -> u128 {
    let told = exec(stage, namespace, app, &["until", "60", url, text]);
    told.parse()
        .unwrap_or_else(|_| panic!("{text:?}: {told}\n{}", stage.cluster.situation()))
}

/// A secret store of the sidecar's variables that begin with `prefix`: which one it is can be seen by what it gives.
fn variables(prefix: &str) -> String {
    format!(
        "{{apiVersion: dapr.io/v1alpha1, kind: Component, metadata: {{name: env}}, \
         spec: {{type: secretstores.local.env, version: v1, metadata: [{{name: prefix, value: {prefix}}}]}}}}"
    )
}

fn reader(stage: &Stage, namespace: &str) {
    let annotations = "dapr.io/enabled: 'true', dapr.io/app-id: reader, dapr.io/env: 'A_X=first,B_X=second'";
    let yaml = deployment("reader", annotations);
    stage.cluster.apply_in(namespace, &yaml).unwrap();
    stage.cluster.rolled_out(namespace, "deploy/reader", PATIENCE);
}

/// Made, edited and deleted, and each time in force without a restart. Prints how long that takes.
pub(super) fn a_component_is_taken_up(stage: &mut Stage) {
    let stage = &*stage;
    stage.in_namespace("live", |ns| {
        reader(stage, ns);
        let mut times = Vec::new();
        for (prefix, text) in [
            ("A_", "first"),
            ("B_", "second"),
            ("A_", "first"),
            ("B_", "second"),
        ] {
            let seen = std::thread::scope(|scope| {
                // Already asking when the edit comes.
                let asking = scope.spawn(|| first_seen(stage, ns, "reader", SECRETS, text));
                std::thread::sleep(Duration::from_secs(1));
                let before = now();
                stage.cluster.apply_in(ns, &variables(prefix)).unwrap();
                let applied = now();
                (before, applied, asking.join().unwrap())
            });
            let (before, applied, seen) = seen;
            assert!(seen > before, "it was so before");
            times.push(format!(
                "{} ms ({} by kubectl itself)",
                seen - before,
                applied - before
            ));
        }
        eprintln!("from `kubectl apply` to use: {}", times.join(", "));
        stage
            .cluster
            .kubectl(&["-n", ns, "delete", "component", "env"], "")
            .unwrap();
        stage.until("the store to be gone", || {
            ask(stage, ns, "reader", "GET", "v1.0/secrets/env/X", "").starts_with("500")
                || ask(stage, ns, "reader", "GET", "v1.0/secrets/env/X", "").contains("ERR_SECRET_STORE")
        });
        let restarts = "{.items[0].status.initContainerStatuses[0].restartCount}";
        assert_eq!(stage.get(ns, "pods", restarts), "0");
    });
}

/// With `kill -9`, and for a while: sidecars serve on, and learn afterwards what changed meanwhile.
pub(super) fn the_operator_may_be_killed(stage: &mut Stage) {
    let stage = &*stage;
    stage.in_namespace("orphans", |ns| {
        stage.cluster.apply_in(ns, &variables("A_")).unwrap();
        stage.cluster.apply_in(ns, &store("kv", "reader")).unwrap();
        reader(stage, ns);
        first_seen(stage, ns, "reader", SECRETS, "first");
        let works = || {
            let saved = super::pods::save(stage, ns, "reader", "kv");
            assert!(saved.starts_with("204"), "{saved}");
        };
        works();
        if let Some((operator, _)) = process("operator") {
            let killed = Command::new("kill")
                .args(["-KILL", &operator.to_string()])
                .status();
            assert!(killed.unwrap().success());
            works();
            stage.until("another operator", || {
                process("operator").is_some_and(|(id, _)| id != operator)
            });
            stage.cluster.rolled_out(SYSTEM, "deploy/dapr-operator", PATIENCE);
            stage.cluster.apply_in(ns, &variables("B_")).unwrap();
            first_seen(stage, ns, "reader", SECRETS, "second");
        }

        let scale = |replicas: &str| {
            let words = ["-n", SYSTEM, "scale", "deploy/dapr-operator", replicas];
            stage.cluster.kubectl(&words, "").unwrap();
        };
        scale("--replicas=0");
        stage.cluster.wait(
            &["-n", SYSTEM, "--for=delete", "pod", "-l", "app=dapr-operator"],
            PATIENCE,
        );
        stage
            .cluster
            .apply_in(ns, &variables("A_").replace("A_", "A"))
            .unwrap();
        stage.cluster.apply_in(ns, &store("late", "reader")).unwrap();
        works();
        scale("--replicas=1");
        stage.cluster.rolled_out(SYSTEM, "deploy/dapr-operator", PATIENCE);
        first_seen(stage, ns, "reader", METADATA, r#""late""#);
        let renamed = "http://127.0.0.1:3500/v1.0/secrets/env/_X";
        first_seen(stage, ns, "reader", renamed, "first");
        works();
    });
}

/// Two hundred namespaces with five Components each, at once, beside a sidecar that has nothing to do with them.
pub(super) fn very_many_at_once(stage: &mut Stage) {
    const NAMESPACES: usize = 200;
    let stage = &*stage;
    let before = process("operator").map_or(0.0, |(_, memory)| memory);
    stage.in_namespace("bystander", |ns| {
        reader(stage, ns);
        let names: Vec<String> = (0..NAMESPACES).map(|n| format!("many-{n}")).collect();
        let all = |make: &(dyn Fn(&str) -> Vec<String> + Sync)| {
            // Several clients: each of kubectl's is slowed down by itself.
            std::thread::scope(|scope| {
                for part in names.chunks(NAMESPACES / 8) {
                    scope.spawn(move || {
                        let objects: Vec<String> = part.iter().flat_map(|name| make(name)).collect();
                        let made = stage.cluster.kubectl(
                            &["create", "-f", "-"],
                            &format!("---\n{}", objects.join("\n---\n")),
                        );
                        made.map(drop).unwrap_or_else(|error| panic!("{error}"));
                    });
                }
            });
        };
        let start = now();
        all(&|name| {
            vec![format!(
                "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}"
            )]
        });
        all(&|name| {
            let one = |n: usize| {
                store(&format!("{name}-{n}"), "").replace(
                    "metadata: {name:",
                    &format!("metadata: {{namespace: {name}, name:"),
                )
            };
            (0..5).map(one).collect()
        });
        let made = now();
        // While the operator may still be busy with them.
        stage.cluster.apply_in(ns, &variables("A_")).unwrap();
        let seen = first_seen(stage, ns, "reader", SECRETS, "first");
        eprintln!(
            "{NAMESPACES} namespaces and {} Components in {} ms; a bystander's edit in force {} ms later",
            NAMESPACES * 5,
            made - start,
            seen.saturating_sub(made)
        );
        // A sidecar among them gets its own and no others.
        stage.until("the namespace's account", || {
            !stage
                .get("many-7", "serviceaccount/default", "{.metadata.name}")
                .is_empty()
        });
        reader(stage, "many-7");
        first_seen(stage, "many-7", "reader", METADATA, r#""many-7-4""#);
        let told = ask(stage, "many-7", "reader", "GET", "v1.0/metadata", "");
        assert_eq!(told.matches("state.in-memory").count(), 5, "{told}");
        assert_eq!(told.matches(r#""many-7-"#).count(), 5, "{told}");
        let after = process("operator").map_or(0.0, |(_, memory)| memory);
        eprintln!("resident: operator {before:.1} MB before, {after:.1} MB with them");
        assert!(after < before + 40.0);
        // Our own cluster is taken away as a whole, which is quicker.
        if stage.node.is_some() {
            return;
        }
        for part in names.chunks(50) {
            let words: Vec<&str> = ["delete", "--wait=false", "namespace"]
                .into_iter()
                .chain(part.iter().map(String::as_str))
                .collect();
            stage.cluster.kubectl(&words, "").unwrap();
        }
    });
}

/// An object from a time when the API server took anything.
pub(super) fn one_that_cannot_be_read_holds_up_no_other(stage: &mut Stage) {
    let stage = &*stage;
    let schema = "/spec/versions/0/schema/openAPIV3Schema";
    let patch = |schema_now: &str| {
        let patch = format!(r#"[{{"op": "replace", "path": "{schema}", "value": {schema_now}}}]"#);
        let words = [
            "patch",
            "crd",
            "components.dapr.io",
            "--type=json",
            "-p",
            patch.as_str(),
        ];
        stage.cluster.kubectl(&words, "").unwrap();
    };
    let words = [
        "get",
        "crd",
        "components.dapr.io",
        "-o",
        "jsonpath={.spec.versions[0].schema.openAPIV3Schema}",
    ];
    let strict = stage.cluster.kubectl(&words, "").unwrap();
    stage.in_namespace("malformed", |ns| {
        reader(stage, ns);
        patch(r#"{"type": "object", "x-kubernetes-preserve-unknown-fields": true}"#);
        for (name, rest) in [
            ("a-number", "spec: 7"),
            (
                "b-lists",
                "spec: {type: [x], version: {}, metadata: 5}, scopes: {a: b}",
            ),
            ("c-nothing", "scopes: [reader]"),
        ] {
            let yaml = format!(
                "{{apiVersion: dapr.io/v1alpha1, kind: Component, metadata: {{name: {name}}}, {rest}}}"
            );
            // A moment may pass until the new schema is in force.
            stage.until("the object to be taken", || {
                stage.cluster.apply_in(ns, &yaml).is_ok()
            });
        }
        patch(&strict);
        // By the stream of a sidecar that runs, and by the list of one that starts.
        stage.cluster.apply_in(ns, &variables("A_")).unwrap();
        first_seen(stage, ns, "reader", SECRETS, "first");
        let words = ["-n", ns, "rollout", "restart", "deploy/reader"];
        stage.cluster.kubectl(&words, "").unwrap();
        stage.cluster.rolled_out(ns, "deploy/reader", PATIENCE);
        first_seen(stage, ns, "reader", SECRETS, "first");
        // And by an operator that finds them when it starts.
        let words = ["-n", SYSTEM, "rollout", "restart", "deploy/dapr-operator"];
        stage.cluster.kubectl(&words, "").unwrap();
        stage.cluster.rolled_out(SYSTEM, "deploy/dapr-operator", PATIENCE);
        stage.cluster.apply_in(ns, &variables("B_")).unwrap();
        first_seen(stage, ns, "reader", SECRETS, "second");
        let logs = ["-n", SYSTEM, "logs", "-l", "app=dapr-operator", "--tail=-1"];
        let logs = stage.cluster.kubectl(&logs, "").unwrap();
        assert!(logs.contains("a-number"), "the log names it:\n{logs}");
    });
}
