//! HTTPEndpoints outside Dapr: their TLS, headers and secrets, redirects, the app's pipeline and concurrency, and policies
//! that send a body again.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outrigger_e2e::ask::{SOON, assert_calm, get, soon, text};
use outrigger_e2e::http::app::{Call, FakeApp};
use outrigger_e2e::http::client::{Answer, Request, send};
use outrigger_e2e::process::{Daprd, DaprdOptions};
use outrigger_e2e::sdk::component;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// A certificate that vouches for itself, and its key, in PEM.
struct Identity {
    certificate: String,
    key: String,
}

impl Identity {
    fn new(name: &str) -> Self {
        let names = [name.to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        Self {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        }
    }

    fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()
    }
}

/// TLS in front of a server, for those who show this client's certificate.
async fn front(to: u16, server: &Identity, client: &Identity) -> (u16, JoinHandle<()>) {
    let mut roots = RootCertStore::empty();
    roots.add(client.certificate()).unwrap();
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
    let key = PrivateKeyDer::from_pem_slice(server.key.as_bytes()).unwrap();
    let config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![server.certificate()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            connections.spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let mut plain = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                // Ends as either side likes.
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut plain).await;
            });
        }
    });
    (port, serving)
}

fn endpoint(name: &str, spec: Value) -> String {
    json!({"apiVersion": "dapr.io/v1alpha1", "kind": "HTTPEndpoint", "metadata": {"name": name},
        "auth": {"secretStore": "secrets"}, "spec": spec})
    .to_string()
}

async fn call(sidecar: &Daprd, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let pairs = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let request = Request {
        method: method.into(),
        path: format!("/v1.0/invoke/{path}"),
        headers: pairs.collect(),
        body: (!body.is_empty()).then(|| body.as_bytes().to_vec()),
        chunked: false,
    };
    send(sidecar.http_port(), &request, SOON).await.unwrap()
}

