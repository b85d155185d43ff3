//! The load of `cargo xtask bench-sentry`: certificates per second by kind of key, handshakes per second, memory, and a
//! thousand sidecars that start at once. Prints a Markdown table.
//!
//! `load <path of a sentry binary> [seconds per case]`; any compatible sentry will do.

use std::error::Error;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrigger_identity::{KeyAlgorithm, crypto, csr};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

type Failure = Box<dyn Error + Send + Sync>;

/// Clients at once, as in the measurement of upstream.
const CLIENTS: usize = 16;
const SIDECARS: usize = 1000;
const PORT: u16 = 47_501;
const TICKS: f64 = 100.0;

/// Kills sentry at the end.
struct Sentry(Child);

impl Drop for Sentry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Sentry {
    fn start(binary: &Path, dir: &Path) -> Result<Self, Failure> {
        std::fs::create_dir_all(dir.join("credentials"))?;
        let config = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: c\nspec:\n  mtls:\n    enabled: true\n";
        std::fs::write(dir.join("config.yaml"), config)?;
        let child = Command::new(binary)
            .args([
                "--issuer-credentials=credentials",
                "--config=config.yaml",
                "--log-level=error",
            ])
            .args([
                "--healthz-port=47502",
                "--metrics-port=47503",
                &format!("--port={PORT}"),
            ])
            .current_dir(dir)
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }

    /// Resident memory in MB.
    fn memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        kilobytes.unwrap_or_default() / 1024.0
    }

    /// Processor time it has used, in seconds.
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |at: usize| {
            fields
                .get(at)
                .and_then(|field| field.parse::<f64>().ok())
                .unwrap_or_default()
        };
        (ticks(11) + ticks(12)) / TICKS
    }
}

#[derive(Debug)]
struct Anybody;

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
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto::provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn tls() -> Result<TlsConnector, Failure> {
    let mut config = ClientConfig::builder_with_provider(crypto::provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn connect(tls: &TlsConnector) -> Result<SendRequest<Full<Bytes>>, Failure> {
    let stream = TcpStream::connect(("127.0.0.1", PORT)).await?;
    stream.set_nodelay(true)?;
    let stream = tls.connect(ServerName::try_from("sentry")?, stream).await?;
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// A request on the wire: id, namespace, certificate request.
fn frame(csr: &str) -> Bytes {
    let mut message = Vec::new();
    for (field, value) in [(1u8, "web"), (4, "shop"), (5, csr)] {
        message.push(field << 3 | 2);
        let mut length = value.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(value.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend(message);
    frame.into()
}

async fn sign(sender: &mut SendRequest<Full<Bytes>>, frame: &Bytes) -> Result<(), Failure> {
    sender.ready().await?;
    let request = http::Request::post("https://sentry/dapr.proto.sentry.v1.CA/SignCertificate")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(frame.clone()))?;
    let body = sender.send_request(request).await?.into_body().collect().await?;
    let status = body
        .trailers()
        .and_then(|trailers| trailers.get("grpc-status").cloned());
    if status.as_ref().is_some_and(|status| status == "0") {
        Ok(())
    } else {
        Err(format!("gRPC status {status:?}").into())
    }
}

/// Has clients work for a while: operations per second, and sentry's processor seconds per operation.
async fn measure<F, Fut>(sentry: &Sentry, seconds: u64, client: F) -> Result<(f64, f64), Failure>
where
    F: Fn(Arc<AtomicU64>, Instant) -> Fut,
    Fut: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let count = Arc::new(AtomicU64::new(0));
    let (started, cpu) = (Instant::now(), sentry.cpu());
    let until = started + Duration::from_secs(seconds);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| tokio::spawn(client(Arc::clone(&count), until)))
        .collect();
    for client in clients {
        client.await??;
    }
    let done = count.load(Ordering::Relaxed) as f64;
    Ok((
        done / started.elapsed().as_secs_f64(),
        (sentry.cpu() - cpu) / done,
    ))
}

/// What no sentry with this crypto provider can save: checking the request's signature and making the certificate's, in
/// seconds, on one core with nothing else under way.
fn crypto_alone(kind: KeyAlgorithm) -> Result<f64, Failure> {
    const TIMES: u32 = 2000;
    let request = csr::build(&kind.generate()?)?;
    // Sentry's own authorities have such keys.
    let issuer = KeyAlgorithm::Ed25519.generate()?;
    let issuer = crypto::provider()
        .key_provider
        .load_private_key(issuer.der())?
        .choose_scheme(&[SignatureScheme::ED25519])
        .ok_or("an Ed25519 key that makes no Ed25519 signatures")?;
    let started = Instant::now();
    for _ in 0..TIMES {
        csr::parse(request.as_bytes())?;
        issuer.sign(&[0; 400])?;
    }
    Ok(started.elapsed().as_secs_f64() / f64::from(TIMES))
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let binary = args
        .next()
        .ok_or("usage: load <path of a sentry binary> [seconds per case]")?;
    let seconds: u64 = args.next().map_or(Ok(5), |text| text.parse())?;
    let dir = std::env::temp_dir().join(format!("bench-sentry-{}", std::process::id()));
    let sentry = Sentry::start(&std::fs::canonicalize(binary)?, &dir)?;
    let tls = tls()?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while connect(&tls).await.is_err() {
        if Instant::now() > deadline {
            return Err("sentry does not listen".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!(
        "| case | per second | sentry's CPU per operation | per second and core of sentry | RSS after |\n|---|---|---|---|---|"
    );
    println!("| idle | | | | {:.1} MB |", sentry.memory());
    let row = |name: &str, (rate, cpu): (f64, f64)| {
        println!(
            "| {name} | {rate:.0} | {:.0} µs | {:.0} | {:.1} MB |",
            cpu * 1e6,
            1.0 / cpu,
            sentry.memory()
        );
    };
    for (name, kind) in [
        ("certificates, P-256 keys", KeyAlgorithm::EcdsaP256),
        ("certificates, Ed25519 keys", KeyAlgorithm::Ed25519),
        ("certificates, RSA-2048 keys", KeyAlgorithm::Rsa2048),
    ] {
        let frame = frame(&csr::build(&kind.generate()?)?);
        let result = measure(&sentry, seconds, |count, until| {
            let (tls, frame) = (tls.clone(), frame.clone());
            async move {
                let mut sender = connect(&tls).await?;
                while Instant::now() < until {
                    sign(&mut sender, &frame).await?;
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }
        });
        row(name, result.await?);
        let alone = crypto_alone(kind)?;
        println!(
            "| of which checking one signature and making one | | {:.0} µs | {:.0} | |",
            alone * 1e6,
            1.0 / alone
        );
    }
    let frame = frame(&csr::build(&KeyAlgorithm::Ed25519.generate()?)?);
    let result = measure(&sentry, seconds, |count, until| {
        let tls = tls.clone();
        async move {
            while Instant::now() < until {
                connect(&tls).await?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }
    });
    row("TLS handshakes", result.await?);
    let started = Instant::now();
    let sidecars: Vec<_> = (0..SIDECARS)
        .map(|_| {
            let (tls, frame) = (tls.clone(), frame.clone());
            tokio::spawn(async move { sign(&mut connect(&tls).await?, &frame).await })
        })
        .collect();
    for sidecar in sidecars {
        sidecar.await??;
    }
    let took = started.elapsed();
    println!(
        "| {SIDECARS} sidecars start at once | all within {:.0} ms | | | {:.1} MB |",
        took.as_secs_f64() * 1e3,
        sentry.memory()
    );
    drop(sentry);
    let _ = std::fs::remove_dir_all(dir);
    Ok(())
}
