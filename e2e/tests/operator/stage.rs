//! An API server with the definitions, an authority, and the operator.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_e2e::http::client::{Request, send};
use outrigger_e2e::kube::KubeApi;
use outrigger_e2e::process::{Port, Program, Running, binary, free_port, wait_until};
use outrigger_identity::testing::{FakeSentry, TestCa};
use serde_json::{Map, Value, json};

use crate::calls::Caller;

const CRDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds");
const NAMESPACES: [&str; 5] = ["dapr-system", "shop", "farm", "bad", "empty"];

pub(crate) struct Stage {
    pub(crate) kube: KubeApi,
    pub(crate) operator: Running,
    ca: Arc<TestCa>,
    sentry: FakeSentry,
    dir: PathBuf,
    port: Port,
    others: [Port; 3],
}

impl Stage {
    pub(crate) async fn start(dir: &Path) -> Self {
        let kube = KubeApi::start(dir).await;
        kube.kubectl(&["apply", "-f", CRDS], "")
            .expect("the definitions apply");
        let established = [
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd",
            "--all",
        ];
        kube.kubectl(&established, "")
            .expect("the definitions are established");
        let ca = TestCa::new();
        let sentry = FakeSentry::start(ca.clone()).await;
        for namespace in NAMESPACES {
            kube.apply(&format!(
                "{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}"
            ));
        }
        kube.apply(&format!(
            "{{apiVersion: dapr.io/v1alpha1, kind: Configuration, metadata: {{name: daprsystem, namespace: dapr-system}}, \
             spec: {{mtls: {{enabled: true, sentryAddress: '{}', controlPlaneTrustDomain: cluster.local}}}}}}",
            sentry.address()
        ));
        std::fs::write(dir.join("ca.crt"), ca.root_pem()).unwrap();
        std::fs::write(dir.join("token"), "any").unwrap();
        let (port, others) = (free_port(), [free_port(), free_port(), free_port()]);
        let operator = operator(dir, &kube, &port, &others);
        let mut stage = Self {
            kube,
            operator,
            ca,
            sentry,
            dir: dir.to_owned(),
            port,
            others,
        };
        stage.ready().await;
        stage
    }

    async fn ready(&mut self) {
        let health = self.others[0].number();
        wait_until(
            &mut self.operator,
            "its health",
            Duration::from_secs(60),
            async || {
                let request = Request {
                    method: "GET".into(),
                    path: "/healthz".into(),
                    ..Request::default()
                };
                let answer = send(health, &request, Duration::from_secs(2)).await;
                answer.is_ok_and(|answer| answer.status == 200)
            },
        )
        .await;
    }

    /// Kills the operator and starts it anew on the same ports.
    pub(crate) async fn restart(&mut self) {
        self.operator.kill();
        self.operator = operator(&self.dir, &self.kube, &self.port, &self.others);
        self.ready().await;
    }

    pub(crate) async fn caller(&self, id: &str) -> Caller {
        Caller::new(&self.ca, id, self.port.number()).await
    }

    /// Where sentry is, for who wants an identity of this installation.
    #[allow(dead_code, reason = "not every test starts sidecars")]
    pub(crate) fn sentry(&self) -> &FakeSentry {
        &self.sentry
    }

    /// Whoever shows no certificate gets no answer.
    pub(crate) async fn refuses_strangers(&self) -> Result<(), String> {
        let Ok(mut stranger) = outrigger_e2e::sentry::Client::connect(self.port.number()).await else {
            return Ok(());
        };
        match stranger.call(b"").await {
            Err(_) => Ok(()),
            Ok(answer) => Err(format!("a stranger is answered: {answer:?}")),
        }
    }

    /// The Services that belong to a workload, as they were recorded.
    pub(crate) fn services(&self, workload: &Value) -> Value {
        let listed = self
            .kube
            .kubectl(&["get", "services", "-n", "shop", "-o", "json"], "")
            .unwrap();
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let owned = |service: &&Value| {
            service["metadata"]["ownerReferences"][0]["name"] == workload["metadata"]["name"]
        };
        let services: Vec<Value> = listed["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(owned)
            .cloned()
            .collect();
        let shown = services
            .into_iter()
            .map(|service| json!({"metadata": service["metadata"], "spec": service["spec"]}));
        normalised(Value::Array(shown.collect()))
    }

    /// Deletes a workload and its Services: no garbage collector runs here.
    pub(crate) fn forget(&self, workload: &Value) {
        let services = self.services(workload);
        let _ = self
            .kube
            .kubectl(&["delete", "--wait=true", "-f", "-"], &workload.to_string());
        for service in services.as_array().into_iter().flatten() {
            let name = service["metadata"]["name"].as_str().unwrap();
            let _ = self.kube.kubectl(&["delete", "service", name, "-n", "shop"], "");
        }
    }
}

fn operator(dir: &Path, kube: &KubeApi, port: &Port, others: &[Port; 3]) -> Running {
    let number = |port: &Port| port.number().to_string();
    let path = |name: &str| dir.join(name).display().to_string();
    Program::new("operator", &binary("operator"), dir)
        .args(["--kubeconfig", &kube.kubeconfig().display().to_string()])
        .args(["--port", &number(port), "--listen-address", "127.0.0.1"])
        .args([
            "--healthz-port",
            &number(&others[0]),
            "--metrics-port",
            &number(&others[1]),
        ])
        .args(["--webhook-server-port", &number(&others[2])])
        .args(["--trust-anchors-file", &path("ca.crt")])
        .env("NAMESPACE", "dapr-system")
        .env("DAPR_SENTRY_TOKEN_FILE", &path("token"))
        .start()
}

pub(crate) fn cases(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/golden/control-plane")
        .join(file);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// What is different each time is replaced by what was recorded in its place.
pub(crate) fn normalised(mut value: Value) -> Value {
    fn walk(members: &mut Map<String, Value>) {
        for (name, mark) in [
            ("creationTimestamp", "<time>"),
            ("resourceVersion", "<version>"),
            ("uid", "<uuid>"),
        ] {
            if let Some(found) = members.get_mut(name)
                && found.is_string()
            {
                *found = json!(mark);
            }
        }
        members.values_mut().for_each(all);
    }
    fn all(value: &mut Value) {
        match value {
            Value::Object(members) => walk(members),
            Value::Array(items) => items.iter_mut().for_each(all),
            _ => {}
        }
    }
    all(&mut value);
    value
}

pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !is_so().await {
        assert!(Instant::now() < deadline, "{what}: not within 40 s");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
