//! Certificate signing requests: built by workloads, read by the certificate authority.
//!
//! Only the public key and the proof that the sender has its private half matter; names in a request are neither set
//! nor looked at (contract `sentry`, section 4).

use rcgen::CertificateParams;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::{PemObject, SectionKind};
use thiserror::Error;
use webpki::RawPublicKeyEntity;
use x509_parser::prelude::{FromDer, X509CertificationRequest};
use x509_parser::public_key::PublicKey;

use crate::crypto;
use crate::key::{KeyError, PrivateKey};

/// Largest request that is looked at, in bytes; an RSA-16384 one has 6 KiB.
pub const MAX_CSR: usize = 16 << 10;
/// RSA keys below this are broken or soon will be.
const MIN_RSA_BITS: usize = 2048;

/// Why a request is refused. The first three texts are upstream's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CsrError {
    /// No PEM block of the right type.
    #[error("invalid certificate signing request")]
    NoPem,
    /// The block is no request.
    #[error("failed to parse certificate signing request: {0}")]
    Parse(String),
    /// The signature is not by the key in the request.
    #[error("invalid signature")]
    Signature,
    /// Larger than [`MAX_CSR`].
    #[error("invalid certificate signing request: it has {0} bytes, at most 16384 are allowed")]
    TooLarge(usize),
    /// A key that cannot be certified.
    #[error(
        "invalid certificate signing request: {0}; use Ed25519, ECDSA P-256 or P-384, or RSA with at least 2048 bits"
    )]
    Key(String),
}

/// The public key of a request whose signature was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Csr {
    spki: Vec<u8>,
}

impl Csr {
    /// The subject public key info in DER.
    pub fn public_key_der(&self) -> &[u8] {
        &self.spki
    }
}

/// A request for a key, in PEM, without any name in it.
///
/// # Errors
/// If the key cannot sign.
pub fn build(key: &PrivateKey) -> Result<String, KeyError> {
    let failed = |error: rcgen::Error| KeyError::Generate(error.to_string());
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .serialize_request(key.pair())
        .and_then(|request| request.pem())
        .map_err(failed)
}

/// Reads a request in PEM: its first block, which must be of type `CERTIFICATE REQUEST` (`CERTIFICATE` is tolerated).
///
/// # Errors
/// What is wrong with it.
pub fn parse(pem: &[u8]) -> Result<Csr, CsrError> {
    if pem.len() > MAX_CSR {
        return Err(CsrError::TooLarge(pem.len()));
    }
    parse_der(&first_block(pem)?)
}

/// The content of the first PEM block.
fn first_block(pem: &[u8]) -> Result<Vec<u8>, CsrError> {
    type Block = (SectionKind, Vec<u8>);
    match Block::pem_slice_iter(pem).next() {
        Some(Ok((SectionKind::Csr | SectionKind::Certificate, der))) => Ok(der),
        _ => Err(CsrError::NoPem),
    }
}

/// The tags of a `SEQUENCE` and of a `BIT STRING` in DER.
const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// Reads a request in DER.
///
/// # Errors
/// What is wrong with it.
pub fn parse_der(der: &[u8]) -> Result<Csr, CsrError> {
    let (rest, request) =
        X509CertificationRequest::from_der(der).map_err(|error| CsrError::Parse(error.to_string()))?;
    if !rest.is_empty() {
        return Err(CsrError::Parse("there is data after it".to_owned()));
    }
    let info = &request.certification_request_info;
    check_key(&info.subject_pki)?;
    let spki = info.subject_pki.raw.to_vec();
    if request.signature_value.unused_bits != 0 {
        return Err(CsrError::Signature);
    }
    // The signed part is a slice of the whole; the algorithm follows it.
    let signed_end = info.raw.as_ptr().addr() - der.as_ptr().addr() + info.raw.len();
    check_signature(&spki, &der[signed_end..], info.raw, &request.signature_value.data)?;
    // What the signature does not cover is held here: the parser looks at a tag's number, not at its class.
    // The algorithm between the two was compared whole.
    let algorithm_len = der.get(signed_end + 1).map_or(0, |len| usize::from(*len) + 2);
    if der.first() != Some(&SEQUENCE) || der.get(signed_end + algorithm_len) != Some(&BIT_STRING) {
        return Err(CsrError::Parse(
            "a tag of another class than DER's own".to_owned(),
        ));
    }
    Ok(Csr { spki })
}

