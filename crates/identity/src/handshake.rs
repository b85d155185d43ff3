//! Handshakes of both sides, and what they can fail of.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::server::ClientHello;
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, ClientConfig, InvalidMessage, ServerConfig};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::authorise::Authorise;
use crate::clock::TlsTime;
use crate::conn::{Conn, PeerIdentity};
use crate::crypto;
use crate::leaf;
use crate::security::Live;
use crate::verify::{self, Verifier, VerifyError};

/// The protocol that gRPC demands of both sides.
pub const H2: &[u8] = b"h2";
/// Longest handshake; a peer that says nothing must not hold a connection.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why no encrypted connection came about.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// Nothing came in time.
    #[error("the TLS handshake took longer than {0:?}")]
    Timeout(Duration),
    /// The peer is not who it should be, or cannot prove who it is.
    #[error(transparent)]
    Peer(VerifyError),
    /// The peer has no certificate.
    #[error("the peer presented no certificate; mTLS must be on at both sides")]
    NoCertificate,
    /// The peer does not speak TLS.
    #[error("the peer does not speak TLS; mTLS must be on at both sides or at neither")]
    Plaintext,
    /// The peer does not agree on HTTP/2.
    #[error("the peer did not negotiate HTTP/2 (ALPN h2), which gRPC demands")]
    NoHttp2,
    /// The peer closed the connection.
    #[error(
        "the peer closed the connection during the TLS handshake; if mTLS is off there, it must be on at both sides or at neither"
    )]
    Closed,
    /// The peer does not want us.
    #[error("the peer refused this side's certificate ({0:?}); the peer's log says why")]
    Refused(rustls::AlertDescription),
    /// Anything else of TLS.
    #[error("TLS: {0}")]
    Tls(rustls::Error),
    /// The network failed.
    #[error("{0}")]
    Io(#[source] io::Error),
    /// The address has no host that TLS could name.
    #[error("{0:?} is no host name and no IP address")]
    Name(String),
}

impl HandshakeError {
    fn new(error: io::Error) -> Self {
        let Some(tls) = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        else {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Self::Closed,
                _ => Self::Io(error),
            };
        };
        if let Some(cause) = verify::cause(tls) {
            return Self::Peer(cause.clone());
        }
        match tls {
            rustls::Error::NoCertificatesPresented => Self::NoCertificate,
            rustls::Error::NoApplicationProtocol => Self::NoHttp2,
            rustls::Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            ) => Self::Plaintext,
            rustls::Error::AlertReceived(alert) if is_about_the_certificate(*alert) => Self::Refused(*alert),
            other => Self::Tls(other.clone()),
        }
    }
}

const fn is_about_the_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
    )
}

/// Presents the certificate in force when a handshake begins.
#[derive(Debug)]
pub(crate) struct Present(pub(crate) Arc<Live>);

impl rustls::server::ResolvesServerCert for Present {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.0.svid().certified()))
    }
}

