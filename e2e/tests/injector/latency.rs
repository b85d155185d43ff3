//! How long the webhook takes by itself: reviews over TLS on kept connections, as the API server sends them, and on new ones.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::{CONTROLLER, review, stage};

const NAME: &str = "dapr-sidecar-injector.dapr-system.svc";

#[tokio::test]
#[ignore = "measures: docs/BENCH.md says how, under Kubernetes"]
async fn latency_of_admissions() {
    let dir = tempfile::tempdir().unwrap();
    let stage = stage(dir.path()).await;
    let injector = stage.injector.id();
    let caller = Caller {
        port: stage.port.number(),
        tls: tls(&dir.path().join("ca.crt")),
        body: Bytes::from(review(&typical_pod(), "shop", CONTROLLER).to_string()),
    };
    eprintln!("reviews of {} bytes", caller.body.len());
    for (in_flight, each, is_new) in [(1, 10_000, false), (16, 2000, false), (1, 1000, true)] {
        let (spent, start) = (ticks(injector), Instant::now());
        let mut lanes = JoinSet::new();
        for _ in 0..in_flight {
            lanes.spawn(caller.clone().ask_often(each, is_new));
        }
        let mut times = lanes.join_all().await.concat();
        let (spent, seconds) = (ticks(injector) - spent, start.elapsed().as_secs_f64());
        times.sort_unstable();
        let at = |thousandth: usize| times[times.len() * thousandth / 1000].as_secs_f64() * 1e3;
        let connections = if is_new {
            "each on a new connection"
        } else {
            "on kept connections"
        };
        eprintln!(
            "{in_flight} in flight, {connections}: median {:.2} ms, p99 {:.2}, p99.9 {:.2}, {:.0}/s, processor of the injector {:.0} µs each",
            at(500),
            at(990),
            at(999),
            times.len() as f64 / seconds,
            // A tick is a hundredth of a second.
            spent as f64 * 1e4 / times.len() as f64,
        );
    }
}

/// Asks for the admission of one pod.
#[derive(Clone)]
struct Caller {
    port: u16,
    tls: Arc<ClientConfig>,
    body: Bytes,
}

impl Caller {
    /// How long each took: with its connection where that is new.
    async fn ask_often(self, times: usize, is_new: bool) -> Vec<Duration> {
        let mut connection = self.connect().await;
        let mut taken = Vec::with_capacity(times);
        for _ in 0..times {
            let start = Instant::now();
            if is_new {
                connection = self.connect().await;
            }
            self.ask(&mut connection).await;
            taken.push(start.elapsed());
        }
        taken
    }

    async fn connect(&self) -> SendRequest<Full<Bytes>> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector
            .connect(ServerName::try_from(NAME).unwrap(), stream)
            .await
            .unwrap();
        // Of what Go's client offers it takes this one.
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    async fn ask(&self, connection: &mut SendRequest<Full<Bytes>>) {
        connection.ready().await.unwrap();
        let request = hyper::Request::post("/mutate?timeout=10s")
            .header("host", NAME)
            .header("content-type", "application/json")
            .body(Full::new(self.body.clone()))
            .unwrap();
        let answer = connection.send_request(request).await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let is_patched = body.windows(8).any(|part| part == br#""patch":"#);
        assert!(is_patched, "{}", String::from_utf8_lossy(&body));
    }
}

fn tls(anchors: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for anchor in CertificateDer::pem_file_iter(anchors).unwrap() {
        roots.add(anchor.unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A new connection is to be all new.
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// As a Deployment's pod comes to the webhook.
fn typical_pod() -> serde_json::Value {
    let probe = |path: &str| {
        json!({"httpGet": {"path": path, "port": "http", "scheme": "HTTP"}, "initialDelaySeconds": 3, "timeoutSeconds": 1,
            "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3})
    };
    let account = "/var/run/secrets/kubernetes.io/serviceaccount";
    let env: Vec<_> = (0..12)
        .map(|n| json!({"name": format!("SETTING_{n}"), "value": format!("value of setting number {n}")}))
        .collect();
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "orders-6b7f9c5d8-", "namespace": "shop", "creationTimestamp": null,
            "labels": {"app": "orders", "pod-template-hash": "6b7f9c5d8", "team": "shop"},
            "annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": "orders", "dapr.io/app-port": "8080",
                "dapr.io/config": "tracing", "dapr.io/sidecar-cpu-request": "100m", "dapr.io/sidecar-memory-request": "64Mi",
                "dapr.io/log-as-json": "true"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "orders-6b7f9c5d8",
                "uid": "3f0e1f4e-8f0b-4a53-9d34-0a3a0f4f1c11", "controller": true, "blockOwnerDeletion": true}]},
        "spec": {"serviceAccountName": "default", "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler", "enableServiceLinks": true, "priority": 0,
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
            "volumes": [{"name": "kube-api-access-x2x4z", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}]}}],
            "containers": [{"name": "orders", "image": "registry.example/shop/orders:1.4.2", "imagePullPolicy": "IfNotPresent",
                "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}], "env": env,
                "resources": {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}},
                "livenessProbe": probe("/live"), "readinessProbe": probe("/ready"),
                "volumeMounts": [{"name": "kube-api-access-x2x4z", "readOnly": true, "mountPath": account}],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}})
}

/// Processor time that a process has used.
fn ticks(id: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let (_, rest) = text.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = rest.split(' ').collect();
    fields[11..13]
        .iter()
        .map(|field| field.parse::<u64>().unwrap())
        .sum()
}
