//! The client of sentry: a certificate for a key (contract `sentry`, sections 4 and 8).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use outrigger_proto::sentry::v1::ca_client::CaClient;
use outrigger_proto::sentry::v1::{SignCertificateRequest, SignCertificateResponse};
use tonic::Code;

use crate::LOG;
use crate::authorise::{Authorise, ControlPlane, Service};
use crate::clock::Clock;
use crate::dial::Dialer;
use crate::handshake::{H2, Handshaker, client_config};
use crate::source::{CertificateSource, Issued, Jwts, Reason, RequestError};
use crate::spiffe::TrustDomain;
use crate::token::TokenSource;
use crate::trust::{Trust, TrustBundle};

const ATTEMPTS: u32 = 5;
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);
/// Largest answer: chain, roots and tokens are some kilobytes.
const MAX_ANSWER: usize = 4 << 20;

/// What is asked of sentry.
#[derive(Debug, Clone)]
pub struct SentryOptions {
    /// `host:port`
    pub address: String,
    /// App id, or `dapr-…`; `SENTRY_LOCAL_IDENTITY` overrides it.
    pub id: String,
    /// Own namespace.
    pub namespace: String,
    /// Only services of the control plane ask for theirs.
    pub trust_domain: Option<TrustDomain>,
    /// Proof of identity.
    pub token: TokenSource,
    /// `--sentry-request-jwt-audiences`
    pub jwt_audiences: Vec<String>,
    /// Who sentry has to be.
    pub control_plane: ControlPlane,
}

/// Sentry, over a connection of its own for every request: it sees the roots in force.
pub(crate) struct SentryClient {
    options: SentryOptions,
    dialer: Dialer,
}

impl SentryClient {
    pub(crate) fn new(options: SentryOptions, trust: &Trust, clock: Arc<dyn Clock>) -> Self {
        let sentry = Authorise::service(&options.control_plane, Service::Sentry);
        let config = client_config(trust, clock, None, sentry, &[H2]);
        Self {
            options,
            dialer: Dialer::new(Handshaker::tls(Arc::new(config))),
        }
    }

    async fn message(&self, csr: &str) -> Result<SignCertificateRequest, RequestError> {
        let (token, validator) = self.options.token.read().await?;
        let trust_domain = self.options.trust_domain.as_ref();
        Ok(SignCertificateRequest {
            id: self.options.id.clone(),
            token,
            trust_domain: trust_domain.map(ToString::to_string).unwrap_or_default(),
            namespace: self.options.namespace.clone(),
            certificate_signing_request: csr.as_bytes().to_vec().into(),
            token_validator: validator.into(),
            jwt_audiences: self.options.jwt_audiences.clone(),
        })
    }

    /// One call on one connection.
    async fn attempt(
        &self,
        message: SignCertificateRequest,
    ) -> Result<SignCertificateResponse, RequestError> {
        let address = &self.options.address;
        let connecting = |error: String| {
            RequestError::new(
                Reason::Connection,
                format!(
                    "error establishing connection to sentry: {error}; check --sentry-address and the trust anchors"
                ),
            )
        };
        let endpoint = Dialer::endpoint(address).map_err(|error| connecting(error.to_string()))?;
        let channel = endpoint
            .connect_with_connector(self.dialer.clone())
            .await
            .map_err(|error| connecting(causes(&error)))?;
        CaClient::new(channel)
            .max_decoding_message_size(MAX_ANSWER)
            .sign_certificate(message)
            .await
            .map(tonic::Response::into_inner)
            .map_err(|status| {
                let reason = match status.code() {
                    Code::Unavailable | Code::ResourceExhausted => Reason::Connection,
                    _ => Reason::Sign,
                };
                let (code, text) = (status.code(), status.message());
                RequestError::new(
                    reason,
                    format!("error from sentry SignCertificate: rpc error: code = {code:?} desc = {text}"),
                )
            })
    }
}

