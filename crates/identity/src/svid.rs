//! A workload's own certificate with its key.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::CertifiedKey;
use thiserror::Error;

use crate::crypto;
use crate::key::PrivateKey;
use crate::leaf::{self, LeafError};
use crate::spiffe::SpiffeId;
use crate::trust::pem_of;

/// Why a certificate that was issued to us cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SvidError {
    /// Broken PEM, or none.
    #[error("the issued certificate is no PEM chain: {0}")]
    Pem(String),
    /// The first of the chain is not a workload's.
    #[error("the issued certificate is not that of a workload: {0}")]
    Leaf(#[from] LeafError),
    /// It is for another key.
    #[error("the issued certificate does not fit the private key: {0}")]
    Key(String),
}

/// An identity document: chain, key, and what the leaf says.
#[derive(Debug)]
pub struct Svid {
    id: SpiffeId,
    not_before: SystemTime,
    not_after: SystemTime,
    key: PrivateKey,
    certified: Arc<CertifiedKey>,
}

impl Svid {
    /// From a PEM chain, leaf first, and the key that it was requested for.
    ///
    /// # Errors
    /// If they are no pair, or the leaf is not a workload's.
    pub fn new(chain_pem: &[u8], key: PrivateKey) -> Result<Self, SvidError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain_pem)
            .collect::<Result<_, _>>()
            .map_err(|error| SvidError::Pem(error.to_string()))?;
        let first = chain
            .first()
            .ok_or_else(|| SvidError::Pem("it holds no certificate".to_owned()))?;
        let leaf = leaf::read(first)?;
        let signing = crypto::provider()
            .key_provider
            .load_private_key(key.der())
            .map_err(|error| SvidError::Key(error.to_string()))?;
        let certified = CertifiedKey::new(chain, signing);
        certified
            .keys_match()
            .map_err(|error| SvidError::Key(error.to_string()))?;
        Ok(Self {
            id: leaf.id,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            key,
            certified: Arc::new(certified),
        })
    }

    /// Who it says we are.
    pub const fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Valid from.
    pub const fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Valid until.
    pub const fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The private key.
    pub const fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// Leaf, then its issuers.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The chain in PEM.
    pub fn chain_pem(&self) -> String {
        pem_of(self.certified.cert.iter())
    }

    /// For rustls.
    pub(crate) const fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}
