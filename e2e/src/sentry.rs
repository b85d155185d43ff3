//! Sentry under test: certificate requests made with OpenSSL, calls over TLS, and certificates read by libraries that
//! share nothing with ours (OpenSSL, Python's `cryptography`).

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use hyper::header::HeaderMap;
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrigger_proto::sentry::v1::{SignCertificateRequest, SignCertificateResponse};
use prost::Message as _;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, SignatureScheme};

const LIMIT: Duration = Duration::from_secs(20);
const PATH: &str = "/dapr.proto.sentry.v1.CA/SignCertificate";

/// What a call ended with: the answer, or code and message.
pub type Outcome = Result<SignCertificateResponse, (i32, String)>;

/// A connection to sentry.
#[derive(Debug)]
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
    /// The chain that sentry presented.
    pub chain: Vec<CertificateDer<'static>>,
}

impl Client {
    /// Connects over TLS without looking at who answers; [`Client::chain`] tells.
    ///
    /// # Errors
    /// If no HTTP/2 connection comes about.
    pub async fn connect(port: u16) -> Result<Self, String> {
        tokio::time::timeout(LIMIT, Self::connect_now(port))
            .await
            .map_err(|_| "connecting takes too long".to_owned())?
    }

    async fn connect_now(port: u16) -> Result<Self, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let stream = TcpStream::connect(("127.0.0.1", port))
            .await
            .map_err(|e| text(&e))?;
        let provider = Arc::new(ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| text(&e))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        let name = ServerName::try_from("sentry").map_err(|e| text(&e))?;
        let tls = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .map_err(|e| text(&e))?;
        let chain = tls.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
                .await
                .map_err(|e| text(&e))?;
        tokio::spawn(connection);
        Ok(Self { sender, chain })
    }

    /// Calls `SignCertificate`.
    ///
    /// # Errors
    /// If no gRPC answer comes: the connection is gone.
    pub async fn sign(&mut self, request: &SignCertificateRequest) -> Result<Outcome, String> {
        self.call(&request.encode_to_vec()).await
    }

    /// Calls it with bytes that may be no request.
    ///
    /// # Errors
    /// As [`Client::sign`].
    pub async fn call(&mut self, message: &[u8]) -> Result<Outcome, String> {
        tokio::time::timeout(LIMIT, self.call_now(message))
            .await
            .map_err(|_| "the call takes too long".to_owned())?
    }

    async fn call_now(&mut self, message: &[u8]) -> Result<Outcome, String> {
        let mut frame = BytesMut::with_capacity(message.len() + 5);
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.len()).map_err(|e| e.to_string())?);
        frame.put_slice(message);
        let request = hyper::Request::post(format!("https://sentry{PATH}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(frame.freeze()))
            .map_err(|e| e.to_string())?;
        self.sender.ready().await.map_err(|e| e.to_string())?;
        let response = self
            .sender
            .send_request(request)
            .await
            .map_err(|e| e.to_string())?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|e| e.to_string())?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let bytes = body.to_bytes();
        let status = |headers: &HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse::<i32>().ok();
        let code = status(&trailers).or_else(|| status(&head.headers));
        let Some(code) = code else {
            return Err(format!("HTTP {} without a gRPC status", head.status));
        };
        if code != 0 {
            let message = trailers
                .get("grpc-message")
                .or_else(|| head.headers.get("grpc-message"));
            let message = message
                .map(|value| unescape(value.as_bytes()))
                .unwrap_or_default();
            return Ok(Err((code, message)));
        }
        let message = bytes.get(5..).ok_or("an answer without a message")?;
        SignCertificateResponse::decode(message)
            .map(Ok)
            .map_err(|e| e.to_string())
    }
}

