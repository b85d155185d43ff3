//! TLS towards the servers that components connect to: PEM settings in, a rustls client configuration out.
//!
//! It knows nothing of any server's protocol. The crypto provider is ring, like everywhere.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// How much of the server's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// Chain and name.
    #[default]
    Full,
    /// The chain, not the name.
    Chain,
    /// Nothing: whoever answers is trusted.
    Nothing,
}

/// What a component's settings say about TLS.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// PEM certificates to trust instead of the system's.
    pub roots: Option<String>,
    /// PEM certificate chain and key to show to the server.
    pub identity: Option<(String, String)>,
    /// How much is checked.
    pub verify: Verify,
}

impl std::fmt::Debug for TlsSettings {
    /// Without keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsSettings")
            .field("own_roots", &self.roots.is_some())
            .field("identity", &self.identity.is_some())
            .field("verify", &self.verify)
            .finish()
    }
}

/// Why TLS settings are of no use; names the part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

impl TlsError {
    /// An error with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl TlsSettings {
    /// Builds the client.
    ///
    /// # Errors
    /// If a PEM text holds no certificate or no key, or the two do not belong together.
    pub fn client(&self) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError(error.to_string()))?;
        let builder = match self.verify {
            Verify::Full => builder.with_root_certificates(self.roots()?),
            Verify::Chain => {
                let chain =
                    WebPkiServerVerifier::builder_with_provider(Arc::new(self.roots()?), provider.clone())
                        .build()
                        .map_err(|error| TlsError(error.to_string()))?;
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(Lenient {
                        chain: Some(chain),
                        provider,
                    }))
            }
            Verify::Nothing => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Lenient {
                    chain: None,
                    provider,
                })),
        };
        match &self.identity {
            None => Ok(builder.with_no_client_auth()),
            Some((certificate, key)) => {
                let chain = certificates(certificate, "client certificate")?;
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
                    .map_err(|error| TlsError(format!("client key: {error}")))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| TlsError(format!("client certificate and key: {error}")))
            }
        }
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut store = RootCertStore::empty();
        match &self.roots {
            Some(pem) => {
                for certificate in certificates(pem, "CA certificate")? {
                    store
                        .add(certificate)
                        .map_err(|error| TlsError(format!("CA certificate: {error}")))?;
                }
            }
            None => {
                store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        Ok(store)
    }
}

fn certificates(pem: &str, what: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError(format!("{what}: {error}")))?;
    if found.is_empty() {
        return Err(TlsError(format!("{what}: no PEM certificate in the text")));
    }
    Ok(found)
}

/// Checks less than usual, but always that the server owns its key.
#[derive(Debug)]
struct Lenient {
    /// `None` = any certificate will do.
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last: the chain was in order.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_are_no_pem_are_refused_by_name() {
        let settings = |roots: Option<&str>, identity: Option<(&str, &str)>| TlsSettings {
            roots: roots.map(str::to_owned),
            identity: identity.map(|(certificate, key)| (certificate.to_owned(), key.to_owned())),
            verify: Verify::Full,
        };
        let error = settings(Some("nonsense"), None).client().unwrap_err().0;
        assert!(error.starts_with("CA certificate: no PEM certificate"), "{error}");
        let error = settings(None, Some(("nonsense", "x"))).client().unwrap_err().0;
        assert!(error.starts_with("client certificate: "), "{error}");
        assert!(settings(None, None).client().is_ok());
        assert!(!format!("{:?}", settings(None, Some(("c", "hunter2")))).contains("hunter2"));
    }
}