impl rustls::client::ResolvesClientCert for Present {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.0.svid().certified()))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// TLS for a server. `clients`: who may connect, or `None` to ask nobody for a certificate.
pub(crate) fn server_config(live: &Arc<Live>, clients: Option<Authorise>, alpn: &[&[u8]]) -> ServerConfig {
    let builder = ServerConfig::builder_with_details(crypto::provider(), Arc::new(TlsTime(live.clock())))
        .with_safe_default_protocol_versions()
        .expect("the provider supports TLS 1.2 and 1.3");
    let builder = match clients {
        Some(authorise) => {
            builder.with_client_cert_verifier(Arc::new(Verifier::new(live.trust().clone(), authorise)))
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Present(Arc::clone(live))));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    // A resumed session would skip the verification against the roots in force.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

/// TLS for a client that wants a certain peer. `present`: whether it shows its own certificate.
pub(crate) fn client_config(
    trust: &crate::trust::Trust,
    clock: Arc<dyn crate::clock::Clock>,
    present: Option<&Arc<Live>>,
    peer: Authorise,
    alpn: &[&[u8]],
) -> ClientConfig {
    let builder = ClientConfig::builder_with_details(crypto::provider(), Arc::new(TlsTime(clock)))
        .with_safe_default_protocol_versions()
        .expect("the provider supports TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier::new(trust.clone(), peer)));
    let mut config = match present {
        Some(live) => builder.with_client_cert_resolver(Arc::new(Present(Arc::clone(live)))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = rustls::client::Resumption::disabled();
    config
}

/// Takes connections in: does the handshake, tells who the peer is. Plain if mTLS is off. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    tls: Option<TlsAcceptor>,
    timeout: Duration,
}

impl Acceptor {
    /// Lets everything through as it is.
    pub const fn plain() -> Self {
        Self {
            tls: None,
            timeout: TIMEOUT,
        }
    }

    /// With TLS.
    pub(crate) fn tls(config: Arc<ServerConfig>) -> Self {
        Self {
            tls: Some(TlsAcceptor::from(config)),
            timeout: TIMEOUT,
        }
    }

    /// Whether connections are encrypted.
    pub const fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Does the handshake. To be run in a task of the connection, never in the accept loop. The identity is `None`
    /// if mTLS is off or the server asks for none.
    ///
    /// # Errors
    /// If the peer is not accepted, or says nothing for ten seconds.
    pub async fn accept<S>(&self, stream: S) -> Result<(Conn<S>, Option<PeerIdentity>), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(tls) = &self.tls else {
            return Ok((Conn::Plain(stream), None));
        };
        let stream = tokio::time::timeout(self.timeout, tls.accept(stream))
            .await
            .map_err(|_| HandshakeError::Timeout(self.timeout))?
            .map_err(HandshakeError::new)?;
        let (_, session) = stream.get_ref();
        // A client that offers no protocol at all gets this far.
        if tls.config().alpn_protocols.iter().any(|protocol| protocol == H2)
            && session.alpn_protocol() != Some(H2)
        {
            return Err(HandshakeError::NoHttp2);
        }
        let peer = identity(session.peer_certificates())?;
        Ok((Conn::Tls(Box::new(TlsStream::Server(stream))), peer))
    }
}

/// Makes outgoing connections to one kind of peer: does the handshake, accepts nobody else. Plain if mTLS is off.
/// Cheap to clone.
#[derive(Clone)]
pub struct Handshaker {
    tls: Option<TlsConnector>,
    timeout: Duration,
}

impl Handshaker {
    /// Lets everything through as it is.
    pub const fn plain() -> Self {
        Self {
            tls: None,
            timeout: TIMEOUT,
        }
    }

    /// With TLS.
    pub(crate) fn tls(config: Arc<ClientConfig>) -> Self {
        Self {
            tls: Some(TlsConnector::from(config)),
            timeout: TIMEOUT,
        }
    }

    /// Whether connections are encrypted.
    pub const fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Does the handshake on an open connection. `host` is what the peer was looked up by; it goes into the
    /// handshake and plays no part in the verification.
    ///
    /// # Errors
    /// If the peer is not whom we want.
    pub async fn handshake<S>(&self, host: &str, stream: S) -> Result<Conn<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(tls) = &self.tls else {
            return Ok(Conn::Plain(stream));
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name =
            ServerName::try_from(bare.to_owned()).map_err(|_| HandshakeError::Name(host.to_owned()))?;
        let stream = tokio::time::timeout(self.timeout, tls.connect(name, stream))
            .await
            .map_err(|_| HandshakeError::Timeout(self.timeout))?
            .map_err(HandshakeError::new)?;
        if tls.config().alpn_protocols.iter().any(|protocol| protocol == H2)
            && stream.get_ref().1.alpn_protocol() != Some(H2)
        {
            return Err(HandshakeError::NoHttp2);
        }
        Ok(Conn::Tls(Box::new(TlsStream::Client(stream))))
    }
}

fn identity(
    chain: Option<&[rustls::pki_types::CertificateDer<'static>]>,
) -> Result<Option<PeerIdentity>, HandshakeError> {
    let Some(chain) = chain.filter(|chain| !chain.is_empty()) else {
        return Ok(None);
    };
    let leaf = leaf::read(&chain[0]).map_err(|error| HandshakeError::Peer(error.into()))?;
    Ok(Some(PeerIdentity {
        id: leaf.id,
        chain: chain.into(),
    }))
}
