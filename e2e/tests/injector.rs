//! The injector as a process: a real sentry certifies it, a real API server has its webhook object and calls it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use outrigger_e2e::http::client::{Request, send};
use outrigger_e2e::kube::KubeApi;
use outrigger_e2e::process::{Port, Program, Running, binary, free_port, wait_until};
use serde_json::{Value, json};

#[path = "injector/latency.rs"]
mod latency;

const CRDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds");
const NAMESPACE: &str = "dapr-system";

/// Objects that the chart would have made.
const OBJECTS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: dapr-system}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: dapr-injector, namespace: dapr-system}}
---
{apiVersion: v1, kind: Pod, metadata: {name: injector, namespace: dapr-system, annotations: {dapr.io/control-plane: injector}},
 spec: {serviceAccountName: dapr-injector, containers: [{name: c, image: i}]}}
---
{apiVersion: v1, kind: Secret, metadata: {name: dapr-trust-bundle, namespace: dapr-system}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: dapr-trust-bundle, namespace: dapr-system}}
---
{apiVersion: dapr.io/v1alpha1, kind: Configuration, metadata: {name: daprsystem, namespace: dapr-system},
 spec: {mtls: {enabled: true, sentryAddress: x, controlPlaneTrustDomain: cluster.local}}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: shop}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: deployer, namespace: shop}}
---
{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingWebhookConfiguration, metadata: {name: dapr-sidecar-injector},
 webhooks: [{name: sidecar-injector.dapr.io, sideEffects: None, admissionReviewVersions: [v1], failurePolicy: Fail,
 clientConfig: {url: 'https://dapr-sidecar-injector.dapr-system.svc:{port}/mutate'},
 rules: [{operations: [CREATE], apiGroups: [''], apiVersions: [v1], resources: [pods]}]}]}
";

struct Stage {
    kube: KubeApi,
    _sentry: Running,
    injector: Running,
    port: Port,
    metrics: Port,
    _health: Port,
}

async fn stage(dir: &Path) -> Stage {
    let kube = KubeApi::start(dir).await;
    kube.kubectl(&["apply", "-f", CRDS], "")
        .expect("the definitions apply");
    kube.kubectl(
        &[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd",
            "--all",
        ],
        "",
    )
    .expect("the definitions are established");
    let (port, health, sentry_port) = (free_port(), free_port(), free_port());
    kube.apply(&OBJECTS.replace("{port}", &port.number().to_string()));
    let other = [free_port(), free_port(), free_port()];
    let number = |port: &Port| port.number().to_string();
    let kubeconfig = kube.kubeconfig().display().to_string();
    let mut sentry = Program::new("sentry", &binary("sentry"), dir)
        .args(["--mode", "kubernetes", "--kubeconfig", &kubeconfig])
        .args(["--trust-domain", "cluster.local", "--port", &number(&sentry_port)])
        .args([
            "--listen-address",
            "127.0.0.1",
            "--healthz-port",
            &number(&other[0]),
        ])
        .args(["--metrics-port", &number(&other[1])])
        .env("NAMESPACE", NAMESPACE)
        .env("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true")
        .start();
    let address = ("127.0.0.1", sentry_port.number());
    wait_until(&mut sentry, "its port", Duration::from_secs(20), async || {
        tokio::net::TcpStream::connect(address).await.is_ok()
    })
    .await;
    // What kubelet would have mounted.
    let anchors = dir.join("ca.crt");
    let get = [
        "get",
        "configmap",
        "dapr-trust-bundle",
        "-n",
        NAMESPACE,
        "-o",
        "jsonpath={.data.ca\\.crt}",
    ];
    std::fs::write(&anchors, kube.kubectl(&get, "").unwrap()).unwrap();
    let audience = "--audience=spiffe://cluster.local/ns/dapr-system/dapr-sentry";
    let bound = ["--bound-object-kind=Pod", "--bound-object-name=injector"];
    let ask = [
        "create",
        "token",
        "dapr-injector",
        "-n",
        NAMESPACE,
        audience,
        bound[0],
        bound[1],
    ];
    let token = dir.join("token");
    std::fs::write(&token, kube.kubectl(&ask, "").unwrap().trim()).unwrap();
    let mut injector = Program::new("injector", &binary("injector"), dir)
        .args(["--port", &number(&port), "--healthz-port", &number(&health)])
        .args(["--metrics-port", &number(&other[2])])
        .args(["--kubeconfig", &kubeconfig])
        .env("NAMESPACE", NAMESPACE)
        .env("SIDECAR_IMAGE", "example/daprd:1")
        .env("KUBE_CLUSTER_DOMAIN", "cluster.local")
        .env("ALLOWED_SERVICE_ACCOUNTS", "shop:deployer")
        .env("DAPR_TRUST_ANCHORS_FILE", &anchors.display().to_string())
        .env("DAPR_SENTRY_TOKEN_FILE", &token.display().to_string())
        .env(
            "DAPR_SENTRY_ADDRESS",
            &format!("127.0.0.1:{}", number(&sentry_port)),
        )
        .start();
    let ready = health.number();
    wait_until(&mut injector, "its health", Duration::from_secs(30), async || {
        healthy(ready).await
    })
    .await;
    let [_, _, metrics] = other;
    Stage {
        kube,
        _sentry: sentry,
        injector,
        port,
        metrics,
        _health: health,
    }
}

