//! Private keys of workloads.

use std::fmt;
use std::str::FromStr;

use rand::rngs::SysRng;
use rcgen::{KeyPair, SignatureAlgorithm};

use rsa::pkcs8::EncodePrivateKey;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;

use crate::pem::pem;

/// Which kind of key a process asks a certificate for. Upstream: Ed25519, but RSA for the operator and the injector,
/// since some Kubernetes API servers refuse Ed25519.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KeyAlgorithm {
    /// Ed25519: small and fast.
    #[default]
    Ed25519,
    /// ECDSA on the curve P-256.
    EcdsaP256,
    /// RSA with 2048 bits: slow to make and to sign with.
    Rsa2048,
}

/// A key could not be made or used.
#[derive(Debug, Error)]
pub enum KeyError {
    /// Not one of the algorithms.
    #[error("unknown key algorithm {0:?}: it must be ed25519, ecdsa-p256 or rsa-2048")]
    Unknown(String),
    /// The library failed.
    #[error("cannot make a private key: {0}")]
    Generate(String),
}

/// A private key. Its `Debug` does not show it.
pub struct PrivateKey {
    pair: KeyPair,
    algorithm: KeyAlgorithm,
}

impl KeyAlgorithm {
    /// The name in settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::EcdsaP256 => "ecdsa-p256",
            Self::Rsa2048 => "rsa-2048",
        }
    }

    const fn signature(self) -> &'static SignatureAlgorithm {
        match self {
            Self::Ed25519 => &rcgen::PKCS_ED25519,
            Self::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::Rsa2048 => &rcgen::PKCS_RSA_SHA256,
        }
    }

    /// Makes a key. RSA takes long enough to need a thread of its own: see [`Self::generate_aside`].
    ///
    /// # Errors
    /// If the system gives no randomness.
    pub fn generate(self) -> Result<PrivateKey, KeyError> {
        let failed = |error: &dyn fmt::Display| KeyError::Generate(error.to_string());
        let pair = match self {
            Self::Ed25519 | Self::EcdsaP256 => {
                KeyPair::generate_for(self.signature()).map_err(|error| failed(&error))?
            }
            // ring cannot make RSA keys, only use them.
            Self::Rsa2048 => {
                let key = rsa::PrivateKey::new(&mut rand::rand_core::UnwrapErr(SysRng), 2048)
                    .map_err(|error| failed(&error))?;
                let der = key.to_pkcs8_der().map_err(|error| failed(&error))?;
                let der = PrivatePkcs8KeyDer::from(der.as_bytes());
                KeyPair::from_pkcs8_der_and_sign_algo(&der, self.signature())
                    .map_err(|error| failed(&error))?
            }
        };
        Ok(PrivateKey {
            pair,
            algorithm: self,
        })
    }

    /// As [`Self::generate`], without holding up the runtime.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub async fn generate_aside(self) -> Result<PrivateKey, KeyError> {
        if self != Self::Rsa2048 {
            return self.generate();
        }
        tokio::task::spawn_blocking(move || self.generate())
            .await
            .map_err(|error| KeyError::Generate(error.to_string()))?
    }
}

impl FromStr for KeyAlgorithm {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        [Self::Ed25519, Self::EcdsaP256, Self::Rsa2048]
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(text))
            .ok_or_else(|| KeyError::Unknown(text.to_owned()))
    }
}

impl PrivateKey {
    /// Which kind it is.
    pub const fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// For building certificates and requests with rcgen.
    pub const fn pair(&self) -> &KeyPair {
        &self.pair
    }

    /// As PKCS#8, for rustls.
    pub fn der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pair.serialize_der()))
    }

    /// As PKCS#8 in PEM. Whoever writes it to a file guards the file.
    pub fn pem(&self) -> String {
        let der = self.pair.serialize_der();
        pem("PRIVATE KEY", plain_ed25519(&der).as_deref().unwrap_or(&der))
    }
}

/// ring writes Ed25519 keys in the second version of PKCS#8, with the public key behind, which OpenSSL 3.0 and others
/// do not read; the first version is the head and the seed alone.
fn plain_ed25519(der: &[u8]) -> Option<Vec<u8>> {
    const SECOND: [u8; 16] = [
        0x30, 0x51, 0x02, 0x01, 0x01, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
    ];
    const FIRST: [u8; 16] = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
    ];
    let same_but_length = der.len() > 48 && der[0] == SECOND[0] && der[2..16] == SECOND[2..];
    same_but_length.then(|| [&FIRST[..], &der[16..48]].concat())
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({}, …)", self.algorithm.name())
    }
}
