//! The bundle of an authority: trust anchors, issuer's chain, issuer's key (contract `sentry`, sections 2 and 3).

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use outrigger_identity::KeyAlgorithm;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use thiserror::Error;

use crate::key::{KeyError, Signer};
use crate::x509::{self, Authority, Facts, Subject, Validity};

/// Longest chain of authorities below a root that we hand out; verifiers stop at six or more.
const MAX_CHAIN: usize = 5;

/// Why a bundle cannot be used. Nothing is overwritten because of it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BundleError {
    /// A file's content is no list of certificates.
    #[error("{what} holds no readable certificate: {reason}")]
    Certificates {
        /// `ca.crt` or `issuer.crt`.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// A root is not one.
    #[error("ca.crt: certificate {0} is not self-signed; only root certificates belong there")]
    NotSelfSigned(usize),
    /// The chain is not one.
    #[error("issuer.crt: certificate {0} is not signed by the one after it; order them issuer first")]
    Order(usize),
    /// A chain certificate must not sign.
    #[error("issuer.crt: certificate {0} may not sign certificates (CA:TRUE and keyCertSign are needed)")]
    NotCa(usize),
    /// The chain ends nowhere.
    #[error(
        "issuer.crt does not chain to any root in ca.crt; put the root that signed it there, or remove ca.crt, issuer.crt and issuer.key together to have a new authority made"
    )]
    NoAnchor,
    /// The key is another.
    #[error("issuer.key does not belong to the first certificate of issuer.crt; restore the matching pair")]
    KeyMismatch,
    /// The key is no use.
    #[error("issuer.key: {0}")]
    Key(#[from] KeyError),
    /// Too late or too early.
    #[error(
        "{what} is not valid now (valid from {from} until {until}); replace it, or correct the clock of this machine"
    )]
    NotValidNow {
        /// What.
        what: &'static str,
        /// From.
        from: String,
        /// Until.
        until: String,
    },
}

/// The three texts of a bundle, as they are stored.
#[derive(Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Material {
    /// `ca.crt`
    pub ca: String,
    /// `issuer.crt`
    pub issuer_cert: String,
    /// `issuer.key`
    pub issuer_key: String,
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material").finish_non_exhaustive()
    }
}

