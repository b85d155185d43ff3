//! Verification of peers: chain to the roots in force now, then the SPIFFE id. Host names play no part
//! (contract `mtls`, section 2).

use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use thiserror::Error;
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter};

use crate::authorise::{Authorise, Unauthorised};
use crate::clock::{from_unix, text};
use crate::crypto;
use crate::leaf::{self, Leaf, LeafError};
use crate::trust::{Trust, TrustBundle};

/// Why a peer is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// Not valid any more.
    #[error("the peer's certificate expired at {} and it is {} here; check the peer's renewal and both clocks", text(*.not_after), text(*.now))]
    Expired {
        /// Its end.
        not_after: SystemTime,
        /// Our time.
        now: SystemTime,
    },
    /// Not valid yet.
    #[error("the peer's certificate is valid from {} and it is {} here; check both clocks", text(*.not_before), text(*.now))]
    NotYetValid {
        /// Its beginning.
        not_before: SystemTime,
        /// Our time.
        now: SystemTime,
    },
    /// No chain to a root.
    #[error(
        "the peer's certificate is signed by an authority that is not trusted here; both sides need the same trust anchors"
    )]
    UnknownAuthority,
    /// No root of ours is valid at this time.
    #[error("none of the trust anchors is valid at {}; renew the root certificate or check the clock", text(*.0))]
    NoValidAnchor(SystemTime),
    /// It is not the certificate of a workload.
    #[error("the peer's certificate is not that of a workload: {0}")]
    Leaf(#[from] LeafError),
    /// Somebody else.
    #[error(transparent)]
    Unauthorised(#[from] Unauthorised),
    /// Anything else that the certificate library objects to.
    #[error("the peer's certificate cannot be verified: {0}")]
    Other(String),
}

/// Any usage will do.
struct AnyUsage;

impl ExtendedKeyUsageValidator for AnyUsage {
    fn validate(&self, ids: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        ids.into_iter().try_for_each(|id| id.map(drop))
    }
}

/// Verifies a chain, leaf first, and reads the leaf.
///
/// # Errors
/// Why it is not trusted.
pub fn verify_chain(
    bundle: &TrustBundle,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<Leaf, VerifyError> {
    let anchors = bundle.valid_at(now);
    if anchors.is_empty() {
        return Err(VerifyError::NoValidAnchor(now));
    }
    let provider = crypto::provider();
    let entity = EndEntityCert::try_from(leaf).map_err(|error| refused(&error, now))?;
    entity
        .verify_for_usage(
            provider.signature_verification_algorithms.all,
            &anchors,
            intermediates,
            crate::clock::unix(now),
            AnyUsage,
            None,
            None,
        )
        .map_err(|error| refused(&error, now))?;
    Ok(leaf::read(leaf)?)
}

fn refused(error: &webpki::Error, now: SystemTime) -> VerifyError {
    let time = |time: &UnixTime| from_unix(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
    match error {
        webpki::Error::CertExpired { not_after, .. } => VerifyError::Expired {
            not_after: time(not_after),
            now,
        },
        webpki::Error::CertNotValidYet { not_before, .. } => VerifyError::NotYetValid {
            not_before: time(not_before),
            now,
        },
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            VerifyError::UnknownAuthority
        }
        webpki::Error::CaUsedAsEndEntity => LeafError::IsCa.into(),
        other => VerifyError::Other(other.to_string()),
    }
}

/// The same for rustls; [`cause`] finds it again.
fn to_rustls(error: VerifyError) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// What a handshake failed of in this module.
pub(crate) fn cause(error: &rustls::Error) -> Option<&VerifyError> {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref(),
        _ => None,
    }
}

/// Verifies servers for clients and clients for servers.
#[derive(Debug)]
pub(crate) struct Verifier {
    trust: Trust,
    authorise: Authorise,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    pub(crate) fn new(trust: Trust, authorise: Authorise) -> Self {
        Self {
            trust,
            authorise,
            provider: crypto::provider(),
        }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let now = from_unix(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        let leaf = verify_chain(&self.trust.current(), leaf, intermediates, now).map_err(to_rustls)?;
        self.authorise
            .check(&leaf.id)
            .map_err(|error| to_rustls(error.into()))
    }

    fn tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, self.algorithms())
    }

    fn tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, self.algorithms())
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }

    fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.provider.signature_verification_algorithms
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Verifier {
    /// None: a client has one identity, and the roots may be many.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}
