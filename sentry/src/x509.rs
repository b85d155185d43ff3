//! Certificates: what they say, and reading those we are given.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrigger_identity::crypto;
use rand::RngExt as _;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use thiserror::Error;
use webpki::RawPublicKeyEntity;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::der;
use crate::key::{KeyError, Signer};

const ORGANIZATION: &[u8] = &[0x55, 4, 10];
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
const SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 14];
const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 35];
const ALT_NAMES: &[u8] = &[0x55, 0x1d, 17];
const EXTENDED_USAGE: &[u8] = &[0x55, 0x1d, 37];
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
/// 1.3.6.1.4.1.57683.100.1
const IMAGES: &[u8] = &[0x2b, 6, 1, 4, 1, 0x83, 0xc2, 0x53, 100, 1];

const DIGITAL_SIGNATURE: u8 = 0b1000_0000;
const KEY_CERT_SIGN: u8 = 0b0000_0100;
const CRL_SIGN: u8 = 0b0000_0010;

/// Why a certificate cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub(crate) struct ReadError(String);

/// From when until when a certificate is valid, to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub not_before: SystemTime,
    /// Last moment.
    pub not_after: SystemTime,
}

impl Validity {
    /// From `skew` before now until `ttl` after it.
    pub fn around(now: SystemTime, skew: Duration, ttl: Duration) -> Self {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = UNIX_EPOCH + Duration::from_secs(seconds);
        Self {
            not_before: now.checked_sub(skew).unwrap_or(UNIX_EPOCH),
            not_after: now + ttl,
        }
    }

    /// The whole time.
    pub fn lifetime(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }
}

/// What the second part of the names of successors begins with.
const SUCCESSOR: &str = "since ";

fn attribute(kind: &[u8], value: &str) -> Vec<u8> {
    der::set(&[&der::sequence(&[&der::oid(kind), &der::text(value)])])
}

/// A name of one organization, in DER. Upstream gives every root and issuer the same; so do we at first. Successors bear
/// the time they were made as well: verifiers look issuers up by name, and OpenSSL does not try a second one.
pub(crate) fn organization(name: &str, since: Option<&str>) -> Vec<u8> {
    let organization = attribute(ORGANIZATION, name);
    match since {
        None => der::sequence(&[&organization]),
        Some(since) => der::sequence(&[
            &organization,
            &attribute(COMMON_NAME, &format!("{SUCCESSOR}{since}")),
        ]),
    }
}

/// Whether [`organization`] made a name.
pub(crate) fn is_organization(der: &[u8], name: &str) -> bool {
    let text = String::from_utf8_lossy(der);
    // A successor's differs in its end only.
    let since = text
        .rfind(SUCCESSOR)
        .and_then(|at| text.get(at + SUCCESSOR.len()..));
    der == organization(name, None) || since.is_some_and(|since| der == organization(name, Some(since)))
}

/// Who signs, as the certificates it signs tell it.
#[derive(Debug, Clone)]
pub(crate) struct Authority<'a> {
    /// Its subject in DER, byte for byte.
    pub(crate) name: &'a [u8],
    /// Its subject key identifier, if it has one.
    pub(crate) key_id: Option<&'a [u8]>,
    pub(crate) signer: &'a Signer,
}

/// What is certified: whose key and with which extensions.
pub(crate) struct Subject<'a> {
    /// Name in DER; an empty sequence for workloads.
    pub(crate) name: &'a [u8],
    pub(crate) spki: &'a [u8],
    pub(crate) extensions: Vec<Vec<u8>>,
}

/// Signs a certificate.
pub(crate) fn certify(
    subject: &Subject<'_>,
    validity: Validity,
    authority: &Authority<'_>,
) -> Result<Vec<u8>, KeyError> {
    let algorithm = authority.signer.certificate_algorithm();
    let times = der::sequence(&[&der::time(validity.not_before), &der::time(validity.not_after)]);
    let mut serial = [0u8; 16];
    rand::rng().fill(&mut serial);
    let content = der::sequence(&[
        &der::explicit(0, &der::unsigned(&[2])),
        &der::unsigned(&serial),
        &algorithm,
        authority.name,
        &times,
        subject.name,
        subject.spki,
        &der::explicit(3, &der::element(0x30, &subject.extensions.concat())),
    ]);
    let signature = authority.signer.sign_certificate(&content)?;
    Ok(der::sequence(&[&content, &algorithm, &der::bits(&signature)]))
}

fn extension(id: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let value = der::octets(value);
    if critical {
        der::sequence(&[&der::oid(id), &der::truth(), &value])
    } else {
        der::sequence(&[&der::oid(id), &value])
    }
}

/// The identifier of a key: the first 20 bytes of the SHA-256 of its bits.
pub(crate) fn key_id(spki: &[u8]) -> Vec<u8> {
    let bits = x509_parser::x509::SubjectPublicKeyInfo::from_der(spki).map_or(spki, |(_, info)| {
        // The bits borrow from `spki`.
        let at = spki.len().saturating_sub(info.subject_public_key.data.len());
        &spki[at..]
    });
    ring::digest::digest(&ring::digest::SHA256, bits).as_ref()[..20].to_vec()
}

