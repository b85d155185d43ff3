//! What a workload's certificate says.

use std::time::SystemTime;

use thiserror::Error;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::clock::from_unix;
use crate::spiffe::{SpiffeError, SpiffeId};

/// Why a certificate names no workload (rules of contract `mtls`, sections 1 and 2).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LeafError {
    /// Not a certificate.
    #[error("it cannot be read: {0}")]
    Parse(String),
    /// It has no URI among its names.
    #[error("certificate contains no URI SAN")]
    NoUri,
    /// It has several.
    #[error("certificate contains more than one URI SAN")]
    SeveralUris,
    /// The URI is no SPIFFE id.
    #[error("its URI SAN {uri:?} is no SPIFFE ID: {error}")]
    Id {
        /// The URI.
        uri: String,
        /// Why.
        error: SpiffeError,
    },
    /// It may sign certificates.
    #[error("leaf certificate with CA flag set to true")]
    IsCa,
    /// Its key usage is that of an authority.
    #[error("leaf certificate with {0} key usage")]
    Usage(&'static str),
}

/// The facts of a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Who it is for.
    pub id: SpiffeId,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
}

/// Reads a leaf certificate in DER and checks what makes it one. Says nothing about who signed it.
///
/// # Errors
/// What it lacks.
pub fn read(der: &[u8]) -> Result<Leaf, LeafError> {
    let parse = |error: &dyn std::fmt::Display| LeafError::Parse(error.to_string());
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| parse(&error))?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| parse(&error))?;
    let mut uris = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    let uri = uris.next().ok_or(LeafError::NoUri)?;
    if uris.next().is_some() {
        return Err(LeafError::SeveralUris);
    }
    let id = SpiffeId::parse(uri).map_err(|error| LeafError::Id {
        uri: uri.to_owned(),
        error,
    })?;
    let constraints = certificate.basic_constraints().map_err(|error| parse(&error))?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(LeafError::IsCa);
    }
    if let Some(usage) = certificate.key_usage().map_err(|error| parse(&error))? {
        if usage.value.key_cert_sign() {
            return Err(LeafError::Usage("KeyCertSign"));
        }
        if usage.value.crl_sign() {
            return Err(LeafError::Usage("CrlSign"));
        }
    }
    let validity = certificate.validity();
    Ok(Leaf {
        id,
        not_before: from_unix(validity.not_before.timestamp()),
        not_after: from_unix(validity.not_after.timestamp()),
    })
}
