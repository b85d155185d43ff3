//! What strangers send to sentry, and what somebody put where the authority is kept.

use std::time::UNIX_EPOCH;

use outrigger_identity::{SpiffeId, TrustDomain};
use outrigger_sentry::bundle::{Bundle, Material};
use outrigger_sentry::jws::{KeySet, check_claims, unverified_claims};

use crate::texts;

/// A certificate signing request, PEM or DER.
pub(crate) fn csr(input: &[u8]) {
    let _ = outrigger_identity::csr::parse(input);
    let _ = outrigger_identity::csr::parse_der(input);
}

/// Roots, chain and key of an authority.
pub(crate) fn bundle(input: &[u8]) {
    let Some([ca, issuer_cert, issuer_key]) = texts(input) else {
        return;
    };
    let material = Material {
        ca: ca.to_owned(),
        issuer_cert: issuer_cert.to_owned(),
        issuer_key: issuer_key.to_owned(),
    };
    let _ = Bundle::read(&material, UNIX_EPOCH);
}

/// A SPIFFE id: what is read is what was written.
pub(crate) fn spiffe_id(input: &[u8]) {
    let Some([text]) = texts(input) else { return };
    if let Ok(id) = SpiffeId::parse(text) {
        assert_eq!(id.to_string(), text);
        let _ = id.workload();
    }
    let _ = TrustDomain::from_id_or_name(text);
}

/// A set of public keys and a token.
pub(crate) fn token(input: &[u8]) {
    let Some([set, token]) = texts(input) else { return };
    if let Ok(claims) = unverified_claims(token) {
        let _ = check_claims(&claims, 0, 300, "a", "b");
    }
    if let Ok(set) = KeySet::parse(set) {
        let _ = set.verify(token);
    }
}
