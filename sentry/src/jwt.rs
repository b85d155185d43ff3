//! Tokens that sentry issues beside certificates (contract `sentry`, section 6).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use outrigger_identity::KeyAlgorithm;
use rand::RngExt as _;
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::jws::{self, Algorithm};
use crate::key::{KeyError, Signer};

/// What tokens are to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtOptions {
    /// `iss`, if any.
    pub issuer: Option<String>,
    /// How they are signed.
    pub algorithm: Algorithm,
    /// `kid`; the key's thumbprint if none.
    pub key_id: Option<String>,
    /// How long they last.
    pub ttl: Duration,
}

/// Why tokens cannot be issued.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JwtError {
    /// The key is no use.
    #[error("the JWT signing key (--jwt-key-filename): {0}")]
    Key(#[from] KeyError),
    /// Key and algorithm do not go together.
    #[error(
        "--jwt-signing-algorithm {0} does not fit the JWT signing key; choose the algorithm of the key, or another key"
    )]
    Algorithm(&'static str),
    /// The published keys are no JSON.
    #[error("the JWKS (--jwks-filename) cannot be read: {0}")]
    Jwks(String),
    /// The published keys lack ours.
    #[error(
        "the JWKS (--jwks-filename) does not hold the public key of the JWT signing key; add it with \"use\": \"sig\", or remove both to have a new pair made"
    )]
    NotPublished,
}

/// Signs tokens.
#[derive(Debug, Clone)]
pub struct JwtIssuer {
    signer: Signer,
    key_id: String,
    options: JwtOptions,
    jwks: String,
}

/// A new key and its published form.
///
/// # Errors
/// If the system gives no randomness.
pub async fn generate(options: &JwtOptions) -> Result<(String, String), JwtError> {
    let key = KeyAlgorithm::Rsa2048
        .generate_aside()
        .await
        .map_err(|error| KeyError::Sign(error.to_string()))?;
    let jwks = published(&key.pem(), options)?;
    Ok((key.pem(), jwks))
}

/// The published form of a key.
///
/// # Errors
/// If the key is no use.
pub fn published(key: &str, options: &JwtOptions) -> Result<String, JwtError> {
    let signer = Signer::from_pem(key)?;
    let key_id = options.key_id.clone().or_else(|| jws::thumbprint(signer.spki()));
    key_id
        .and_then(|id| jws::key_set(signer.spki(), &id, options.algorithm))
        .ok_or(JwtError::NotPublished)
}

impl JwtIssuer {
    /// With a key and the set that it must be published in.
    ///
    /// # Errors
    /// If they do not belong together, or the algorithm does not fit.
    pub fn new(key: &str, jwks: &str, options: &JwtOptions) -> Result<Self, JwtError> {
        let signer = Signer::from_pem(key)?;
        if !options.algorithm.fits(signer.kind()) {
            return Err(JwtError::Algorithm(options.algorithm.name()));
        }
        let set: Value = serde_json::from_str(jwks).map_err(|error| JwtError::Jwks(error.to_string()))?;
        if !jws::holds(&set, signer.spki(), options.key_id.as_deref()) {
            return Err(JwtError::NotPublished);
        }
        let key_id = options.key_id.clone().or_else(|| jws::thumbprint(signer.spki()));
        Ok(Self {
            key_id: key_id.ok_or(JwtError::NotPublished)?,
            signer,
            options: options.clone(),
            jwks: jwks.to_owned(),
        })
    }

    /// The published keys.
    pub fn jwks(&self) -> &str {
        &self.jwks
    }

    /// A token for audiences.
    ///
    /// # Errors
    /// If the key does not sign.
    pub fn issue(
        &self,
        subject: &str,
        audiences: &[&str],
        now: SystemTime,
        skew: Duration,
    ) -> Result<String, KeyError> {
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        let now = seconds(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        let mut id = [0u8; 16];
        rand::rng().fill(&mut id);
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut claims = Map::new();
        claims.insert("aud".into(), json!(audiences));
        claims.insert("exp".into(), json!(now.saturating_add(seconds(self.options.ttl))));
        claims.insert("iat".into(), json!(now));
        if let Some(issuer) = &self.options.issuer {
            claims.insert("iss".into(), json!(issuer));
        }
        claims.insert("jti".into(), json!(id));
        claims.insert("nbf".into(), json!(now - seconds(skew)));
        claims.insert("sub".into(), json!(subject));
        claims.insert("use".into(), json!("sig"));
        let header = json!({"alg": self.options.algorithm.name(), "kid": self.key_id, "typ": "JWT"});
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(Value::Object(claims).to_string())
        );
        let signature = self.options.algorithm.sign(&self.signer, signed.as_bytes())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}
