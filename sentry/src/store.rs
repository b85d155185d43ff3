//! Where a bundle is kept: files, or a Secret with a ConfigMap beside it (contract `sentry`, section 2).

mod file;
mod kube;

use async_trait::async_trait;
use thiserror::Error;

use crate::bundle::Material;
use crate::rotation::News;

pub use file::FileStore;
pub use kube::KubeStore;

/// Names under which things are kept: files, or keys of the Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Trust anchors.
    pub ca: String,
    /// Issuer's chain.
    pub issuer_cert: String,
    /// Issuer's key.
    pub issuer_key: String,
    /// Key that signs tokens.
    pub jwt_key: String,
    /// Public keys of tokens.
    pub jwks: String,
}

/// The state of a change of roots; there only while one is under way.
pub const ROTATION: &str = "rotation.json";

/// What is kept.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Trust anchors.
    pub ca: Option<String>,
    /// Issuer's chain.
    pub issuer_cert: Option<String>,
    /// Issuer's key.
    pub issuer_key: Option<String>,
    /// Key that signs tokens.
    pub jwt_key: Option<String>,
    /// Public keys of tokens.
    pub jwks: Option<String>,
    /// A change of roots under way.
    pub rotation: Option<String>,
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents").finish_non_exhaustive()
    }
}

impl Contents {
    /// The bundle, if it is complete.
    pub fn material(&self) -> Option<Material> {
        Some(Material {
            ca: self.ca.clone()?,
            issuer_cert: self.issuer_cert.clone()?,
            issuer_key: self.issuer_key.clone()?,
        })
    }

    /// Puts a bundle in.
    pub fn set_material(&mut self, material: &Material) {
        self.ca = Some(material.ca.clone());
        self.issuer_cert = Some(material.issuer_cert.clone());
        self.issuer_key = Some(material.issuer_key.clone());
    }

    /// Names of the parts of a bundle that are there, of those that should be.
    pub fn partial(&self) -> Option<(Vec<&'static str>, Vec<&'static str>)> {
        let parts = [
            ("ca.crt", self.ca.is_some()),
            ("issuer.crt", self.issuer_cert.is_some()),
            ("issuer.key", self.issuer_key.is_some()),
        ];
        let (there, missing): (Vec<_>, Vec<_>) = parts.into_iter().partition(|(_, there)| *there);
        let names =
            |parts: Vec<(&'static str, bool)>| parts.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        (!there.is_empty() && !missing.is_empty()).then(|| (names(there), names(missing)))
    }
}

/// What was found, and what it takes to change it.
#[derive(Debug, Clone)]
pub struct Stored {
    /// What is kept.
    pub contents: Contents,
    /// What is published for others to trust; the same as `contents.ca` where nothing is published apart.
    pub published_ca: Option<String>,
    /// Public keys of tokens that are published.
    pub published_jwks: Option<String>,
    /// Which state this is; a change is refused if there is another by then.
    pub version: String,
}

/// Why nothing could be read or written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// Somebody else changed it in between: read again.
    #[error("it was changed by somebody else at the same time")]
    Conflict,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// Where a bundle is kept.
#[async_trait]
pub trait Store: Send + Sync {
    /// Reads all of it.
    async fn load(&self) -> Result<Stored, StoreError>;

    /// Replaces all of it, if it is still as it was read, and publishes the anchors.
    async fn save(&self, contents: &Contents, read: &Stored) -> Result<(), StoreError>;

    /// Publishes what `load` found in `contents`; for a store where this is a step of its own.
    async fn publish(&self, read: &Stored) -> Result<(), StoreError>;

    /// Tells those who look after the installation. `false` if that failed for now and may be tried again.
    async fn announce(&self, news: &News) -> bool;

    /// Where it is, for people.
    fn place(&self) -> String;
}