async fn healthy(port: u16) -> bool {
    let request = Request {
        method: "GET".into(),
        path: "/healthz".into(),
        ..Request::default()
    };
    send(port, &request, Duration::from_secs(2))
        .await
        .is_ok_and(|answer| answer.status == 200)
}

/// An answer of the webhook.
struct Answer {
    status: u16,
    content_type: String,
    body: String,
}

impl Stage {
    /// Asks the webhook as the API server would: by its name, trusting the anchors only. curl and OpenSSL check the
    /// certificate, so this also says that others than us accept it.
    fn ask(&self, dir: &Path, path: &str, method: &str, content_type: Option<&str>, body: &str) -> Answer {
        let file = dir.join("request");
        std::fs::write(&file, body).unwrap();
        let name = "dapr-sidecar-injector.dapr-system.svc";
        let port = self.port.number();
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--max-time",
            "20",
            "--request",
            method,
        ])
        .args(["--resolve", &format!("{name}:{port}:127.0.0.1")])
        .arg("--cacert")
        .arg(dir.join("ca.crt"))
        .args(["--write-out", "\n%{http_code}\n%{content_type}"])
        .args([
            "--header",
            &content_type.map_or("Content-Type:".into(), |kind| format!("Content-Type: {kind}")),
        ]);
        if !body.is_empty() {
            curl.arg("--data-binary").arg(format!("@{}", file.display()));
        }
        let output = curl
            .arg(format!("https://{name}:{port}{path}"))
            .output()
            .expect("curl is installed");
        assert!(
            output.status.success(),
            "curl: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        let (rest, content_type) = text.rsplit_once('\n').unwrap();
        let (body, status) = rest.rsplit_once('\n').unwrap();
        Answer {
            status: status.parse().unwrap(),
            content_type: content_type.to_owned(),
            body: body.to_owned(),
        }
    }

    fn admit(&self, dir: &Path, pod: &Value, namespace: &str, user: &str) -> Value {
        let review = review(pod, namespace, user).to_string();
        let answer = self.ask(dir, "/mutate", "POST", Some("application/json"), &review);
        assert_eq!(
            (answer.status, answer.content_type.as_str()),
            (200, "application/json")
        );
        serde_json::from_str(&answer.body).unwrap()
    }
}

fn review(pod: &Value, namespace: &str, user: &str) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": namespace,
        "operation": "CREATE", "userInfo": {"username": user, "groups": []}, "object": pod}})
}

fn pod(annotations: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "annotations": annotations},
        "spec": {"containers": [{"name": "web", "image": "web:1"}]}})
}

/// The daprd container of an answer's patch.
fn sidecar(answer: &Value) -> Value {
    use base64::Engine as _;
    let patch = answer["response"]["patch"]
        .as_str()
        .unwrap_or_else(|| panic!("no patch: {answer}"));
    let bytes = base64::engine::general_purpose::STANDARD.decode(patch).unwrap();
    let operations: Vec<Value> = serde_json::from_slice(&bytes).unwrap();
    let found = operations
        .iter()
        .find(|operation| operation["value"]["name"] == "daprd");
    found.unwrap_or_else(|| panic!("no sidecar in {operations:?}"))["value"].clone()
}

fn has_argument(container: &Value, argument: &str) -> bool {
    container["args"]
        .as_array()
        .unwrap()
        .iter()
        .any(|found| found == argument)
}

const CONTROLLER: &str = "system:serviceaccount:kube-system:replicaset-controller";

