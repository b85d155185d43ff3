//! What sentry refuses, each with a clear error, and what it survives: requests, connections, files.

use std::path::Path;
use std::time::{Duration, Instant};

use outrigger_e2e::http::client::{Request, send};
use outrigger_e2e::sentry::{Client, csr, key, openssl, openssl_verify, request};
use outrigger_e2e::sentry_vectors::blocks;
use outrigger_e2e::services::{RunningService, Service};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn start(dir: &Path) -> RunningService {
    let service = Service::named("sentry").expect("sentry is in the list of services");
    RunningService::start(service, dir, &[], &[])
}

async fn ready() -> (TempDir, RunningService) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut sentry = start(dir.path());
    sentry.wait_ready().await;
    (dir, sentry)
}

async fn metric(sentry: &RunningService, name: &str) -> f64 {
    let request = Request {
        method: "GET".to_owned(),
        path: "/".to_owned(),
        ..Request::default()
    };
    let answer = send(sentry.metrics_port(), &request, Duration::from_secs(10))
        .await
        .expect("metrics");
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let line = text
        .lines()
        .find(|line| line.starts_with(name))
        .unwrap_or_default();
    line.rsplit(' ')
        .next()
        .and_then(|value| value.parse().ok())
        .unwrap_or(f64::NAN)
}

#[tokio::test]
async fn bad_requests_are_refused_in_words_that_help_and_good_ones_go_on() {
    let (_dir, sentry) = ready().await;
    let mut client = Client::connect(sentry.port(0))
        .await
        .expect("sentry takes connections");
    let good = csr("p256", &[]);
    let mut trailing = good.clone();
    trailing.truncate(trailing.len() / 2);
    let mut too_many = request("web", "shop", &good);
    too_many.jwt_audiences = (0..1000).map(|n| n.to_string()).collect();
    let mut unknown_validator = request("web", "shop", &good);
    unknown_validator.token_validator = 99;
    let mut wrong_domain = request("web", "shop", &good);
    wrong_domain.trust_domain = "spiffe://Not/Valid".to_owned();
    for (what, request, code, words) in [
        (
            "a weak key",
            request("web", "shop", &csr("rsa1024", &[])),
            3,
            "has only 1024 bits",
        ),
        (
            "a key of an odd curve",
            request("web", "shop", &csr("p521", &[])),
            3,
            "use Ed25519, ECDSA P-256 or P-384",
        ),
        (
            "half a request",
            request("web", "shop", &trailing),
            3,
            "invalid certificate signing request",
        ),
        (
            "a huge request",
            request("web", "shop", &[b'x'; 20_000]),
            3,
            "at most 16384 are allowed",
        ),
        ("too many audiences", too_many, 3, "too many JWT audiences"),
        (
            "a validator that does not exist",
            unknown_validator,
            3,
            "the requested validator is not enabled",
        ),
        (
            "a bad trust domain",
            wrong_domain,
            7,
            "trust domain characters are limited",
        ),
        (
            "a name that leaves the path",
            request("..", "shop", &good),
            7,
            "cannot contain dots",
        ),
        (
            "a namespace that leaves the path",
            request("web", "..", &good),
            13,
            "failed to sign certificate",
        ),
    ] {
        let (got, text) = client.sign(&request).await.expect(what).expect_err(what);
        assert!(got == code && text.contains(words), "{what}: {got} {text}");
    }
    let oversized = vec![0x0a; 200_000];
    let (code, text) = client
        .call(&oversized)
        .await
        .expect("an answer")
        .expect_err("too large");
    assert!(matches!(code, 8 | 11), "{code} {text}");
    let (code, _) = client
        .call(&[0xff; 64])
        .await
        .expect("an answer")
        .expect_err("no message");
    assert!(matches!(code, 3 | 13), "{code}");
    client
        .sign(&request("web", "shop", &good))
        .await
        .expect("an answer")
        .expect("a certificate");
    assert!(metric(&sentry, "dapr_sentry_cert_sign_failure_total").await >= 9.0);
    assert!(metric(&sentry, "dapr_sentry_cert_sign_success_total").await >= 1.0);
}

