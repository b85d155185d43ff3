//! The trust anchors of an installation, and how they change while a process runs.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use thiserror::Error;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::clock::from_unix;
use crate::pem::pem;

/// Why a text is no bundle of trust anchors.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TrustError {
    /// Broken PEM.
    #[error("the trust anchors are no valid PEM: {0}")]
    Pem(String),
    /// No certificate in it.
    #[error("the trust anchors hold no PEM block of type CERTIFICATE")]
    Empty,
    /// A certificate cannot be used.
    #[error("trust anchor {index} cannot be used: {reason}")]
    Certificate {
        /// Which, from 1.
        index: usize,
        /// Why.
        reason: String,
    },
}

/// One trusted root.
#[derive(Debug, Clone)]
pub struct Anchor {
    der: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// A set of roots; a chain may end at any of them.
#[derive(Debug, Clone, Default)]
pub struct TrustBundle {
    anchors: Vec<Anchor>,
    /// Written once it is asked for.
    pem: OnceLock<String>,
}

impl Anchor {
    fn new(der: CertificateDer<'static>) -> Result<Self, String> {
        let (_, certificate) = X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
        let constraints = certificate
            .basic_constraints()
            .map_err(|error| error.to_string())?;
        if constraints.is_some_and(|constraints| !constraints.value.ca) {
            return Err("it is not the certificate of an authority (CA:FALSE)".to_owned());
        }
        let validity = certificate.validity();
        let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        let anchor = webpki::anchor_from_trusted_cert(&der)
            .map_err(|error| error.to_string())?
            .to_owned();
        Ok(Self {
            anchor,
            not_before: from_unix(not_before),
            not_after: from_unix(not_after),
            der,
        })
    }

    /// The certificate.
    pub const fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Its end.
    pub const fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

impl TrustBundle {
    /// Reads every PEM certificate of a text; what stands between the blocks is ignored.
    ///
    /// # Errors
    /// If there is none, or one cannot be used.
    pub fn from_pem(pem: &[u8]) -> Result<Self, TrustError> {
        let mut bundle = Self::default();
        for (index, der) in CertificateDer::pem_slice_iter(pem).enumerate() {
            let der = der.map_err(|error| TrustError::Pem(error.to_string()))?;
            let anchor = Anchor::new(der).map_err(|reason| TrustError::Certificate {
                index: index + 1,
                reason,
            })?;
            bundle.add(anchor);
        }
        if bundle.anchors.is_empty() {
            return Err(TrustError::Empty);
        }
        Ok(bundle)
    }

    /// The roots.
    pub fn anchors(&self) -> &[Anchor] {
        &self.anchors
    }

    /// All roots in PEM.
    pub fn pem(&self) -> &str {
        self.pem
            .get_or_init(|| pem_of(self.anchors.iter().map(|anchor| &anchor.der)))
    }

    /// The same to keep.
    pub fn to_pem(&self) -> String {
        self.pem().to_owned()
    }

    /// The roots that are valid at a time: upstream looks at the validity of roots too.
    pub(crate) fn valid_at(&self, now: SystemTime) -> Vec<TrustAnchor<'_>> {
        self.anchors
            .iter()
            .filter(|anchor| anchor.not_before <= now && now <= anchor.not_after)
            .map(|anchor| anchor.anchor.clone())
            .collect()
    }

    fn contains(&self, other: &Anchor) -> bool {
        self.anchors.iter().any(|anchor| anchor.der == other.der)
    }

    fn add(&mut self, anchor: Anchor) {
        if !self.contains(&anchor) {
            self.anchors.push(anchor);
            self.pem = OnceLock::new();
        }
    }

    fn same(&self, other: &Self) -> bool {
        self.anchors.len() == other.anchors.len() && self.anchors.iter().all(|anchor| other.contains(anchor))
    }
}

/// Certificates as PEM, one after the other.
pub(crate) fn pem_of<'a>(certificates: impl Iterator<Item = &'a CertificateDer<'static>>) -> String {
    certificates
        .map(|certificate| pem("CERTIFICATE", certificate))
        .collect()
}

/// The trust in force: read by every handshake, changed by few. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Trust(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    current: ArcSwap<TrustBundle>,
    changes: watch::Sender<Arc<TrustBundle>>,
    known: std::sync::Mutex<Known>,
}

/// Where the roots in force come from. A process that was given its roots once and for all (an environment variable)
/// learns the later ones from the certificate authority, with every certificate: that is what lets a root be
/// replaced without restarting anybody. Roots that the authority never spoke of stay: they are somebody else's.
#[derive(Debug, Default)]
struct Known {
    configured: TrustBundle,
    /// All that the authority ever named.
    announced_ever: TrustBundle,
    /// What it named last.
    announced: TrustBundle,
}

impl Trust {
    /// Trust in these roots.
    pub fn new(configured: TrustBundle) -> Self {
        let current = Arc::new(configured.clone());
        Self(Arc::new(Inner {
            current: ArcSwap::new(Arc::clone(&current)),
            changes: watch::Sender::new(current),
            known: std::sync::Mutex::new(Known {
                configured,
                ..Known::default()
            }),
        }))
    }

    /// The roots in force now.
    pub fn current(&self) -> Arc<TrustBundle> {
        self.0.current.load_full()
    }

    /// Tells of every change; for who hands the roots on, such as to a webhook's configuration.
    pub fn watch(&self) -> watch::Receiver<Arc<TrustBundle>> {
        self.0.changes.subscribe()
    }

    /// Replaces the configured roots; `true` if the roots in force changed by it.
    pub fn configure(&self, bundle: TrustBundle) -> bool {
        self.change(|known| known.configured = bundle)
    }

    /// Takes over what the authority says its roots are; `true` if the roots in force changed by it.
    pub fn announced(&self, bundle: TrustBundle) -> bool {
        self.change(|known| {
            for anchor in &bundle.anchors {
                known.announced_ever.add(anchor.clone());
            }
            known.announced = bundle;
        })
    }

    fn change(&self, change: impl FnOnce(&mut Known)) -> bool {
        let mut known = self
            .0
            .known
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut known);
        let mut effective = known.announced.clone();
        for anchor in &known.configured.anchors {
            // Named once and not any more: withdrawn.
            if !known.announced_ever.contains(anchor) {
                effective.add(anchor.clone());
            }
        }
        if effective.same(&self.0.current.load()) {
            return false;
        }
        let effective = Arc::new(effective);
        self.0.current.store(Arc::clone(&effective));
        self.0.changes.send_replace(effective);
        true
    }
}
