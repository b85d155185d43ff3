//! Who asks: validators of requests (contract `sentry`, section 5).

mod insecure;
mod jwks;
mod kubernetes;

use async_trait::async_trait;
use outrigger_identity::TrustDomain;
use outrigger_proto::sentry::v1::SignCertificateRequest;
use outrigger_proto::sentry::v1::sign_certificate_request::TokenValidator;

pub use insecure::Insecure;
pub use jwks::{Jwks, JwksOptions, JwksSource};
pub use kubernetes::Kubernetes;

/// Longest id of an app, in bytes.
const MAX_ID: usize = 64;

/// Who was found to be asking, besides namespace and id of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validated {
    /// Trust domain of the certificate.
    pub trust_domain: TrustDomain,
    /// Images of the pod's containers as JSON.
    pub images: Option<Vec<u8>>,
}

/// Why a request is refused; told to who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub String);

impl Refusal {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// Checks who asks.
#[async_trait]
pub trait Validator: Send + Sync {
    /// Who asks, or why it is refused.
    async fn validate(&self, request: &SignCertificateRequest) -> Result<Validated, Refusal>;
}

/// The validators in use.
#[derive(Default)]
pub struct Validators {
    enabled: Vec<(TokenValidator, Box<dyn Validator>)>,
    default: Option<TokenValidator>,
}

/// Which validator a request cannot have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoValidator {
    /// It names none and there is no default.
    Unnamed,
    /// It names one that is not in use.
    NotEnabled,
}

impl NoValidator {
    /// Upstream's words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Unnamed => "a validator name must be specified in this environment",
            Self::NotEnabled => "the requested validator is not enabled",
        }
    }
}

impl Validators {
    /// Adds one.
    pub fn add(&mut self, name: TokenValidator, validator: impl Validator + 'static, is_default: bool) {
        self.enabled.push((name, Box::new(validator)));
        if is_default {
            self.default = Some(name);
        }
    }

    /// The one for a request.
    ///
    /// # Errors
    /// If there is none.
    pub fn find(&self, request: &SignCertificateRequest) -> Result<&dyn Validator, NoValidator> {
        let named = TokenValidator::try_from(request.token_validator).map_err(|_| NoValidator::NotEnabled)?;
        let name = if named == TokenValidator::Unknown {
            self.default.ok_or(NoValidator::Unnamed)?
        } else {
            named
        };
        let found = self.enabled.iter().find(|(known, _)| *known == name);
        found
            .map(|(_, validator)| &**validator)
            .ok_or(NoValidator::NotEnabled)
    }
}

/// What every validator checks first; the trust domain asked for.
fn common(request: &SignCertificateRequest) -> Result<TrustDomain, Refusal> {
    let mut wrong = Vec::new();
    if request.id.is_empty() {
        wrong.push("parameter app-id cannot be empty");
    } else if request.id.contains('.') {
        wrong.push("parameter app-id cannot contain dots");
    }
    if request.id.len() > MAX_ID {
        wrong.push("app ID must be 64 characters or less");
    }
    if request.certificate_signing_request.is_empty() {
        wrong.push("CSR is required");
    }
    if request.namespace.is_empty() {
        wrong.push("namespace is required");
    }
    if !wrong.is_empty() {
        return Err(Refusal(format!("invalid request: {}", wrong.join("\n"))));
    }
    if request.trust_domain.is_empty() {
        return Ok(TrustDomain::public());
    }
    TrustDomain::from_id_or_name(&request.trust_domain).map_err(|error| Refusal(error.to_string()))
}