#[tokio::test]
async fn plaintext_garbage_and_silence_do_no_harm() {
    let (_dir, mut sentry) = ready().await;
    let port = sentry.port(0);
    for bytes in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        &[0u8; 500],
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", port))
            .await
            .expect("a connection");
        stream.write_all(bytes).await.expect("it can be written to");
        let mut answer = Vec::new();
        let reading = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(15), reading)
            .await
            .expect("it is closed");
        assert!(!answer.starts_with(b"HTTP/"), "no plaintext is spoken");
    }
    let silent: Vec<TcpStream> = {
        let mut streams = Vec::new();
        for _ in 0..200 {
            streams.push(
                TcpStream::connect(("127.0.0.1", port))
                    .await
                    .expect("a connection"),
            );
        }
        streams
    };
    let mut client = Client::connect(port).await.expect("there is room for us");
    client
        .sign(&request("web", "shop", &csr("ed25519", &[])))
        .await
        .expect("an answer")
        .expect("a certificate");
    drop(silent);
    let log = sentry.process.log();
    assert!(log.contains("the peer does not speak TLS"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    sentry.process.terminate();
    let code = sentry
        .process
        .wait_exit(Duration::from_secs(15))
        .await
        .and_then(|status| status.code());
    assert_eq!(code, Some(0));
}

/// A root and an issuer of a user, made with OpenSSL.
fn own_authority(dir: &Path, kind: &str, name: &str) {
    let path = |file: &str| dir.join(file).display().to_string();
    for file in ["root.key", "issuer.key"] {
        std::fs::write(dir.join(file), key(kind)).expect("a file");
    }
    let run = |args: &[&str]| openssl(args, b"").unwrap_or_else(|e| panic!("openssl {args:?}: {e}"));
    let (root_key, issuer_key, root) = (path("root.key"), path("issuer.key"), path("ca.crt"));
    let subject = format!("/DC=example/DC=corp/O=Corp/CN={name}");
    run(&[
        "req",
        "-x509",
        "-new",
        "-key",
        &root_key,
        "-days",
        "30",
        "-subj",
        &subject,
        "-out",
        &root,
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",
    ]);
    std::fs::write(dir.join("issuer.ext"), "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash\n")
        .expect("a file");
    let (csr, ext, issuer) = (path("issuer.csr"), path("issuer.ext"), path("issuer.crt"));
    let subject = format!("/DC=example/DC=corp/O=Corp/OU=a/OU=b/CN={name} issuer");
    run(&[
        "req",
        "-new",
        "-key",
        &issuer_key,
        "-subj",
        &subject,
        "-out",
        &csr,
    ]);
    run(&[
        "x509",
        "-req",
        "-in",
        &csr,
        "-CA",
        &root,
        "-CAkey",
        &root_key,
        "-days",
        "20",
        "-extfile",
        &ext,
        "-out",
        &issuer,
        "-set_serial",
        "7",
    ]);
}

fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let names = ["ca.crt", "issuer.crt", "issuer.key"];
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap_or_default();
    names.map(|name| (name.to_owned(), read(name))).to_vec()
}

#[tokio::test]
async fn a_users_own_authority_of_any_kind_is_used_and_never_touched() {
    for kind in ["p256", "p384", "rsa2048", "ed25519"] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let credentials = dir.path().join("credentials");
        std::fs::create_dir_all(&credentials).expect("a folder");
        own_authority(&credentials, kind, kind);
        let before = files(&credentials);
        let mut sentry = start(dir.path());
        sentry.wait_ready().await;
        let mut client = Client::connect(sentry.port(0))
            .await
            .expect("sentry takes connections");
        let answer = client
            .sign(&request("web", "shop", &csr("p256", &[])))
            .await
            .expect("an answer");
        let answer = answer.expect("a certificate");
        let chain = String::from_utf8_lossy(&answer.workload_certificate).into_owned();
        let roots = String::from_utf8_lossy(&before[0].1).into_owned();
        openssl_verify(&chain, &roots, dir.path()).unwrap_or_else(|e| panic!("{kind}: {e}"));
        let asked = std::process::Command::new(outrigger_e2e::process::binary("sentry"))
            .args(["rotate", "--trust-domain=cluster.local", "--issuer-credentials"])
            .arg(&credentials)
            .output()
            .expect("the binary starts");
        let text = String::from_utf8_lossy(&asked.stderr).into_owned();
        assert!(
            !asked.status.success() && text.contains("never replaced"),
            "{text}"
        );
        sentry.process.terminate();
        sentry.process.wait_exit(Duration::from_secs(15)).await;
        assert_eq!(files(&credentials), before, "{kind}");
    }
}