fn authority_key_id(authority: &Authority<'_>) -> Option<Vec<u8>> {
    let id = authority.key_id?;
    Some(extension(
        AUTHORITY_KEY_ID,
        false,
        &der::sequence(&[&der::implicit(0, id)]),
    ))
}

/// Extensions of a root or, with `crl`, of an issuer.
pub(crate) fn ca_extensions(spki: &[u8], crl: bool, signed_by: &Authority<'_>) -> Vec<Vec<u8>> {
    let usage = DIGITAL_SIGNATURE | KEY_CERT_SIGN | if crl { CRL_SIGN } else { 0 };
    let mut extensions = vec![
        extension(KEY_USAGE, true, &der::flags(usage)),
        extension(BASIC_CONSTRAINTS, true, &der::sequence(&[&der::truth()])),
        extension(SUBJECT_KEY_ID, false, &der::octets(&key_id(spki))),
    ];
    extensions.extend(authority_key_id(signed_by));
    extensions
}

/// Extensions of a workload.
pub(crate) fn workload_extensions(
    uri: &str,
    dns_names: &[String],
    images: Option<&[u8]>,
    authority: &Authority<'_>,
) -> Vec<Vec<u8>> {
    let usages = der::sequence(&[&der::oid(SERVER_AUTH), &der::oid(CLIENT_AUTH)]);
    let mut names: Vec<u8> = dns_names
        .iter()
        .flat_map(|name| der::implicit(2, name.as_bytes()))
        .collect();
    names.extend(der::implicit(6, uri.as_bytes()));
    let mut extensions = vec![
        extension(KEY_USAGE, true, &der::flags(DIGITAL_SIGNATURE)),
        extension(EXTENDED_USAGE, false, &usages),
    ];
    extensions.extend(authority_key_id(authority));
    // The subject is empty, hence critical.
    extensions.push(extension(ALT_NAMES, true, &der::element(0x30, &names)));
    extensions.extend(images.map(|json| extension(IMAGES, false, &der::octets(json))));
    extensions
}

/// What we need to know of a certificate that is not ours to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) subject: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    pub(crate) spki: Vec<u8>,
    pub(crate) key_id: Option<Vec<u8>>,
    pub(crate) validity: Validity,
    pub(crate) is_ca: bool,
    /// How many authorities may follow it in a chain, if that is limited.
    pub(crate) path_length: Option<u32>,
    signed: Vec<u8>,
    signature: Vec<u8>,
    signature_oid: Vec<u8>,
}

impl Facts {
    pub(crate) fn read(der: &[u8]) -> Result<Self, ReadError> {
        let failed = |error: &dyn std::fmt::Display| ReadError(error.to_string());
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| failed(&error))?;
        if !rest.is_empty() {
            return Err(ReadError("there is data after the certificate".to_owned()));
        }
        let constraints = certificate.basic_constraints().map_err(|error| failed(&error))?;
        let usage = certificate.key_usage().map_err(|error| failed(&error))?;
        let may_sign = usage.is_none_or(|usage| usage.value.key_cert_sign());
        let key_id = certificate
            .iter_extensions()
            .find_map(|extension| match extension.parsed_extension() {
                x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            });
        let time =
            |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        Ok(Self {
            subject: certificate.subject().as_raw().to_vec(),
            issuer: certificate.issuer().as_raw().to_vec(),
            spki: certificate.public_key().raw.to_vec(),
            key_id,
            validity: Validity {
                not_before: time(certificate.validity().not_before.timestamp()),
                not_after: time(certificate.validity().not_after.timestamp()),
            },
            is_ca: may_sign
                && constraints
                    .as_ref()
                    .is_some_and(|constraints| constraints.value.ca),
            path_length: constraints.and_then(|constraints| constraints.value.path_len_constraint),
            signed: certificate.tbs_certificate.as_ref().to_vec(),
            signature: certificate.signature_value.data.to_vec(),
            signature_oid: certificate.signature_algorithm.algorithm.as_bytes().to_vec(),
        })
    }

    /// Whether the holder of a key signed it, for that name.
    pub(crate) fn is_signed_by(&self, authority: &Self) -> bool {
        self.issuer == authority.subject && self.verifies_with(&authority.spki)
    }

    pub(crate) fn is_self_signed(&self) -> bool {
        self.is_signed_by(self)
    }

    fn verifies_with(&self, spki: &[u8]) -> bool {
        let key = SubjectPublicKeyInfoDer::from(spki);
        let Ok(key) = RawPublicKeyEntity::try_from(&key) else {
            return false;
        };
        // An algorithm identifier begins with its object identifier.
        let prefix = der::oid(&self.signature_oid);
        crypto::provider()
            .signature_verification_algorithms
            .all
            .iter()
            .filter(|algorithm| algorithm.signature_alg_id().as_ref().starts_with(&prefix))
            .any(|algorithm| {
                key.verify_signature(*algorithm, &self.signed, &self.signature)
                    .is_ok()
            })
    }
}