fn check_key(spki: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> Result<(), CsrError> {
    match spki.parsed() {
        Ok(PublicKey::RSA(key)) if key.key_size() < MIN_RSA_BITS => Err(CsrError::Key(format!(
            "its RSA key has only {} bits",
            key.key_size()
        ))),
        Ok(_) => Ok(()),
        Err(error) => Err(CsrError::Parse(error.to_string())),
    }
}

/// `algorithm`: bytes that begin with the identifier of the signature's algorithm.
fn check_signature(spki: &[u8], algorithm: &[u8], signed: &[u8], signature: &[u8]) -> Result<(), CsrError> {
    let key = SubjectPublicKeyInfoDer::from(spki);
    let key = RawPublicKeyEntity::try_from(&key).map_err(|error| CsrError::Parse(error.to_string()))?;
    // A sequence of the algorithm's object identifier and parameters, which are shorter than 128 bytes.
    let is_it = |known: &[u8]| {
        let head = [SEQUENCE, u8::try_from(known.len()).unwrap_or(u8::MAX)];
        algorithm
            .strip_prefix(&head)
            .is_some_and(|rest| rest.starts_with(known))
    };
    let provider = crypto::provider();
    let mut known = provider
        .signature_verification_algorithms
        .all
        .iter()
        .filter(|algorithm| is_it(algorithm.signature_alg_id().as_ref()))
        .peekable();
    if known.peek().is_none() {
        return Err(CsrError::Key(
            "its signature algorithm is not supported".to_owned(),
        ));
    }
    let mut fits = false;
    for algorithm in known {
        match key.verify_signature(*algorithm, signed, signature) {
            Ok(()) => return Ok(()),
            Err(webpki::Error::InvalidSignatureForPublicKey) => fits = true,
            Err(_) => {}
        }
    }
    if fits {
        return Err(CsrError::Signature);
    }
    Err(CsrError::Key(
        "its key and its signature algorithm do not fit, or are not supported".to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyAlgorithm;
    use proptest::prelude::*;
    use rustls::pki_types::CertificateSigningRequestDer;

    fn der(algorithm: KeyAlgorithm) -> Vec<u8> {
        let pem = build(&algorithm.generate().unwrap()).unwrap();
        CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
            .unwrap()
            .to_vec()
    }

    #[test]
    fn what_is_built_is_read_whatever_the_key() {
        for algorithm in [
            KeyAlgorithm::Ed25519,
            KeyAlgorithm::EcdsaP256,
            KeyAlgorithm::Rsa2048,
        ] {
            let key = algorithm.generate().unwrap();
            let csr = parse(build(&key).unwrap().as_bytes()).unwrap();
            let public = rcgen::PublicKeyData::subject_public_key_info(key.pair());
            assert_eq!(csr.public_key_der(), public, "{algorithm:?}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "no PEM at all",
            "-----BEGIN CERTIFICATE REQUEST-----\n!\n-----END CERTIFICATE REQUEST-----\n",
        ] {
            assert_eq!(parse(text.as_bytes()), Err(CsrError::NoPem), "{text}");
        }
        let key = KeyAlgorithm::Ed25519.generate().unwrap().pem();
        assert_eq!(parse(key.as_bytes()), Err(CsrError::NoPem));
        assert_eq!(
            parse(&vec![b'a'; MAX_CSR + 1]),
            Err(CsrError::TooLarge(MAX_CSR + 1))
        );
    }

    #[test]
    fn a_changed_signature_is_no_signature() {
        let mut der = der(KeyAlgorithm::Ed25519);
        *der.last_mut().unwrap() ^= 1;
        assert_eq!(parse_der(&der), Err(CsrError::Signature));
    }

    #[test]
    fn a_request_with_a_changed_byte_is_refused() {
        let whole = der(KeyAlgorithm::EcdsaP256);
        // Each bit alone, and the bits of a tag's class and form together.
        let changes = (0..8).map(|bit| 1 << bit).chain([0xc0, 0xe0, 0xff]);
        for change in changes {
            for at in 0..whole.len() {
                let mut der = whole.clone();
                der[at] ^= change;
                assert!(parse_der(&der).is_err(), "byte {at} changed by {change:#x}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(parse_der(&bytes).is_err());
            prop_assert!(parse(&bytes).is_err());
        }
    }
}
