//! The app behind each `--app-protocol`: http, https, h2c, grpc and grpcs, with a certificate it signed itself.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use http_body_util::BodyExt as _;
use http_body_util::channel::Channel;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use outrigger_e2e::ask::{ask, assert_calm, expect};
use outrigger_e2e::process::{Daprd, DaprdOptions};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A TLS server's settings with a fresh self-signed certificate for a name that nobody asks for.
fn tls(dir: &Path, alpn: &[&[u8]]) -> TlsAcceptor {
    let (key, cert) = (dir.join("key.pem"), dir.join("cert.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ])
        .args(["-nodes", "-days", "2", "-subj", "/CN=somebody-else", "-keyout"])
        .args([key.as_os_str(), "-out".as_ref(), cert.as_os_str()])
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let cert = CertificateDer::from_pem_file(cert).expect("openssl writes PEM");
    let key = PrivateKeyDer::from_pem_file(key).expect("openssl writes PEM");
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .expect("certificate and key belong together");
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// Over HTTP says method, path, HTTP version and body; over gRPC answers any call with an `InvokeResponse`.
async fn answer(request: Request<Incoming>) -> Result<Response<Channel<Bytes>>, hyper::Error> {
    let is_grpc = request
        .headers()
        .get("content-type")
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    let head = format!(
        "{} {} {:?}",
        request.method(),
        request.uri().path(),
        request.version()
    );
    let body = request.into_body().collect().await?.to_bytes();
    let (mut sender, channel) = Channel::new(4);
    let mut response = Response::new(channel);
    if is_grpc {
        // data (Any with a value) and content_type of the InvokeResponse, after the five bytes of a gRPC message.
        let value = head.as_bytes();
        let length = u8::try_from(value.len()).expect("the text is short");
        let mut message = vec![0x0a, length + 2, 0x12, length];
        message.extend_from_slice(value);
        message.extend_from_slice(b"\x12\x0atext/plain");
        let mut frame = vec![
            0,
            0,
            0,
            0,
            u8::try_from(message.len()).expect("the message is short"),
        ];
        frame.extend_from_slice(&message);
        response
            .headers_mut()
            .insert("content-type", "application/grpc".parse().expect("a header"));
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().expect("a header"));
        sender.send_data(frame.into()).await.expect("there is room");
        sender.send_trailers(trailers).await.expect("there is room");
    } else {
        let text = format!("{head} {}", String::from_utf8_lossy(&body));
        sender.send_data(text.into()).await.expect("there is room");
    }
    Ok(response)
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) {
    // An error only means that the sidecar went away.
    let _ = Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await;
}

async fn app(tls: Option<TlsAcceptor>) -> (u16, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("there is a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let serving = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            match tls.clone() {
                None => connections.spawn(serve(stream)),
                Some(tls) => connections.spawn(async move {
                    // The look whether somebody listens ends after the handshake.
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream).await;
                    }
                }),
            };
        }
    });
    (port, serving)
}

#[tokio::test]
async fn the_app_is_called_by_each_protocol() {
    let cases = [
        ("http", None, "POST /greet HTTP/1.1 hello"),
        (
            "https",
            Some(&[b"http/1.1".as_slice()][..]),
            "POST /greet HTTP/1.1 hello",
        ),
        ("h2c", None, "POST /greet HTTP/2.0 hello"),
        (
            "grpc",
            None,
            "POST /dapr.proto.runtime.v1.AppCallback/OnInvoke HTTP/2.0",
        ),
        (
            "grpcs",
            Some(&[b"h2".as_slice()][..]),
            "POST /dapr.proto.runtime.v1.AppCallback/OnInvoke HTTP/2.0",
        ),
    ];
    for (protocol, alpn, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let (port, serving) = app(alpn.map(|alpn| tls(dir.path(), alpn))).await;
        let options = DaprdOptions {
            app_id: "app".into(),
            app_port: Some(port),
            app_protocol: Some(protocol.into()),
            ..Default::default()
        };
        let mut sidecar = Daprd::start_ready(&options, &dir.path().join("daprd")).await;
        let path = "/v1.0/invoke/app/method/greet";
        for _ in 0..2 {
            let answer = ask(sidecar.http_port(), "POST", path, b"hello").await;
            expect(&answer, 200, expected);
        }
        assert_calm(&mut sidecar).await;
        serving.abort();
    }
}
