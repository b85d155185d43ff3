//! Who a process is, and mutual TLS made of it.
//!
//! A process gets a [`Security`] at its start and hands it to whatever listens or connects. Behind it, the certificate
//! is renewed at half of its life, the trust anchors follow their file or sentry, and every new handshake sees what is
//! in force at its time; existing connections go on.
//!
//! ```no_run
//! # use outrigger_identity::*;
//! # use tokio_util::{sync::CancellationToken, task::TaskTracker};
//! # async fn example(stop: CancellationToken, tasks: TaskTracker) -> Result<(), Box<dyn std::error::Error>> {
//! let control_plane = ControlPlane::new("cluster.local", "dapr-system")?;
//! // mTLS off: Security::disabled(control_plane), and all below makes plain connections.
//! let sentry = SentryOptions {
//!     address: "dapr-sentry.dapr-system.svc:443".into(),
//!     id: Service::Placement.id().into(),
//!     namespace: "dapr-system".into(),
//!     trust_domain: Some(control_plane.trust_domain().clone()),
//!     token: TokenSource::from_environment(None, true),
//!     jwt_audiences: Vec::new(),
//!     control_plane: control_plane.clone(),
//! };
//! let anchors = Anchors::File("/var/run/secrets/dapr.io/tls/ca.crt".into());
//! let options = Options::new(control_plane, anchors, Source::Sentry(sentry));
//! let security = Security::start(options, stop.clone(), &tasks).await?;
//!
//! // A server: the handshake runs in the connection's own task.
//! let acceptor = security.acceptor(Authorise::Any);
//! let listener = tokio::net::TcpListener::bind("[::]:50005").await?;
//! let (stream, _) = listener.accept().await?;
//! let (connection, peer) = acceptor.accept(stream).await?;
//! let caller = peer.map(|peer| peer.id); // None only if mTLS is off
//! // Or all at once for a tonic service: `serve::grpc`, which puts the PeerIdentity into each request's extensions.
//!
//! // A client: nobody but the scheduler is accepted at the other end.
//! let channel = security.to_service(Service::Scheduler).channel("10.0.0.7:50006")?;
//! # Ok(()) }
//! ```
//!
//! The rules are those of contract `mtls`: roots are not bound to a trust domain, host names play no part, whom a
//! process accepts is an [`Authorise`] value. The crate knows nothing of what is said over the connections.

mod authorise;
mod clock;
mod conn;
pub mod crypto;
pub mod csr;
mod dial;
mod directory;
mod handshake;
mod key;
pub mod leaf;
mod metrics;
mod pem;
mod renew;
mod security;
mod sentry;
pub mod serve;
mod source;
pub mod spiffe;
mod svid;
#[cfg(feature = "testing")]
pub mod testing;
mod token;
mod trust;
mod verify;

/// The component in log lines, as upstream names it.
const LOG: &str = "dapr.runtime.security";

pub use authorise::{Authorise, ControlPlane, ControlPlaneError, Service, Unauthorised};
pub use clock::{Clock, SystemClock};
pub use conn::{Conn, PeerIdentity};
pub use dial::{DialError, Dialer};
pub use directory::DirectoryError;
pub use handshake::{Acceptor, H2, HandshakeError, Handshaker};
pub use key::{KeyAlgorithm, KeyError, PrivateKey};
pub use metrics::IdentityMetrics;
pub use security::{Anchors, Options, Security, SecurityError, Source};
pub use sentry::SentryOptions;
pub use source::{CertificateSource, Issued, Jwts, Reason, RequestError};
pub use spiffe::{SpiffeError, SpiffeId, TrustDomain, Workload};
pub use svid::{Svid, SvidError};
pub use token::TokenSource;
pub use trust::{Anchor, Trust, TrustBundle, TrustError};
pub use verify::{VerifyError, verify_chain};
