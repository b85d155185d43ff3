//! Components over TLS to real servers that speak nothing else: Redis, PostgreSQL, RabbitMQ, Mosquitto, Kafka.
//! Whoever shows another certificate than the trusted one is not talked to.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::{Duration, Instant};

use outrigger_e2e::http::client::{Request, send};
use outrigger_e2e::process::{Daprd, DaprdOptions};
use outrigger_e2e::sdk::component;
use outrigger_e2e::servers::{Authority, Kind, Server};

/// The component with settings for TLS that trust this certificate.
fn trusting(server: &Server, kind: Kind, certificate: &str, dir: &Path) -> String {
    let (_, of_type, mut pairs) = server.component();
    let path = dir.join("trusted.pem");
    std::fs::write(&path, certificate).unwrap();
    // The texts stand in YAML strings.
    let inline = |text: &str| text.replace('\n', "\\n");
    for (_, value) in &mut pairs {
        *value = value
            .replace("amqp://guest:guest@127.0.0.1", "amqps://guest:guest@localhost")
            .replace("mqtt://127.0.0.1", "mqtts://localhost")
            .replace(
                "sslmode=disable",
                &format!("sslmode=verify-full&sslrootcert={}", path.display()),
            );
        if kind == Kind::Kafka {
            *value = value.replace("127.0.0.1:", "localhost:");
        }
    }
    match kind {
        // It has no option for roots.
        Kind::RedisState | Kind::RedisStreams => {
            pairs.push(("enableTLS", "true".to_owned()));
            pairs.push(("insecureSkipTLSVerify", "true".to_owned()));
        }
        Kind::Postgres => {}
        Kind::RabbitMq | Kind::Mosquitto => pairs.push(("caCert", inline(certificate))),
        Kind::Kafka => {
            pairs.retain(|(name, _)| *name != "authType");
            pairs.push(("authType", "mtls".to_owned()));
            pairs.push(("caCert", inline(certificate)));
            pairs.push(("clientCert", inline(&server.certificate())));
            pairs.push(("clientKey", inline(&server.key())));
        }
        Kind::Vault | Kind::Smtp => unreachable!("their TLS is tested in `components/vault` and `mail`"),
    }
    let pairs: Vec<(&str, &str)> = pairs
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    component("it", of_type, &pairs)
}

/// Whether a write or an event is acknowledged within this time.
async fn works(sidecar: &Daprd, kind: Kind, limit: Duration) -> bool {
    let (path, body) = match kind {
        Kind::RedisState | Kind::Postgres => ("/v1.0/state/it", r#"[{"key":"k","value":"v"}]"#),
        _ => ("/v1.0/publish/it/t", "{}"),
    };
    let request = Request {
        method: "POST".into(),
        path: path.into(),
        headers: vec![("content-type".into(), "application/json".into())],
        body: Some(body.as_bytes().to_vec()),
        chunked: false,
    };
    let end = Instant::now() + limit;
    while Instant::now() < end {
        let answer = send(sidecar.http_port(), &request, Duration::from_secs(30)).await;
        if answer.is_ok_and(|answer| answer.status == 204) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    false
}

async fn speaks_tls(kind: Kind) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_tls(kind).await;
    let options = |certificate: &str| DaprdOptions {
        app_id: "tls".into(),
        resources: vec![trusting(&server, kind, certificate, dir.path())],
        ..Default::default()
    };
    let mut trusted = Daprd::start(&options(&server.certificate()), &dir.path().join("trusted"));
    let worked = works(&trusted, kind, Duration::from_secs(90)).await;
    assert!(worked, "{}", trusted.process().log_tail());
    drop(trusted);
    if matches!(kind, Kind::RedisState | Kind::RedisStreams) {
        return;
    }
    let stranger = Daprd::start(
        &options(&Authority::new().certificate),
        &dir.path().join("stranger"),
    );
    assert!(
        !works(&stranger, kind, Duration::from_secs(4)).await,
        "a certificate that nobody vouches for was trusted"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_over_tls() {
    speaks_tls(Kind::RedisState).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_over_tls() {
    speaks_tls(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_over_tls() {
    speaks_tls(Kind::RabbitMq).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mosquitto_over_tls() {
    speaks_tls(Kind::Mosquitto).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_over_tls() {
    speaks_tls(Kind::Kafka).await;
}