#[tokio::test]
async fn a_certified_webhook_answers_with_what_the_cluster_holds() {
    let dir = tempfile::tempdir().unwrap();
    let mut stage = stage(dir.path()).await;
    let dir = dir.path();
    let anchors = std::fs::read_to_string(dir.join("ca.crt")).unwrap();

    // The webhook object has our authority.
    let path = "jsonpath={.webhooks[0].clientConfig.caBundle}";
    let get = [
        "get",
        "mutatingwebhookconfiguration",
        "dapr-sidecar-injector",
        "-o",
        path,
    ];
    let bundle = stage.kube.kubectl(&get, "").unwrap();
    use base64::Engine as _;
    let bundle = base64::engine::general_purpose::STANDARD
        .decode(bundle.trim())
        .unwrap();
    assert_eq!(String::from_utf8(bundle).unwrap().trim(), anchors.trim());

    // HTTP, as recorded (raw-get, raw-empty, raw-text, raw-charset, raw-root).
    let plain = "text/plain; charset=utf-8";
    for (path, method, kind, body, status, text) in [
        ("/mutate", "GET", None, "", 400, "empty body\n"),
        (
            "/mutate",
            "POST",
            Some("application/json"),
            "",
            400,
            "empty body\n",
        ),
        (
            "/mutate",
            "POST",
            Some("text/plain"),
            "{}",
            415,
            "invalid Content-Type, expected `application/json`\n",
        ),
        (
            "/mutate",
            "POST",
            Some("application/json; charset=utf-8"),
            "{}",
            415,
            "invalid Content-Type, expected `application/json`\n",
        ),
        ("/", "GET", None, "", 404, "404 page not found\n"),
    ] {
        let got = stage.ask(dir, path, method, kind, body);
        assert_eq!(
            (got.status, got.body.as_str(), got.content_type.as_str()),
            (status, text, plain),
            "{path} {kind:?}"
        );
    }

    // A pod gets a sidecar with the anchors; its creator is warned of what has no effect.
    let answer = stage.admit(
        dir,
        &pod(&json!({"dapr.io/enabled": "true", "dapr.io/app-id": "web", "dapr.io/app-prt": "80", "dapr.io/grpc-port": "x"})),
        "shop",
        "system:serviceaccount:shop:deployer",
    );
    let container = sidecar(&answer);
    let env = container["env"].as_array().unwrap();
    let found = env
        .iter()
        .find(|variable| variable["name"] == "DAPR_TRUST_ANCHORS")
        .unwrap();
    assert_eq!(found["value"].as_str().unwrap().trim(), anchors.trim());
    assert!(has_argument(&container, "--enable-mtls"));
    let warnings = answer["response"]["warnings"].to_string();
    assert!(
        warnings.contains("dapr.io/app-prt is not known")
            && warnings.contains("dapr.io/grpc-port is ignored"),
        "{warnings}"
    );

    // Whoever is not on the list gets a pod without one.
    let enabled = pod(&json!({"dapr.io/enabled": "true", "dapr.io/app-id": "web"}));
    let answer = stage.admit(dir, &enabled, "shop", "alice");
    assert_eq!(answer["response"], json!({"uid": "u", "allowed": true}));

    // Component containers come from the namespace's resources; mTLS is off once the system Configuration says so.
    stage.kube.apply(
        "{apiVersion: dapr.io/v1alpha1, kind: Component, metadata: {name: mine, namespace: shop, annotations: \
         {dapr.io/component-container: '{\"image\": \"c:1\"}'}}, spec: {type: state.mine, version: v1, metadata: []}}\n---\n\
         {apiVersion: dapr.io/v1alpha1, kind: Configuration, metadata: {name: daprsystem, namespace: dapr-system}, spec: {mtls: \
         {enabled: false, sentryAddress: x, controlPlaneTrustDomain: cluster.local}}}",
    );
    let wants = pod(
        &json!({"dapr.io/enabled": "true", "dapr.io/app-id": "web", "dapr.io/inject-pluggable-components": "true"}),
    );
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = stage.admit(dir, &wants, "shop", CONTROLLER);
        let container = sidecar(&answer);
        let sockets = container["env"]
            .to_string()
            .contains("DAPR_COMPONENT_SOCKETS_FOLDER");
        assert!(sockets, "{container}");
        if !has_argument(&container, "--enable-mtls") {
            break;
        }
        assert!(Instant::now() < deadline, "mTLS stays on");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    // With the API server gone, pods that need nothing from it still get their sidecar; the others are refused.
    stage.kube.process().kill();
    sidecar(&stage.admit(dir, &enabled, "shop", CONTROLLER));
    let refused = stage.admit(dir, &wants, "shop", CONTROLLER);
    assert_eq!(refused["response"]["allowed"], false);
    let message = refused["response"]["status"]["message"].as_str().unwrap();
    assert!(message.starts_with("error when fetching components"), "{message}");

    let scraped = Request {
        method: "GET".into(),
        path: "/metrics".into(),
        ..Request::default()
    };
    let metrics = send(stage.metrics.number(), &scraped, Duration::from_secs(5))
        .await
        .unwrap();
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    for wanted in [
        "dapr_injector_sidecar_injection_succeeded_total{app_id=\"web\"}",
        "dapr_injector_sidecar_injection_failed_total{app_id=\"web\",reason=\"pod_patch\"} 1",
    ] {
        assert!(metrics.contains(wanted), "{wanted} is not in\n{metrics}");
    }
    stage.injector.terminate();
    let status = stage.injector.wait_exit(Duration::from_secs(10)).await;
    assert_eq!(status.and_then(|status| status.code()), Some(0));
}