#[async_trait]
impl CertificateSource for SentryClient {
    async fn request(&self, csr: &str) -> Result<Issued, RequestError> {
        let message = self.message(csr).await?;
        let mut attempt = 1;
        loop {
            let result = match tokio::time::timeout(ATTEMPT_TIMEOUT, self.attempt(message.clone())).await {
                Ok(result) => result,
                Err(_) => Err(RequestError::new(
                    Reason::Connection,
                    format!(
                        "sentry at {} did not answer within {ATTEMPT_TIMEOUT:?}",
                        self.options.address
                    ),
                )),
            };
            match result {
                Ok(answer) => return issued(&answer),
                // Sentry has refused: asking again changes nothing.
                Err(error) if error.reason != Reason::Connection || attempt >= ATTEMPTS => return Err(error),
                Err(error) => {
                    tracing::debug!(target: LOG, %error, attempt, "asking sentry again");
                    let pause = PAUSE * 2_u32.pow(attempt);
                    tokio::time::sleep(pause.mul_f64(rand::random_range(0.8..1.2))).await;
                    attempt += 1;
                }
            }
        }
    }
}

/// What a connection failed of, with the causes that tonic keeps below its own words.
fn causes(error: &tonic::transport::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = cause.to_string();
        if cause.downcast_ref::<crate::dial::DialError>().is_some() {
            break;
        }
        source = cause.source();
    }
    text
}

/// Reads sentry's answer.
fn issued(answer: &SignCertificateResponse) -> Result<Issued, RequestError> {
    let timestamp_is_valid = answer
        .valid_until
        .as_ref()
        .is_none_or(|time| (0..1_000_000_000).contains(&time.nanos));
    if !timestamp_is_valid {
        return Err(RequestError::new(
            Reason::Timestamp,
            "error parsing ValidUntil: the nanoseconds are out of range",
        ));
    }
    let roots = answer.trust_chain_certificates.concat();
    let roots = TrustBundle::from_pem(&roots).ok();
    Ok(Issued {
        chain_pem: answer.workload_certificate.to_vec(),
        roots,
        jwts: jwts(answer)?,
    })
}

fn jwts(answer: &SignCertificateResponse) -> Result<Jwts, RequestError> {
    let mut jwts = Jwts::default();
    let mut note = |claims: &Claims| {
        if let (Some(issued), Some(expires)) = (claims.issued, claims.expires) {
            let until = jwts_min(jwts.lifetime, expires);
            jwts.lifetime = Some((issued, until));
        }
    };
    let mut token = None;
    if let Some(text) = answer.jwt.as_ref().filter(|text| !text.is_empty()) {
        let claims = claims(text)?;
        if claims.audiences.is_empty() {
            return Err(RequestError::new(Reason::JwtAudience, "JWT audience is empty"));
        }
        note(&claims);
        token = Some(text.to_string());
    }
    let mut by_audience = BTreeMap::new();
    for (audience, text) in &answer.per_audience_jwts {
        let claims = claims(text)?;
        if claims.audiences.len() != 1 || claims.audiences[0] != *audience {
            return Err(RequestError::new(Reason::JwtAudience, "JWT audience mismatch"));
        }
        note(&claims);
        by_audience.insert(audience.clone(), text.to_string());
    }
    jwts.token = token;
    jwts.by_audience = by_audience;
    Ok(jwts)
}

fn jwts_min(before: Option<(i64, i64)>, expires: i64) -> i64 {
    before.map_or(expires, |(_, until)| until.min(expires))
}

/// The claims of a token that matter here.
#[derive(Debug, Default)]
struct Claims {
    audiences: Vec<String>,
    issued: Option<i64>,
    expires: Option<i64>,
}

/// Reads a token without checking its signature: it came over a verified connection from who signed it.
fn claims(token: &str) -> Result<Claims, RequestError> {
    let wrong = |text: &str| RequestError::new(Reason::JwtParse, format!("error parsing JWT: {text}"));
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(wrong("it has not three parts"));
    };
    let payload = URL_SAFE_NO_PAD
        .decode(payload.trim_end_matches('='))
        .map_err(|error| wrong(&error.to_string()))?;
    let claims: serde_json::Value =
        serde_json::from_slice(&payload).map_err(|error| wrong(&error.to_string()))?;
    let audiences = match &claims["aud"] {
        serde_json::Value::String(one) => vec![one.clone()],
        serde_json::Value::Array(several) => several
            .iter()
            .filter_map(|audience| audience.as_str().map(str::to_owned))
            .collect(),
        _ => Vec::new(),
    };
    // Seconds may come as a float.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a float saturates, and no token lives that long"
    )]
    let seconds = |name: &str| {
        claims[name]
            .as_i64()
            .or_else(|| claims[name].as_f64().map(|time| time as i64))
    };
    Ok(Claims {
        audiences,
        issued: seconds("iat"),
        expires: seconds("exp"),
    })
}
