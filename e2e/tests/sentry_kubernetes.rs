//! Sentry in Kubernetes against a real API server, with the rights that the chart gives it: every recorded vector
//! (`sentry-kubernetes.json`), several replicas, a change of roots, and what is refused.

use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outrigger_e2e::kube::KubeApi;
use outrigger_e2e::sentry::{Client, csr, request as plain_request};
use outrigger_e2e::sentry_vectors::{blocks, cases, certificates, key_set, request, shown, sorted};
use outrigger_e2e::services::{RunningService, Service};
use serde_json::{Map, Value, json};

/// What the chart makes before sentry starts, and what the vectors take for granted.
const OBJECTS: &str = r#"
{apiVersion: v1, kind: Namespace, metadata: {name: dapr-system}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: farm}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: shop}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: other, namespace: shop}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: farm}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: dapr-operator, namespace: dapr-system}}
---
{apiVersion: v1, kind: Secret, metadata: {name: dapr-trust-bundle, namespace: dapr-system, labels: {app: dapr-sentry}}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: dapr-trust-bundle, namespace: dapr-system, labels: {app: dapr-sentry}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: dapr-sentry}
rules:
- {apiGroups: [authentication.k8s.io], resources: [tokenreviews], verbs: [create]}
- {apiGroups: [dapr.io], resources: [configurations], verbs: [list, get, watch]}
- {apiGroups: [""], resources: [pods], verbs: [list, get, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: dapr-sentry}
subjects: [{kind: User, name: sentry, apiGroup: rbac.authorization.k8s.io}]
roleRef: {kind: ClusterRole, name: dapr-sentry, apiGroup: rbac.authorization.k8s.io}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: dapr-sentry, namespace: dapr-system}
rules:
- {apiGroups: [""], resources: [secrets], verbs: [get, update, delete], resourceNames: [dapr-trust-bundle]}
- {apiGroups: [""], resources: [configmaps], verbs: [get, update, watch, list], resourceNames: [dapr-trust-bundle]}
- {apiGroups: [""], resources: [events], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: dapr-sentry, namespace: dapr-system}
subjects: [{kind: User, name: sentry, apiGroup: rbac.authorization.k8s.io}]
roleRef: {kind: Role, name: dapr-sentry, apiGroup: rbac.authorization.k8s.io}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: configurations.dapr.io}
spec:
  group: dapr.io
  scope: Namespaced
  names: {plural: configurations, singular: configuration, kind: Configuration}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"#;

const SYSTEM: &str = "
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: daprsystem, namespace: dapr-system}
spec: {mtls: {enabled: true, workloadCertTTL: <ttl>, allowedClockSkew: <skew>}}
";

const OTHERS: &str = "
{apiVersion: dapr.io/v1alpha1, kind: Configuration, metadata: {name: withtd, namespace: shop}, spec: {accessControl: {trustDomain: corp.example}}}
---
{apiVersion: dapr.io/v1alpha1, kind: Configuration, metadata: {name: badtd, namespace: shop}, spec: {accessControl: {trustDomain: NOT OK}}}
---
{apiVersion: dapr.io/v1alpha1, kind: Configuration, metadata: {name: notd, namespace: shop}, spec: {}}
";