#[tokio::test]
async fn a_forged_or_broken_authority_is_refused_with_a_remedy_and_left_as_it_is() {
    let good = tempfile::tempdir().expect("a temporary folder");
    own_authority(good.path(), "p256", "good");
    let other = tempfile::tempdir().expect("a temporary folder");
    own_authority(other.path(), "p256", "good");
    let read = |dir: &TempDir, name: &str| std::fs::read(dir.path().join(name)).expect("a file");
    let g = |name: &str| Some(read(&good, name));
    let o = |name: &str| Some(read(&other, name));
    for (what, ca, issuer, key, words) in [
        (
            "a root of the same name that did not sign",
            o("ca.crt"),
            g("issuer.crt"),
            g("issuer.key"),
            "does not chain to any root",
        ),
        (
            "a key of somebody else",
            g("ca.crt"),
            g("issuer.crt"),
            o("issuer.key"),
            "does not belong to the first certificate",
        ),
        (
            "an issuer among the roots",
            g("issuer.crt"),
            g("issuer.crt"),
            g("issuer.key"),
            "not self-signed",
        ),
        (
            "a key that is none",
            g("ca.crt"),
            g("issuer.crt"),
            Some(b"x".to_vec()),
            "issuer.key",
        ),
        ("no key", g("ca.crt"), g("issuer.crt"), None, "is incomplete"),
        ("only a root", g("ca.crt"), None, None, "is incomplete"),
        (
            "roots that are none",
            Some(b"x".to_vec()),
            g("issuer.crt"),
            g("issuer.key"),
            "ca.crt holds no readable certificate",
        ),
    ] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let credentials = dir.path().join("credentials");
        std::fs::create_dir_all(&credentials).expect("a folder");
        for (name, content) in [("ca.crt", ca), ("issuer.crt", issuer), ("issuer.key", key)] {
            if let Some(content) = content {
                std::fs::write(credentials.join(name), content).expect("a file");
            }
        }
        let before = files(&credentials);
        let mut sentry = start(dir.path());
        let code = sentry
            .process
            .wait_exit(Duration::from_secs(15))
            .await
            .and_then(|status| status.code());
        let log = sentry.process.log();
        assert_eq!(code, Some(1), "{what}: {log}");
        assert!(
            log.contains("level=fatal") && log.contains(words),
            "{what}: {log}"
        );
        assert_eq!(files(&credentials), before, "{what}");
    }
}

#[tokio::test]
async fn files_that_change_are_followed_without_interruption_and_broken_ones_change_nothing() {
    let (dir, sentry) = ready().await;
    let credentials = dir.path().join("credentials");
    let port = sentry.port(0);
    let mut client = Client::connect(port).await.expect("sentry takes connections");
    let sign = request("web", "shop", &csr("p256", &[]));
    let old = client
        .sign(&sign)
        .await
        .expect("an answer")
        .expect("a certificate");

    // One file after the other, as people do: in between, nothing fits together.
    let new = tempfile::tempdir().expect("a temporary folder");
    own_authority(new.path(), "p256", "new");
    let roots = std::fs::read_to_string(new.path().join("ca.crt")).expect("a file");
    let deadline = Instant::now() + Duration::from_secs(30);
    for name in ["ca.crt", "issuer.crt"] {
        std::fs::copy(new.path().join(name), credentials.join(name)).expect("a file");
        for _ in 0..30 {
            let answer = client
                .sign(&sign)
                .await
                .expect("the connection goes on")
                .expect("a certificate");
            assert_eq!(answer.trust_chain_certificates, old.trust_chain_certificates);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert!(
        sentry.process.log().contains("stays as it was"),
        "{}",
        sentry.process.log()
    );
    std::fs::copy(new.path().join("issuer.key"), credentials.join("issuer.key")).expect("a file");
    loop {
        let answer = client
            .sign(&sign)
            .await
            .expect("the connection goes on")
            .expect("a certificate");
        if answer.trust_chain_certificates != old.trust_chain_certificates {
            assert_eq!(
                blocks(&String::from_utf8_lossy(&answer.trust_chain_certificates[0])).len(),
                1
            );
            break;
        }
        assert!(Instant::now() < deadline, "{}", sentry.process.log_tail());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Sentry's own certificate is of the new authority for whoever connects from now on.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let fresh = Client::connect(port).await.expect("sentry takes connections");
        let chain: String = fresh
            .chain
            .iter()
            .map(|der| {
                String::from_utf8(openssl(&["x509", "-inform", "DER"], der).expect("openssl x509"))
                    .expect("PEM")
            })
            .collect();
        if openssl_verify(&chain, &roots, dir.path()).is_ok() {
            break;
        }
        assert!(Instant::now() < deadline, "{}", sentry.process.log_tail());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(files(&credentials), files(new.path()), "what was put there stays");
}