fn header<'a>(call: &'a Call, name: &str) -> Vec<&'a str> {
    let found = call.headers.iter().filter(|(known, _)| known == name);
    found.map(|(_, value)| value.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_have_their_own_tls_headers_and_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let target = FakeApp::start("outside").await;
    target.set_standing(
        serde_json::from_value(json!([
            {"path": "/base/away", "status": 302, "headers": {"location": "/base/landed"}},
            {"path": "*", "status": 200, "body": "fine", "headers": {"content-type": "text/plain"}},
        ]))
        .unwrap(),
    );
    let (server, client, stranger) = (
        Identity::new("localhost"),
        Identity::new("me"),
        Identity::new("x"),
    );
    let (port, _front) = front(target.port(), &server, &client).await;
    let secrets = dir.path().join("secrets.json");
    let content = json!({"token": "Bearer s3cret", "cert": client.certificate, "key": client.key});
    std::fs::write(&secrets, content.to_string()).unwrap();
    // The system trusts the server.
    let trusted = dir.path().join("trusted.pem");
    std::fs::write(&trusted, &server.certificate).unwrap();
    let secret = |name: &str| json!({"secretKeyRef": {"name": name, "key": name}});
    let base = format!("https://127.0.0.1:{port}/base/");
    let root = json!({"value": server.certificate});
    let options = DaprdOptions {
        app_id: "caller".into(),
        resources: vec![
            component(
                "secrets",
                "secretstores.local.file",
                &[("secretsFile", &secrets.display().to_string())],
            ),
            endpoint(
                "secured",
                json!({"baseUrl": base,
                    "headers": [{"name": "x-plain", "value": "ours"},
                        {"name": "authorization", "secretKeyRef": {"name": "token", "key": "token"}}],
                    "clientTLS": {"rootCA": root, "certificate": secret("cert"), "privateKey": secret("key")}}),
            ),
            endpoint(
                "anonymous",
                json!({"baseUrl": base, "clientTLS": {"rootCA": root}}),
            ),
            endpoint(
                "impostor",
                json!({"baseUrl": base, "clientTLS": {"rootCA": root,
                    "certificate": {"value": stranger.certificate}, "privateKey": {"value": stranger.key}}}),
            ),
            endpoint(
                "by_the_system",
                json!({"baseUrl": base, "clientTLS": {"certificate": secret("cert"), "privateKey": secret("key"),
                    "renegotiation": "OnceAsClient"}}),
            ),
            endpoint(
                "pinned",
                json!({"baseUrl": base, "clientTLS": {"rootCA": {"value": stranger.certificate},
                    "certificate": secret("cert"), "privateKey": secret("key")}}),
            ),
        ],
        env: vec![("SSL_CERT_FILE".into(), trusted.display().to_string())],
        ..Default::default()
    };
    let mut sidecar = Daprd::start_ready(&options, &dir.path().join("daprd")).await;
    let given = [
        ("x-plain", "theirs"),
        ("x-other", "kept"),
        ("authorization", "Bearer other"),
    ];
    let answer = call(
        &sidecar,
        "POST",
        "secured/method/orders/7?a=b%20c",
        &given,
        "body",
    )
    .await;
    assert_eq!((answer.status, text(&answer)), (200, "fine".to_owned()));
    let got = target.take_calls().remove(0);
    assert_eq!(
        (got.method.as_str(), got.path.as_str(), &got.body[..]),
        ("POST", "/base/orders/7?a=b%20c", &b"body"[..])
    );
    assert_eq!(header(&got, "x-plain"), ["ours"]);
    assert_eq!(header(&got, "x-other"), ["kept"]);
    assert_eq!(header(&got, "authorization"), ["Bearer s3cret"]);
    assert_eq!(header(&got, "traceparent").len(), 1);
    // What Dapr tells apps is not for others.
    let told = got.headers.iter().filter(|(name, _)| name.starts_with("dapr-"));
    assert_eq!(told.count(), 0, "{got:?}");

    let answer = call(&sidecar, "GET", "secured/method/away", &[], "").await;
    assert_eq!((answer.status, text(&answer)), (200, "fine".to_owned()));
    let paths: Vec<String> = target.take_calls().into_iter().map(|call| call.path).collect();
    assert_eq!(paths, ["/base/away", "/base/landed"]);

    let answer = call(&sidecar, "GET", "by_the_system/method/x", &[], "").await;
    assert_eq!((answer.status, text(&answer)), (200, "fine".to_owned()));
    assert!(
        sidecar
            .process()
            .log()
            .contains("renegotiation OnceAsClient has no effect")
    );
    let _ = target.take_calls();

    for refused in ["anonymous", "impostor", "pinned"] {
        let answer = call(&sidecar, "GET", &format!("{refused}/method/x"), &[], "").await;
        let error: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(
            (answer.status, &error["errorCode"]),
            (500, &json!("ERR_DIRECT_INVOKE")),
            "{refused}: {error}"
        );
    }
    assert_eq!(target.call_count(), 0, "nobody got through");
    assert_calm(&mut sidecar).await;
}