/// A cluster as the chart leaves it, with a kubeconfig of sentry's.
async fn cluster(dir: &Path, ttl: &str, skew: &str) -> (KubeApi, String) {
    let kube = KubeApi::start(dir).await;
    kube.apply(OBJECTS);
    kube.kubectl(
        &[
            "wait",
            "--for=condition=Established",
            "crd/configurations.dapr.io",
            "--timeout=30s",
        ],
        "",
    )
    .expect("the resource definition is taken in");
    let system = SYSTEM.replace("<ttl>", ttl).replace("<skew>", skew);
    // The new kind takes a moment to be served.
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(error) = kube.kubectl(&["apply", "-f", "-"], &format!("{system}---{OTHERS}")) {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let identity = kube.pki().issue("sentry", None, &[]);
    let kubeconfig = kube.pki().kubeconfig("sentry", &identity, &kube.url());
    (kube, kubeconfig.display().to_string())
}

fn start(dir: &Path, kubeconfig: &str, more: &[&str]) -> RunningService {
    std::fs::create_dir_all(dir).expect("a folder");
    let service = Service::named("sentry").expect("sentry is in the list of services");
    let kubeconfig = format!("--kubeconfig={kubeconfig}");
    let flags: Vec<String> = ["--mode=kubernetes", "--config=daprsystem", &kubeconfig]
        .iter()
        .chain(more)
        .map(|flag| (*flag).to_owned())
        .collect();
    let env = [
        ("NAMESPACE".to_owned(), "dapr-system".to_owned()),
        (
            "DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK".to_owned(),
            "true".to_owned(),
        ),
    ];
    RunningService::start(service, dir, &flags, &env)
}

/// An object of the trust bundle with its data as text.
fn bundle(kube: &KubeApi, kind: &str) -> Map<String, Value> {
    let args = [
        "get",
        kind,
        "dapr-trust-bundle",
        "-n",
        "dapr-system",
        "-o",
        "json",
    ];
    let object: Value = serde_json::from_str(&kube.kubectl(&args, "").expect("the object")).expect("JSON");
    let text = |value: &Value| {
        let text = value.as_str().unwrap_or_default();
        if kind == "secret" {
            String::from_utf8_lossy(&STANDARD.decode(text).unwrap_or_default()).into_owned()
        } else {
            text.to_owned()
        }
    };
    let data = object["data"].as_object().cloned().unwrap_or_default();
    data.iter()
        .map(|(name, value)| (name.clone(), json!(text(value))))
        .collect()
}

/// The same in the form of the vectors.
fn shown_bundle(kube: &KubeApi, kind: &str) -> Value {
    let mut data = Map::new();
    for (name, text) in bundle(kube, kind) {
        let text = text.as_str().unwrap_or_default();
        let mut entry = json!({"pem_blocks": blocks(text)});
        if name.ends_with(".crt") {
            entry["certificates"] = certificates(text);
        }
        if name.ends_with(".json") {
            entry["json"] = key_set(text);
        }
        data.insert(name, entry);
    }
    json!({"data": data, "type": if kind == "secret" { "Opaque" } else { "" }})
}

/// The token that a vector describes in words.
fn token(kube: &KubeApi, case: &Value, words: &str) -> String {
    if case["id"] == "garbage" {
        return "garbage".to_owned();
    }
    let rest = words
        .strip_prefix("<token of service account ")
        .expect("a token in words");
    let (account, rest) = rest.split_once(", audience ").expect("an audience");
    let (namespace, account) = account.split_once('/').expect("namespace/account");
    let rest = rest.trim_end_matches('>');
    let (audience, bound) = match rest.split_once(", bound to the pod") {
        Some((audience, _)) => (audience, true),
        None => (rest, false),
    };
    let audience = format!("--audience={audience}");
    let name = format!(
        "--bound-object-name={}",
        case["setup"]["pod"]["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
    );
    let mut args = vec!["create", "token", account, "-n", namespace, &audience];
    if bound {
        args.extend(["--bound-object-kind=Pod", &name]);
    }
    kube.kubectl(&args, "").expect("a token").trim().to_owned()
}

#[tokio::test]
async fn sentry_answers_in_kubernetes_as_recorded() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (kube, kubeconfig) = cluster(dir.path(), "24h", "15m").await;
    let flags = ["--jwt-enabled"];
    let mut sentry = start(&dir.path().join("sentry"), &kubeconfig, &flags);
    sentry.wait_ready().await;
    let mut client = Client::connect(sentry.port(0))
        .await
        .expect("sentry takes connections");
    let (mut wrong, mut replayed) = (Vec::new(), 0);
    for case in cases("sentry-kubernetes.json") {
        replayed += 1;
        if case["setup"]["pod"].is_object() {
            kube.apply(&case["setup"]["pod"].to_string());
        }
        for step in case["steps"].as_array().into_iter().flatten() {
            let sent = &step["send"];
            let got = match sent.as_str() {
                Some(words) if words.contains("Secret") => shown_bundle(&kube, "secret"),
                Some(_) => shown_bundle(&kube, "configmap"),
                None => {
                    let mut request = request(sent);
                    request.token = token(&kube, &case, &request.token);
                    shown(&client.sign(&request).await.expect("sentry answers"))
                }
            };
            let (want, got) = (sorted(step["got"].clone()), sorted(got));
            if want != got {
                wrong.push(format!("{}\n  want {want}\n  got  {got}", case["id"]));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {replayed}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert_eq!(replayed, 25);

    // A good token for another namespace, and the same token again when its pod is gone.
    let good = cases("sentry-kubernetes.json")
        .into_iter()
        .find(|case| case["id"] == "validator-kubernetes")
        .expect("the case of a good token");
    let mut replayed = request(&good["steps"][0]["send"]);
    replayed.token = token(&kube, &good, &replayed.token);
    client
        .sign(&replayed)
        .await
        .expect("an answer")
        .expect("a certificate");
    let mut elsewhere = replayed.clone();
    "farm".clone_into(&mut elsewhere.namespace);
    let refused = client.sign(&elsewhere).await.expect("an answer");
    assert_eq!(
        refused.expect_err("another namespace"),
        (7, "namespace mismatch; received namespace: farm".to_owned())
    );
    let pod = good["setup"]["pod"]["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    kube.kubectl(
        &["delete", "pod", &pod, "-n", "shop", "--force", "--grace-period=0"],
        "",
    )
    .expect("the pod can be deleted");
    // The API server keeps what it found out about a token for ten seconds.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let (code, text) = client
        .sign(&replayed)
        .await
        .expect("an answer")
        .expect_err("its pod is gone");
    assert!(code == 7 && text.starts_with("invalid token: "), "{code} {text}");
}

#[tokio::test]
async fn two_replicas_change_the_root_once_and_tell_of_it_and_a_forged_bundle_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (kube, kubeconfig) = cluster(dir.path(), "6s", "1s").await;
    let folder = |name: &str| dir.path().join(name);
    let mut first = start(&folder("a"), &kubeconfig, &[]);
    let mut second = start(&folder("b"), &kubeconfig, &[]);
    first.wait_ready().await;
    second.wait_ready().await;
    let before = bundle(&kube, "secret");
    assert_eq!(before["ca.crt"], bundle(&kube, "configmap")["ca.crt"]);
    assert_eq!(
        blocks(before["ca.crt"].as_str().unwrap_or_default()).len(),
        1,
        "both made the same"
    );

    let asked = std::process::Command::new(outrigger_e2e::process::binary("sentry"))
        .args([
            "rotate",
            "--mode=kubernetes",
            "--trust-domain=cluster.local",
            "--kubeconfig",
            &kubeconfig,
        ])
        .env("NAMESPACE", "dapr-system")
        .output()
        .expect("the binary starts");
    assert!(
        asked.status.success(),
        "{}",
        String::from_utf8_lossy(&asked.stderr)
    );
    let deadline = Instant::now() + Duration::from_secs(90);
    let mut most = 0;
    loop {
        let secret = bundle(&kube, "secret");
        most = most.max(blocks(secret["ca.crt"].as_str().unwrap_or_default()).len());
        if !secret.contains_key("rotation.json") && secret["ca.crt"] != before["ca.crt"] {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "the change of roots does not end: {}",
            second.process.log_tail()
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(most, 2, "both roots were published for a while");
    let after = bundle(&kube, "secret");
    assert_eq!(after["ca.crt"], bundle(&kube, "configmap")["ca.crt"]);
    assert_eq!(blocks(after["ca.crt"].as_str().unwrap_or_default()).len(), 1);
    let args = [
        "get",
        "events",
        "-n",
        "dapr-system",
        "-o",
        "jsonpath={range .items[*]}{.reason}{\"\\n\"}{end}",
    ];
    let events = kube.kubectl(&args, "").expect("events");
    for reason in [
        "RootRotationStarted",
        "RootRotationSwitched",
        "RootRotationWithdrawn",
        "RootRotationFinished",
    ] {
        let count = events.lines().filter(|line| *line == reason).count();
        assert_eq!(count, 1, "{reason} is told once, by one replica:\n{events}");
    }

    // Somebody publishes a root of their own: nothing is overwritten, what was in force stays in force.
    let other = after["ca.crt"]
        .as_str()
        .unwrap_or_default()
        .replace("-----BEGIN", "forged\n-----BEGIN");
    let patch = json!({"data": {"ca.crt": other}}).to_string();
    kube.kubectl(
        &[
            "patch",
            "configmap",
            "dapr-trust-bundle",
            "-n",
            "dapr-system",
            "-p",
            &patch,
        ],
        "",
    )
    .expect("the patch");
    let mut third = start(&folder("c"), &kubeconfig, &[]);
    let code = third
        .process
        .wait_exit(Duration::from_secs(20))
        .await
        .and_then(|status| status.code());
    assert_eq!(code, Some(1));
    let log = third.process.log();
    assert!(
        log.contains("nothing is overwritten") && log.contains("ConfigMap"),
        "{log}"
    );
    assert_eq!(bundle(&kube, "secret")["ca.crt"], after["ca.crt"]);
    let mut client = Client::connect(first.port(0))
        .await
        .expect("sentry takes connections");
    let answer = client
        .sign(&plain_request("web", "shop", &csr("p256", &[])))
        .await
        .expect("an answer");
    // Still there, and still asking for a token.
    assert_eq!(answer.expect_err("no token").0, 7);
}
