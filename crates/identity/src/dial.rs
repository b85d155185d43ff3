//! Outgoing connections for tonic and hyper.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

use crate::conn::Conn;
use crate::handshake::{HandshakeError, Handshaker};

const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Pings on an idle connection, so that a peer that is gone is noticed (as upstream's clients do).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a peer could not be reached.
#[derive(Debug, Error)]
pub enum DialError {
    /// The address cannot be read.
    #[error("{0:?} is no address: it must be host:port")]
    Address(String),
    /// No connection.
    #[error("cannot connect to {address}: {error}")]
    Tcp {
        /// Where to.
        address: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// No handshake.
    #[error("authentication handshake with {address} failed: {error}")]
    Handshake {
        /// With whom.
        address: String,
        /// Why.
        #[source]
        error: HandshakeError,
    },
}

/// Opens connections to one kind of peer. Made by [`crate::Security`]; cheap to clone. It is also the connector that
/// tonic and hyper's clients ask for.
#[derive(Clone)]
pub struct Dialer(Handshaker);

impl Dialer {
    /// With this handshake.
    pub(crate) const fn new(handshaker: Handshaker) -> Self {
        Self(handshaker)
    }

    /// The handshake alone, for connections that are opened elsewhere.
    pub const fn handshaker(&self) -> &Handshaker {
        &self.0
    }

    /// Whether connections are encrypted.
    pub const fn is_tls(&self) -> bool {
        self.0.is_tls()
    }

    /// Connects to `host:port`.
    ///
    /// # Errors
    /// If the peer cannot be reached within ten seconds or is not whom we want.
    pub async fn connect(&self, address: &str) -> Result<Conn<TcpStream>, DialError> {
        let address = bare(address);
        let host = host_of(address).ok_or_else(|| DialError::Address(address.to_owned()))?;
        let failed = |error| DialError::Tcp {
            address: address.to_owned(),
            error,
        };
        let stream = tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(address))
            .await
            .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
            .map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        self.0
            .handshake(host, stream)
            .await
            .map_err(|error| DialError::Handshake {
                address: address.to_owned(),
                error,
            })
    }

    /// A gRPC channel to `host:port`, with upstream's keepalive. It connects with its first call, and again whenever
    /// the connection is lost: every connection sees the certificates in force at its time.
    ///
    /// # Errors
    /// If the address cannot be read.
    pub fn channel(&self, address: &str) -> Result<Channel, DialError> {
        let endpoint = Self::endpoint(address)?;
        Ok(endpoint.connect_with_connector_lazy(self.clone()))
    }

    /// The endpoint below [`Self::channel`], for who wants other settings; connect it with a clone of this value.
    ///
    /// # Errors
    /// If the address cannot be read.
    pub fn endpoint(address: &str) -> Result<Endpoint, DialError> {
        let address = bare(address);
        let wrong = || DialError::Address(address.to_owned());
        host_of(address).ok_or_else(wrong)?;
        // Plain by its scheme: TLS is the connector's affair.
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| wrong())?;
        Ok(endpoint
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true))
    }
}

/// Without the resolver scheme that Go's gRPC knows.
fn bare(address: &str) -> &str {
    address
        .strip_prefix("dns:///")
        .or_else(|| address.strip_prefix("passthrough:///"))
        .unwrap_or(address)
}

/// The host of `host:port`.
fn host_of(address: &str) -> Option<&str> {
    let (host, port) = address.rsplit_once(':')?;
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    (port.parse::<u16>().is_ok() && !host.is_empty() && (is_bracketed || !host.contains(':'))).then_some(host)
}

impl tower_service::Service<Uri> for Dialer {
    type Response = TokioIo<Conn<TcpStream>>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialer = self.clone();
        Box::pin(async move {
            let address = uri
                .authority()
                .map(|authority| authority.as_str().to_owned())
                .unwrap_or_default();
            dialer.connect(&address).await.map(TokioIo::new)
        })
    }
}