/// A sidecar that calls `outside` without TLS, with more resources and flags.
async fn plain(target: &FakeApp, dir: &Path, resources: Vec<String>, config: &str, flags: &[&str]) -> Daprd {
    let base = format!("http://127.0.0.1:{}", target.port());
    let outside = endpoint("outside", json!({ "baseUrl": base }));
    let other = endpoint("other", json!({ "baseUrl": base }));
    let options = DaprdOptions {
        app_id: "caller".into(),
        resources: [outside, other].into_iter().chain(resources).collect(),
        config: Some(format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {{name: c}}\nspec: {config}\n"
        )),
        flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
        ..Default::default()
    };
    Daprd::start_ready(&options, dir).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_endpoints_pass_the_apps_pipeline_are_counted_and_mind_the_concurrency() {
    let dir = tempfile::tempdir().unwrap();
    let target = FakeApp::start("outside").await;
    target.set_standing(
        serde_json::from_value(json!([
            {"path": "/slow", "status": 200, "body": "late", "delay_ms": 800},
            {"path": "*", "status": 200, "body": "fine"},
        ]))
        .unwrap(),
    );
    let middleware = component("up", "middleware.http.uppercase", &[("direction", "response")]);
    let config = "{appHttpPipeline: {handlers: [{name: up, type: middleware.http.uppercase}]}}";
    let flags = ["--app-max-concurrency", "1"];
    let mut sidecar = plain(&target, dir.path(), vec![middleware], config, &flags).await;
    let answer = call(&sidecar, "GET", "outside/method/x", &[], "").await;
    assert_eq!((answer.status, text(&answer)), (200, "FINE".to_owned()));
    // A URL as well, though this sidecar has no app.
    let url = format!("http://127.0.0.1:{}/method/x", target.port());
    let answer = call(&sidecar, "GET", &url, &[], "").await;
    assert_eq!((answer.status, text(&answer)), (200, "FINE".to_owned()));
    let scrape = text(&get(sidecar.metrics_port(), "/metrics").await);
    let counted = scrape
        .lines()
        .any(|line| line.starts_with("dapr_http_client_completed_count") && line.contains("path=\"/x\""));
    assert!(counted, "{scrape}");

    let _ = target.take_calls();
    let port = sidecar.http_port();
    let slow = |name: &'static str| {
        tokio::spawn(async move {
            get(port, &format!("/v1.0/invoke/{name}/method/slow"))
                .await
                .status
        })
    };
    let first = slow("outside");
    soon("the first call is there", async || target.call_count() == 1).await;
    let (second, other) = (slow("outside"), slow("other"));
    soon("another endpoint is not held up", async || {
        target.call_count() == 2
    })
    .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(target.call_count(), 2, "the second one waits for the first");
    for call in [first, second, other] {
        assert_eq!(call.await.unwrap(), 200);
    }
    assert_eq!(target.call_count(), 3);
    assert_calm(&mut sidecar).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_sends_the_whole_body_again_to_an_endpoint() {
    let dir = tempfile::tempdir().unwrap();
    let target = FakeApp::start("outside").await;
    target.set_standing(
        serde_json::from_value(json!([
            {"path": "/flaky", "status": 503},
            {"path": "/flaky", "status": 503},
            {"path": "/flaky", "status": 200, "body": "at last"},
        ]))
        .unwrap(),
    );
    let policy = "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: r}\nspec:\n  policies:\n    \
        retries: {again: {policy: constant, duration: 1ms, maxRetries: 5, matching: {httpStatusCodes: \"503\"}}}\n  \
        targets: {apps: {outside: {retry: again}}}\n";
    let mut sidecar = plain(&target, dir.path(), vec![policy.into()], "{}", &[]).await;
    let body = "x".repeat(200_000);
    let answer = call(&sidecar, "POST", "outside/method/flaky", &[], &body).await;
    assert_eq!((answer.status, text(&answer)), (200, "at last".to_owned()));
    let calls = target.take_calls();
    assert_eq!(calls.len(), 3);
    assert!(calls.iter().all(|call| call.body == body.as_bytes()));
    assert_calm(&mut sidecar).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn default_policies_hold_for_endpoints_and_urls_until_their_answers_end() {
    let dir = tempfile::tempdir().unwrap();
    let target = FakeApp::start("outside").await;
    let slow = json!([{"path": "*", "status": 200, "body": "late", "delay_ms": 5_000}]);
    target.set_standing(serde_json::from_value(slow).unwrap());
    // Says how it goes, and then nothing more.
    let stalling = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let half = format!("http://{}/method/half", stalling.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let mut streams = Vec::new();
        while let Ok((mut stream, _)) = stalling.accept().await {
            let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nhalf";
            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
            stream.write_all(head).await.unwrap();
            streams.push(stream);
        }
    });
    let policy = "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: r}\nspec:\n  policies:\n    \
        timeouts: {DefaultAppTimeoutPolicy: 300ms}\n  targets: {apps: {other: {}}}\n";
    let mut sidecar = plain(&target, dir.path(), vec![policy.into()], "{}", &[]).await;
    let url = format!("http://127.0.0.1:{}/method/slow", target.port());
    for path in ["outside/method/slow", &url] {
        let answer = call(&sidecar, "GET", path, &[], "").await;
        let said = text(&answer);
        assert!(
            answer.status == 500 && said.contains("context deadline exceeded"),
            "{path}: {said}"
        );
    }
    let port = sidecar.http_port();
    let cut = tokio::spawn(async move {
        let request = Request {
            method: "GET".into(),
            path: format!("/v1.0/invoke/{half}"),
            headers: Vec::new(),
            body: None,
            chunked: false,
        };
        send(port, &request, SOON).await.map(|answer| answer.status)
    });
    let error = cut.await.unwrap().expect_err("the answer breaks off");
    assert!(!error.starts_with("no answer within"), "{error}");
    // A target of its own keeps the defaults away.
    let answer = call(&sidecar, "GET", "other/method/slow", &[], "").await;
    assert_eq!((answer.status, text(&answer)), (200, "late".to_owned()));
    assert_calm(&mut sidecar).await;
    serving.abort();
}

