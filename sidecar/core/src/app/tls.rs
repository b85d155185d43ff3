//! Connections to the app: plain TCP, or TLS without verification (the app's certificate is its own affair,
//! contract `http-api`, section 8).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::proxy::matcher::Intercept;
use hyper_util::rt::TokioIo;
use outrigger_identity::Conn;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower::Service as _;

use crate::outside::Proxies;
use crate::tls::{ClientTls, SystemRoots};

/// Opens connections: plain for `http`, TLS for `https`.
#[derive(Clone)]
pub(crate) struct Connector {
    /// TLS settings, made when the first `https` URI is met.
    tls: Arc<LazyLock<TlsConnector, Box<dyn FnOnce() -> TlsConnector + Send>>>,
    /// TLS whatever the scheme says.
    always_tls: bool,
    timeout: Option<Duration>,
    proxies: Proxies,
}

impl Connector {
    fn with(
        always_tls: bool,
        timeout: Option<Duration>,
        make: impl FnOnce() -> ClientConfig + Send + 'static,
    ) -> Self {
        let make: Box<dyn FnOnce() -> TlsConnector + Send> =
            Box::new(|| TlsConnector::from(Arc::new(make())));
        Self {
            tls: Arc::new(LazyLock::new(make)),
            always_tls,
            timeout,
            proxies: Proxies::default(),
        }
    }

    /// To an HTTP app. A URL given as a target is verified unless the app itself speaks `https`.
    pub(super) fn app(is_tls: bool, roots: SystemRoots, proxies: Proxies) -> Self {
        let connector = Self::with(false, None, move || {
            if is_tls {
                unverified(&[])
            } else {
                ClientTls::new(roots).config()
            }
        });
        Self { proxies, ..connector }
    }

    /// To an external endpoint, with its own TLS settings.
    pub(super) fn external(tls: ClientTls, proxies: Proxies, timeout: Duration) -> Self {
        let connector = Self::with(false, Some(timeout), move || tls.config());
        Self { proxies, ..connector }
    }

    /// To see whether an app listens, whatever it speaks inside TLS.
    pub(super) fn probe(tls: bool) -> Self {
        Self::with(tls, None, || unverified(&[]))
    }

    /// To a collector of spans.
    pub(crate) fn spans(tls: ClientTls, http2: bool, timeout: Duration) -> Self {
        Self::with(false, Some(timeout), move || {
            let mut config = tls.config();
            if http2 {
                config.alpn_protocols = vec![b"h2".to_vec()];
            }
            config
        })
    }

    /// HTTP/2 to a gRPC app.
    pub(super) fn http2(tls: bool) -> Self {
        Self::with(tls, None, || unverified(&[b"h2"]))
    }

    async fn connect(self, uri: Uri) -> io::Result<Stream> {
        let tls = self.always_tls || uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default();
        let conn = match self.proxies.of(&uri) {
            None => {
                let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
                self.open(host, port, tls).await?
            }
            Some(proxy) => {
                let stream = self.through(&proxy, &uri, tls).await?;
                if !tls {
                    return Ok(Stream {
                        io: TokioIo::new(Conn::Plain(stream)),
                        is_proxied: true,
                    });
                }
                self.secure(host, stream).await?
            }
        };
        Ok(conn.into())
    }

    /// A connection to a proxy, or through it where TLS is to follow.
    async fn through(&self, proxy: &Intercept, uri: &Uri, tls: bool) -> io::Result<TcpStream> {
        if proxy.uri().scheme_str() != Some("http") {
            let text = format!("the proxy {} cannot be used: only http:// is", proxy.uri());
            return Err(io::Error::other(text));
        }
        let mut to_proxy = Self {
            proxies: Proxies::default(),
            ..self.clone()
        };
        let stream = if tls {
            let mut tunnel = Tunnel::new(proxy.uri().clone(), to_proxy);
            if let Some(auth) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(auth.clone());
            }
            tunnel.call(uri.clone()).await.map_err(io::Error::other)?
        } else {
            to_proxy.call(proxy.uri().clone()).await?
        };
        match stream.io.into_inner() {
            Conn::Plain(stream) => Ok(stream),
            Conn::Tls(_) => Err(io::Error::other("http:// means a connection without TLS")),
        }
    }

    /// Opens a connection and closes it again.
    pub(super) async fn dial(&self, host: &str, port: u16) -> io::Result<()> {
        self.open(host, port, self.always_tls).await.map(drop)
    }

    async fn open(&self, host: &str, port: u16, tls: bool) -> io::Result<Conn<TcpStream>> {
        let stream = TcpStream::connect((bare(host), port)).await?;
        stream.set_nodelay(true)?;
        if tls {
            self.secure(host, stream).await
        } else {
            Ok(Conn::Plain(stream))
        }
    }

    async fn secure(&self, host: &str, stream: TcpStream) -> io::Result<Conn<TcpStream>> {
        let name = ServerName::try_from(bare(host).to_owned()).map_err(io::Error::other)?;
        let stream = self.tls.connect(name, stream).await?;
        Ok(Conn::Tls(Box::new(stream.into())))
    }
}

/// A host without the brackets of IPv6.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

fn unverified(alpn: &[&[u8]]) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(AcceptAny(provider.clone()));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

/// Accepts any certificate, but checks that the peer owns its key.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
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

/// A connection.
pub(crate) struct Stream {
    io: TokioIo<Conn<TcpStream>>,
    /// At the other end is a proxy, which is to be told whole URLs.
    is_proxied: bool,
}

impl From<Conn<TcpStream>> for Stream {
    fn from(conn: Conn<TcpStream>) -> Self {
        Self {
            io: TokioIo::new(conn),
            is_proxied: false,
        }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.is_proxied)
    }
}

impl Read for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            match connector.timeout {
                None => connector.connect(uri).await,
                Some(limit) => tokio::time::timeout(limit, connector.connect(uri))
                    .await
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
            }
        })
    }
}