/// A bundle that was checked.
#[derive(Debug, Clone)]
pub struct Bundle {
    anchors: Vec<(CertificateDer<'static>, Facts)>,
    chain: Vec<(CertificateDer<'static>, Facts)>,
    signer: Signer,
    anchors_pem: String,
    chain_pem: String,
}

/// What a new authority is for.
#[derive(Debug, Clone)]
pub struct NewAuthority {
    /// Trust domain of the control plane.
    pub trust_domain: String,
    /// Namespace of sentry.
    pub namespace: String,
    /// How far back its certificates begin.
    pub skew: Duration,
    /// How long they last.
    pub ttl: Duration,
}

impl NewAuthority {
    fn issuer_organization(&self) -> String {
        format!("spiffe://{}/ns/{}/dapr-sentry", self.trust_domain, self.namespace)
    }

    /// Makes a root and an issuer. The root's private key is used once and forgotten. With `before`, the root is also
    /// certified by the issuer before it, so that who knows only the root before accepts what the new issuer signs.
    ///
    /// # Errors
    /// If the system gives no randomness.
    pub fn generate(&self, now: SystemTime, before: Option<&Bundle>) -> Result<Material, KeyError> {
        let generate = || {
            KeyAlgorithm::Ed25519
                .generate()
                .map_err(|error| KeyError::Sign(error.to_string()))
        };
        let (root_pem, issuer_pem) = (generate()?.pem(), generate()?.pem());
        let (root, issuer) = (Signer::from_pem(&root_pem)?, Signer::from_pem(&issuer_pem)?);
        let since = before.map(|_| time_text(now));
        let root_name = x509::organization(&self.trust_domain, since.as_deref());
        let issuer_name = x509::organization(&self.issuer_organization(), since.as_deref());
        let validity = Validity::around(now, self.skew, self.ttl);
        let authority = Authority {
            name: &root_name,
            key_id: None,
            signer: &root,
        };
        let of = |name: &[u8], signer: &Signer, crl, validity, by: &Authority<'_>| {
            let subject = Subject {
                name,
                spki: signer.spki(),
                extensions: x509::ca_extensions(signer.spki(), crl, by),
            };
            x509::certify(&subject, validity, by)
        };
        let root_der = of(&root_name, &root, false, validity, &authority)?;
        let issuer_der = of(&issuer_name, &issuer, true, validity, &authority)?;
        let mut chain = vec![issuer_der];
        if let Some(before) = before.filter(|before| before.can_certify_authorities(now)) {
            let old = before.authority();
            let crossed = Validity {
                not_after: validity.not_after.min(before.issuer().validity.not_after),
                ..validity
            };
            chain.push(of(&root_name, &root, false, crossed, &old)?);
            let living = before
                .chain
                .iter()
                .take_while(|(_, facts)| facts.validity.not_after > now)
                .map(|(der, _)| der.to_vec());
            chain.extend(living.take(MAX_CHAIN - chain.len()));
        }
        Ok(Material {
            ca: pem("CERTIFICATE", &root_der),
            issuer_cert: chain.iter().map(|der| pem("CERTIFICATE", der)).collect(),
            issuer_key: issuer_pem,
        })
    }

    /// Whether a bundle was made by sentry itself (ours or Go's) for this installation, and so may be replaced by
    /// sentry itself. A user's own authority never is.
    pub fn made(&self, bundle: &Bundle) -> bool {
        let is_root = |name: &[u8]| x509::is_organization(name, &self.trust_domain);
        let issuer = bundle.issuer();
        x509::is_organization(&issuer.subject, &self.issuer_organization())
            && is_root(&issuer.issuer)
            && bundle
                .anchors_in_use()
                .iter()
                .any(|at| is_root(&bundle.anchors[*at].1.subject))
    }
}

/// A PEM block as Go writes it.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

fn certificates(what: &'static str, text: &str) -> Result<Vec<Read>, BundleError> {
    let failed = |reason: String| BundleError::Certificates { what, reason };
    let mut found = Vec::new();
    for der in CertificateDer::pem_slice_iter(text.as_bytes()) {
        let der = der.map_err(|error| failed(error.to_string()))?;
        let facts = Facts::read(&der).map_err(|error| failed(error.to_string()))?;
        found.push((der, facts));
    }
    if found.is_empty() {
        return Err(failed("no PEM block of type CERTIFICATE".to_owned()));
    }
    Ok(found)
}

impl Bundle {
    /// Reads and checks a bundle.
    ///
    /// # Errors
    /// What is wrong with it, and what to do.
    pub fn read(material: &Material, now: SystemTime) -> Result<Self, BundleError> {
        let anchors = certificates("ca.crt", &material.ca)?;
        if let Some(at) = anchors.iter().position(|(_, facts)| !facts.is_self_signed()) {
            return Err(BundleError::NotSelfSigned(at + 1));
        }
        let mut chain = certificates("issuer.crt", &material.issuer_cert)?;
        // A root at the end is no part of the chain.
        if chain.len() > 1 && chain.last().is_some_and(|(_, facts)| facts.is_self_signed()) {
            chain.pop();
        }
        for (at, pair) in chain.windows(2).enumerate() {
            if !pair[0].1.is_signed_by(&pair[1].1) {
                return Err(BundleError::Order(at + 1));
            }
        }
        if let Some(at) = chain.iter().position(|(_, facts)| !facts.is_ca) {
            return Err(BundleError::NotCa(at + 1));
        }
        drop_expired_tail(&mut chain, &anchors, now);
        let signer = Signer::from_pem(&material.issuer_key)?;
        if signer.spki() != chain[0].1.spki {
            return Err(BundleError::KeyMismatch);
        }
        let bundle = Self {
            anchors_pem: anchors.iter().map(|(der, _)| pem("CERTIFICATE", der)).collect(),
            // Self-signed certificates are never handed out in a chain.
            chain_pem: chain
                .iter()
                .filter(|(_, facts)| !facts.is_self_signed())
                .map(|(der, _)| pem("CERTIFICATE", der))
                .collect(),
            anchors,
            chain,
            signer,
        };
        let used = bundle.anchors_in_use();
        let Some(first) = used.first() else {
            return Err(BundleError::NoAnchor);
        };
        let valid = |at: &&usize| is_valid(&bundle.anchors[**at].1, now);
        let root = used.iter().find(valid).unwrap_or(first);
        for (what, facts) in [
            ("the issuer certificate (issuer.crt)", bundle.issuer()),
            ("the root certificate (ca.crt)", &bundle.anchors[*root].1),
        ] {
            if !is_valid(facts, now) {
                return Err(BundleError::NotValidNow {
                    what,
                    from: time_text(facts.validity.not_before),
                    until: time_text(facts.validity.not_after),
                });
            }
        }
        Ok(bundle)
    }

