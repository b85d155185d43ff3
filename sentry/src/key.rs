//! Private keys that sign: certificates with the issuer's, tokens with the token key. Signing is ring's.

use std::fmt;
use std::sync::Arc;

use outrigger_identity::crypto;
use rustls::SignatureScheme;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::SigningKey;
use thiserror::Error;

use crate::der;

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// No PEM block with a private key.
    #[error("it holds no PEM block of type PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY")]
    NoPem,
    /// ring does not know it.
    #[error("it cannot be used: {0}; use Ed25519, ECDSA P-256 or P-384, or RSA with 2048 to 4096 bits")]
    Unsupported(String),
    /// It does not sign.
    #[error("signing failed: {0}")]
    Sign(String),
}

/// What kind of key it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// Ed25519.
    Ed25519,
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// RSA.
    Rsa,
}

/// A private key that signs.
#[derive(Clone)]
pub struct Signer {
    key: Arc<dyn SigningKey>,
    kind: KeyKind,
    spki: Vec<u8>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({:?}, …)", self.kind)
    }
}

const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
const RSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];

impl Signer {
    /// Reads a key in PEM: PKCS#8, SEC1 or PKCS#1.
    ///
    /// # Errors
    /// If there is none, or of a kind that is not supported.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::NoPem)?;
        let unsupported = |error: &dyn fmt::Display| KeyError::Unsupported(error.to_string());
        let key = crypto::provider()
            .key_provider
            .load_private_key(der)
            .map_err(|error| unsupported(&error))?;
        let kinds = [
            (SignatureScheme::ED25519, KeyKind::Ed25519),
            (SignatureScheme::ECDSA_NISTP256_SHA256, KeyKind::P256),
            (SignatureScheme::ECDSA_NISTP384_SHA384, KeyKind::P384),
            (SignatureScheme::RSA_PKCS1_SHA256, KeyKind::Rsa),
        ];
        let kind = kinds
            .into_iter()
            .find(|(scheme, _)| key.choose_scheme(&[*scheme]).is_some())
            .map(|(_, kind)| kind)
            .ok_or_else(|| unsupported(&"unknown algorithm"))?;
        let spki = key
            .public_key()
            .ok_or_else(|| unsupported(&"it does not tell its public key"))?
            .to_vec();
        Ok(Self { key, kind, spki })
    }

    /// Its kind.
    pub const fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The public key as SubjectPublicKeyInfo in DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The algorithm that certificates signed with it name.
    pub(crate) fn certificate_algorithm(&self) -> Vec<u8> {
        match self.kind {
            KeyKind::Ed25519 => der::sequence(&[&der::oid(ED25519)]),
            KeyKind::P256 => der::sequence(&[&der::oid(ECDSA_SHA256)]),
            KeyKind::P384 => der::sequence(&[&der::oid(ECDSA_SHA384)]),
            KeyKind::Rsa => der::sequence(&[&der::oid(RSA_SHA256), &[5, 0]]),
        }
    }

    /// Signs a certificate's content.
    ///
    /// # Errors
    /// If the key does not sign.
    pub(crate) fn sign_certificate(&self, content: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.sign(
            match self.kind {
                KeyKind::Ed25519 => SignatureScheme::ED25519,
                KeyKind::P256 => SignatureScheme::ECDSA_NISTP256_SHA256,
                KeyKind::P384 => SignatureScheme::ECDSA_NISTP384_SHA384,
                KeyKind::Rsa => SignatureScheme::RSA_PKCS1_SHA256,
            },
            content,
        )
    }

    /// Signs with a scheme; ECDSA signatures are in DER.
    ///
    /// # Errors
    /// If the scheme does not fit the key.
    pub(crate) fn sign(&self, scheme: SignatureScheme, content: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signer = self.key.choose_scheme(&[scheme]).ok_or_else(|| {
            KeyError::Sign(format!("{scheme:?} does not fit a key of kind {:?}", self.kind))
        })?;
        signer
            .sign(content)
            .map_err(|error| KeyError::Sign(error.to_string()))
    }
}