/// Undoes the percent encoding of gRPC messages.
fn unescape(text: &[u8]) -> String {
    let mut out = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let hex = text
            .get(at + 1..at + 3)
            .and_then(|hex| std::str::from_utf8(hex).ok());
        match (text[at], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Accepts every server: tests look at its chain themselves.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Runs OpenSSL with `input` on its standard input and returns what it printed.
///
/// # Errors
/// What it wrote to its error output if it failed.
///
/// # Panics
/// If OpenSSL is not installed.
pub fn openssl(args: &[&str], input: &[u8]) -> Result<Vec<u8>, String> {
    let mut child = Command::new("openssl")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this test needs the program openssl: `apt-get install openssl`");
    if let Some(mut stdin) = child.stdin.take() {
        // A program that doesn't read its input closes it; its exit status tells.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// A private key (PEM) of a kind: `p256`, `p384`, `ed25519`, `rsa2048`, `rsa1024`.
///
/// # Panics
/// If OpenSSL cannot make it.
#[must_use]
pub fn key(kind: &str) -> Vec<u8> {
    let args: &[&str] = match kind {
        "p256" => &[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ],
        "p384" => &[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-384",
        ],
        "p521" => &[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-521",
        ],
        "rsa1024" => &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"],
        "rsa2048" => &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        _ => &["genpkey", "-algorithm", "ED25519"],
    };
    openssl(args, b"").unwrap_or_else(|e| panic!("openssl {args:?}: {e}"))
}

/// A certificate request (PEM) for a new key of a kind, with more arguments for `openssl req`.
///
/// # Panics
/// If OpenSSL cannot make it.
#[must_use]
pub fn csr(kind: &str, more: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("key.pem");
    std::fs::write(&file, key(kind)).expect("a temporary file can be written");
    let file = file.display().to_string();
    let mut args = vec!["req", "-new", "-key", &file];
    if more.is_empty() {
        args.extend(["-subj", "/"]);
    }
    args.extend(more);
    openssl(&args, b"").unwrap_or_else(|e| panic!("openssl {args:?}: {e}"))
}

/// What `openssl verify` says of a chain (leaf first) at these roots.
///
/// # Errors
/// Why it does not verify.
///
/// # Panics
/// If files cannot be written.
pub fn openssl_verify(chain: &str, roots: &str, dir: &Path) -> Result<(), String> {
    let write = |name: &str, text: &str| -> String {
        let path: PathBuf = dir.join(name);
        std::fs::write(&path, text).expect("a temporary file can be written");
        path.display().to_string()
    };
    let (leaf, issuers) = match chain.split_once("-----END CERTIFICATE-----\n") {
        Some((leaf, rest)) => (format!("{leaf}-----END CERTIFICATE-----\n"), rest),
        None => return Err("no certificate in the chain".to_owned()),
    };
    let (leaf, issuers, roots) = (
        write("verify-leaf.pem", &leaf),
        write("verify-issuers.pem", issuers),
        write("verify-roots.pem", roots),
    );
    let args = [
        "verify",
        "-x509_strict",
        "-CAfile",
        &roots,
        "-untrusted",
        &issuers,
        &leaf,
    ];
    // Roots and issuers of Dapr have no authority key identifier where both bear the same name, which strict rules want.
    let relaxed = ["verify", "-CAfile", &roots, "-untrusted", &issuers, &leaf];
    match openssl(&args, b"") {
        Err(error) if error.contains("Missing Authority Key Identifier") => openssl(&relaxed, b"").map(drop),
        other => other.map(drop),
    }
}

/// Has Python's `cryptography` read or verify certificates; see `tools/x509.py`.
///
/// # Panics
/// If Python lacks the library, or a certificate cannot be read.
#[must_use]
pub fn python_x509(items: &Value) -> Vec<Value> {
    let root = crate::sdk::root();
    let venv = root.join(".cache/venv/bin/python");
    let python = if venv.exists() { venv } else { "python3".into() };
    let mut child = Command::new(python)
        .arg(root.join("e2e/tools/x509.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this test needs Python: run `cargo xtask setup`");
    let mut stdin = child.stdin.take().expect("the input is a pipe");
    let text = items.to_string();
    let writing = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().expect("our own child can be waited for");
    let _ = writing.join();
    assert!(
        output.status.success(),
        "e2e/tools/x509.py failed (it needs Python's `cryptography`: run `cargo xtask setup`):\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    match serde_json::from_slice(&output.stdout) {
        Ok(Value::Array(answers)) => answers,
        other => panic!("e2e/tools/x509.py answered {other:?}"),
    }
}

/// A request with a certificate request in it, as most tests need it.
#[must_use]
pub fn request(id: &str, namespace: &str, csr: &[u8]) -> SignCertificateRequest {
    SignCertificateRequest {
        id: id.to_owned(),
        namespace: namespace.to_owned(),
        certificate_signing_request: csr.to_vec().into(),
        ..SignCertificateRequest::default()
    }
}
