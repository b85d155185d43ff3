//! TLS towards the servers that components connect to: PEM settings in, a rustls client configuration out.
//!
//! It knows nothing of any server's protocol. The crypto provider is ring, like everywhere.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
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
        let builder = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self.verifier(provider)?));
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

    fn verifier(&self, provider: Arc<CryptoProvider>) -> Result<Verifier, TlsError> {
        let chain = match self.verify {
            Verify::Nothing => None,
            Verify::Full | Verify::Chain => {
                let roots = Arc::new(self.root_store()?);
                let chain = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build();
                Some(chain.map_err(|error| TlsError(error.to_string()))?)
            }
        };
        Ok(Verifier {
            chain,
            trusted: self.own_roots()?,
            checks_name: self.verify == Verify::Full,
            provider,
        })
    }

    fn own_roots(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let roots = self.roots.as_deref();
        roots.map_or_else(|| Ok(Vec::new()), |pem| certificates(pem, "CA certificate"))
    }

    fn root_store(&self) -> Result<RootCertStore, TlsError> {
        let mut store = RootCertStore::empty();
        if self.roots.is_none() {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        for certificate in self.own_roots()? {
            store
                .add(certificate)
                .map_err(|error| TlsError(format!("CA certificate: {error}")))?;
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

/// Checks what the settings ask for, and always that the server owns its key.
#[derive(Debug)]
struct Verifier {
    /// `None` = any certificate will do.
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// The settings' own certificates, each of which the server may show as its own: those that `openssl req -x509` makes say
    /// that they are authorities, which is no matter to Go and OpenSSL.
    trusted: Vec<CertificateDer<'static>>,
    checks_name: bool,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// A certificate that is trusted itself needs no chain.
    fn verify_trusted(
        &self,
        certificate: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
            .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let (validity, now) = (
            parsed.validity(),
            i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        );
        if now < validity.not_before.timestamp() {
            return Err(rustls::Error::InvalidCertificate(CertificateError::NotValidYet));
        }
        if now > validity.not_after.timestamp() {
            return Err(rustls::Error::InvalidCertificate(CertificateError::Expired));
        }
        if self.checks_name {
            rustls::client::verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }
}

impl ServerCertVerifier for Verifier {
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
            )) if !self.checks_name => Ok(ServerCertVerified::assertion()),
            Err(_) if self.trusted.iter().any(|own| own == end_entity) => {
                self.verify_trusted(end_entity, server_name, now)
            }
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

    /// As `openssl req -x509` makes them: self-signed, and an authority by its own account.
    #[test]
    fn a_certificate_that_is_trusted_itself_is_accepted_for_its_names_and_its_time() {
        let mut parameters = rcgen::CertificateParams::new(["db".to_owned()]).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.not_before = rcgen::date_time_ymd(2026, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2027, 1, 1);
        let own = |parameters: &rcgen::CertificateParams| {
            let key = rcgen::KeyPair::generate().unwrap();
            parameters.self_signed(&key).unwrap()
        };
        let (trusted, other) = (own(&parameters), own(&parameters));
        let at = |seconds: u64| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        // Within, before and after 2026.
        let (within, before, after) = (1_780_000_000, 1_760_000_000, 1_800_000_000);
        for (verify, name, time, certificate, accepted) in [
            (Verify::Full, "db", within, &trusted, true),
            (Verify::Full, "other", within, &trusted, false),
            (Verify::Chain, "other", within, &trusted, true),
            (Verify::Full, "db", before, &trusted, false),
            (Verify::Full, "db", after, &trusted, false),
            (Verify::Chain, "db", after, &trusted, false),
            (Verify::Full, "db", within, &other, false),
            (Verify::Chain, "db", within, &other, false),
            (Verify::Nothing, "x", after, &other, true),
        ] {
            let settings = TlsSettings {
                roots: Some(trusted.pem()),
                identity: None,
                verify,
            };
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let verifier = settings.verifier(provider).unwrap();
            let result =
                verifier.verify_server_cert(certificate.der(), &[], &name.try_into().unwrap(), &[], at(time));
            assert_eq!(result.is_ok(), accepted, "{verify:?} {name} {time}: {result:?}");
        }
    }

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
