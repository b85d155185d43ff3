//! TLS towards servers whose certificates are verified: the system's roots or others, a client certificate.

use std::sync::{Arc, LazyLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};

/// The system's trusted roots, read when a connection first needs them; clones share them.
#[derive(Debug, Clone)]
pub struct SystemRoots(Arc<LazyLock<Arc<RootCertStore>>>);

impl Default for SystemRoots {
    fn default() -> Self {
        Self(Arc::new(LazyLock::new(|| {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            Arc::new(roots)
        })))
    }
}

/// What a client trusts and shows, checked; the system's roots are not read yet.
#[derive(Debug, Clone, Default)]
pub struct ClientTls {
    system: SystemRoots,
    own_roots: Vec<CertificateDer<'static>>,
    certificate: Option<Arc<CertifiedKey>>,
}

impl ClientTls {
    /// The system's roots and no certificate.
    pub fn new(system: SystemRoots) -> Self {
        Self {
            system,
            ..Self::default()
        }
    }

    /// Trusts these roots, and the system's no more.
    ///
    /// # Errors
    /// No PEM certificates, or none that can be a root.
    pub fn trust(&mut self, pem: &str) -> Result<(), String> {
        let mut check = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|error| format!(" is no PEM certificate: {error}"))?;
            check
                .add(certificate.clone())
                .map_err(|error| format!(": {error}"))?;
            self.own_roots.push(certificate);
        }
        Ok(())
    }

    /// Shows this certificate, which must fit its key.
    ///
    /// # Errors
    /// The text names the field after `field`, which is the path of the two.
    pub fn show(&mut self, field: &str, certificate: &str, key: &str) -> Result<(), String> {
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("{field}.certificate is no PEM certificate: {error}"))?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|error| format!("{field}.privateKey is no PEM key: {error}"))?;
        let certified = CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())
            .map_err(|error| format!("{field} certificate and key do not fit: {error}"))?;
        self.certificate = Some(Arc::new(certified));
        Ok(())
    }

    /// The settings; reads the system's roots if they are needed and nobody did.
    pub fn config(&self) -> ClientConfig {
        let roots = if self.own_roots.is_empty() {
            Arc::clone(&**self.system.0)
        } else {
            let mut own = RootCertStore::empty();
            // Checked when they were given.
            own.add_parsable_certificates(self.own_roots.iter().cloned());
            Arc::new(own)
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider supports TLS 1.2 and 1.3")
            .with_root_certificates(roots);
        match &self.certificate {
            Some(certificate) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.clone())))
            }
            None => builder.with_no_client_auth(),
        }
    }
}