/// A proxy that tunnels to a port whatever it is asked for, and the heads of what it was asked.
async fn tunnels(to: u16) -> (u16, Arc<Mutex<Vec<String>>>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let heads = Arc::clone(&asked);
    let serving = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let heads = Arc::clone(&heads);
            connections.spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                heads.lock().unwrap().push(String::from_utf8(head).unwrap());
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let mut onward = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                // Ends as either side likes.
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut onward).await;
            });
        }
    });
    (port, asked, serving)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_leave_the_machine_through_the_proxies_of_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let target = FakeApp::start("outside").await;
    target
        .set_standing(serde_json::from_value(json!([{"path": "*", "status": 200, "body": "fine"}])).unwrap());
    let (server, client) = (Identity::new("secure.test"), Identity::new("me"));
    let (front, _front) = front(target.port(), &server, &client).await;
    let (tunnel, asked, _tunnels) = tunnels(front).await;
    let text_of = |pem: &str| json!({ "value": pem });
    let options = DaprdOptions {
        app_id: "caller".into(),
        resources: vec![
            endpoint("outside", json!({"baseUrl": "http://outside.test:81/base"})),
            endpoint(
                "secured",
                json!({"baseUrl": "https://secure.test", "clientTLS": {"rootCA": text_of(&server.certificate),
                    "certificate": text_of(&client.certificate), "privateKey": text_of(&client.key)}}),
            ),
        ],
        env: vec![
            (
                "HTTP_PROXY".into(),
                format!("http://me:pass@127.0.0.1:{}", target.port()),
            ),
            ("https_proxy".into(), format!("http://me:pass@127.0.0.1:{tunnel}")),
        ],
        ..Default::default()
    };
    let mut sidecar = Daprd::start_ready(&options, &dir.path().join("daprd")).await;
    let straight = format!("http://127.0.0.1:{}/method/x", target.port());
    for (path, seen, auth) in [
        ("outside/method/x?a=1", "http://outside.test:81/base/x?a=1", 1),
        ("http://url.test/method/x", "http://url.test/x", 1),
        ("secured/method/x", "/x", 0),
        (&straight, "/x", 0),
    ] {
        let answer = call(&sidecar, "GET", path, &[], "").await;
        assert_eq!((answer.status, text(&answer)), (200, "fine".to_owned()), "{path}");
        let got = target.take_calls().remove(0);
        let auths = header(&got, "proxy-authorization");
        assert_eq!((&*got.path, auths.len()), (seen, auth), "{got:?}");
        assert!(
            auths.iter().all(|value| *value == "Basic bWU6cGFzcw=="),
            "{auths:?}"
        );
    }
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 1);
    assert!(
        asked[0].starts_with("CONNECT secure.test:443 HTTP/1.1\r\n"),
        "{asked:?}"
    );
    assert!(
        asked[0].contains("\r\nProxy-Authorization: Basic bWU6cGFzcw==\r\n"),
        "{asked:?}"
    );
    assert_calm(&mut sidecar).await;
}