    /// Which anchors the issuer's chain ends at, at whatever link.
    pub(crate) fn anchors_in_use(&self) -> Vec<usize> {
        (0..self.anchors.len())
            .filter(|at| {
                let anchor = &self.anchors[*at].1;
                self.chain
                    .iter()
                    .any(|(_, facts)| facts == anchor || facts.is_signed_by(anchor))
            })
            .collect()
    }

    /// The anchors in PEM without those that this bundle's chain ends at.
    pub(crate) fn foreign_anchors_pem(&self) -> String {
        let used = self.anchors_in_use();
        let foreign = (0..self.anchors.len()).filter(|at| !used.contains(at));
        foreign
            .map(|at| pem("CERTIFICATE", &self.anchors[at].0))
            .collect()
    }

    fn can_certify_authorities(&self, now: SystemTime) -> bool {
        is_valid(self.issuer(), now) && self.chain.iter().all(|(_, facts)| facts.path_length.is_none())
    }

    /// The issuer's certificate.
    pub(crate) fn issuer(&self) -> &Facts {
        &self.chain[0].1
    }

    pub(crate) fn authority(&self) -> Authority<'_> {
        Authority {
            name: &self.issuer().subject,
            key_id: self.issuer().key_id.as_deref(),
            signer: &self.signer,
        }
    }

    /// All anchors in PEM, comments stripped.
    pub fn anchors_pem(&self) -> &str {
        &self.anchors_pem
    }

    /// The issuer's chain in PEM without self-signed certificates.
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// Validity of the issuer.
    pub fn issuer_validity(&self) -> Validity {
        self.issuer().validity
    }

    /// Validities of the anchors, in their order, and whether the issuer's chain ends there.
    pub fn anchors(&self) -> Vec<(Validity, bool)> {
        let used = self.anchors_in_use();
        let anchors = self.anchors.iter().enumerate();
        anchors
            .map(|(at, (_, facts))| (facts.validity, used.contains(&at)))
            .collect()
    }

    /// The end of what this bundle lives on: the issuer, or a root it needs.
    pub fn not_after(&self) -> SystemTime {
        let roots = self.anchors().into_iter().filter(|(_, used)| *used);
        let root = roots.map(|(validity, _)| validity.not_after).max();
        let issuer = self.issuer_validity().not_after;
        root.map_or(issuer, |root| root.min(issuer))
    }
}

type Read = (CertificateDer<'static>, Facts);

/// What a change of roots left behind for those who know only the root before is of no use once it has expired.
fn drop_expired_tail(chain: &mut Vec<Read>, anchors: &[Read], now: SystemTime) {
    let expired = |(at, (_, facts)): (usize, &Read)| (at > 0 && facts.validity.not_after < now).then_some(at);
    let Some(at) = chain.iter().enumerate().find_map(expired) else {
        return;
    };
    let ends_at_an_anchor = |facts: &Facts| anchors.iter().any(|(_, anchor)| facts.is_signed_by(anchor));
    if chain[..at].iter().any(|(_, facts)| ends_at_an_anchor(facts)) {
        chain.truncate(at);
    }
}

fn is_valid(facts: &Facts, now: SystemTime) -> bool {
    facts.validity.not_before <= now && now <= facts.validity.not_after
}

/// A time for people and files (RFC 3339).
pub(crate) fn time_text(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| "an impossible time".to_owned(), |time| time.to_string())
}

/// The time that such a text stands for.
pub(crate) fn time_of(text: &str) -> Option<SystemTime> {
    text.parse::<jiff::Timestamp>().ok()?.try_into().ok()
}
