//! Where certificates come from.

use std::collections::BTreeMap;

use async_trait::async_trait;
use thiserror::Error;

use crate::trust::TrustBundle;

/// What an authority answers to a request.
#[derive(Debug, Clone, Default)]
pub struct Issued {
    /// The chain in PEM: leaf, then its issuers.
    pub chain_pem: Vec<u8>,
    /// What the authority says its roots are, if it does.
    pub roots: Option<TrustBundle>,
    /// Tokens for others than Dapr, if the authority makes any.
    pub jwts: Jwts,
}

/// The JWT form of the identity (contract `sentry`, section 6).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Jwts {
    /// One token for all audiences.
    pub token: Option<String>,
    /// A token for each audience.
    pub by_audience: BTreeMap<String, String>,
    /// The earliest end of any of them, and when they were issued, in seconds since 1970.
    pub(crate) lifetime: Option<(i64, i64)>,
}

impl std::fmt::Debug for Jwts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jwts")
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("audiences", &self.by_audience.keys())
            .finish_non_exhaustive()
    }
}

/// Why no certificate came. Metrics tell the reasons apart (contract `observability`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No connection to the authority.
    Connection,
    /// No token to prove who we are.
    Token,
    /// The authority refused, or what it signed cannot be used.
    Sign,
    /// The answer's `valid_until` is no time.
    Timestamp,
    /// A JWT in the answer cannot be read.
    JwtParse,
    /// A JWT in the answer is for others.
    JwtAudience,
}

impl Reason {
    /// The label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Connection => "sentry_conn",
            Self::Token => "sentry_token",
            Self::Sign => "sign",
            Self::Timestamp => "invalid_ts",
            Self::JwtParse => "jwt_parse",
            Self::JwtAudience => "jwt_aud",
        }
    }
}

/// No certificate came.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text}")]
pub struct RequestError {
    /// Why, for metrics.
    pub reason: Reason,
    /// Why, for people.
    pub text: String,
}

impl RequestError {
    /// With a text.
    pub fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self {
            reason,
            text: text.into(),
        }
    }
}

/// An authority, as seen from a workload.
#[async_trait]
pub trait CertificateSource: Send + Sync {
    /// Has a key certified. `csr` is a request in PEM.
    async fn request(&self, csr: &str) -> Result<Issued, RequestError>;
}
