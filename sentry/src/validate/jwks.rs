//! Tokens signed by somebody whose public keys are known.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use outrigger_identity::{SpiffeId, crypto};
use outrigger_model::GoDuration;
use outrigger_proto::sentry::v1::SignCertificateRequest;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Refusal, Validated, Validator, common};
use crate::jws::{self, KeySet, TokenError};

/// How far clocks may differ.
const SKEW: i64 = 5 * 60;
/// How often a file is looked at.
const FILE_POLL: Duration = Duration::from_secs(1);
/// Larger key sets are refused.
const MAX_SET: usize = 1 << 20;

/// Where the keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwksSource {
    /// Asked for again and again.
    Url(http::Uri),
    /// Looked at again and again.
    File(PathBuf),
    /// Here they are.
    Inline(String),
}

/// Options of the validator (`spec.mtls.tokenValidators[].options`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksOptions {
    /// Where the keys are.
    pub source: JwksSource,
    /// PEM of the authority of the URL's server, if it is a private one.
    pub ca_certificate: Option<String>,
    /// The URL is asked no more often.
    pub min_refresh: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
}

impl JwksOptions {
    /// From the Configuration's map.
    ///
    /// # Errors
    /// Which option is wrong, and how it should be.
    pub fn read(options: &BTreeMap<String, serde_json::Value>) -> Result<Self, String> {
        let known = ["source", "cacertificate", "minrefreshinterval", "requesttimeout"];
        let find = |name: &str| {
            let mut found = options.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
            found.next().map(|(_, value)| value)
        };
        if let Some(unknown) = options
            .keys()
            .find(|key| !known.contains(&key.to_ascii_lowercase().as_str()))
        {
            tracing::warn!(target: "dapr.sentry", "token validator jwks: option {unknown:?} is unknown and ignored");
        }
        let duration = |name: &str, default: Duration| match find(name) {
            None => Ok(default),
            Some(value) => match (value.as_u64(), value.as_str()) {
                (Some(seconds), _) => Ok(Duration::from_secs(seconds)),
                (None, Some(text)) => text
                    .parse::<u64>()
                    .map(Duration::from_secs)
                    .ok()
                    .or_else(|| GoDuration::parse(text).ok().and_then(GoDuration::to_std))
                    .ok_or_else(|| {
                        format!("{name}: {text:?} is no duration like 10m and no number of seconds")
                    }),
                _ => Err(format!(
                    "{name} must be a duration like 10m or a number of seconds"
                )),
            },
        };
        let source = find("source")
            .and_then(|value| value.as_str())
            .unwrap_or_default()
            .trim();
        if source.is_empty() {
            return Err("option 'source' is required: a URL, the path of a file, or a JWKS".to_owned());
        }
        Ok(Self {
            source: source_of(source)?,
            ca_certificate: find("caCertificate")
                .and_then(|value| value.as_str())
                .filter(|text| !text.is_empty())
                .map(str::to_owned),
            min_refresh: duration("minRefreshInterval", Duration::from_mins(10))?.max(Duration::from_secs(1)),
            timeout: duration("requestTimeout", Duration::from_secs(30))?.max(Duration::from_millis(1)),
        })
    }
}

fn source_of(text: &str) -> Result<JwksSource, String> {
    if text.starts_with("http://") || text.starts_with("https://") {
        let uri = text
            .parse()
            .map_err(|error| format!("source: {text:?} is no URL: {error}"))?;
        return Ok(JwksSource::Url(uri));
    }
    if text.starts_with('{') {
        return Ok(JwksSource::Inline(text.to_owned()));
    }
    if let Some(json) = STANDARD
        .decode(text)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .filter(|json| json.trim_start().starts_with('{'))
    {
        return Ok(JwksSource::Inline(json));
    }
    Ok(JwksSource::File(text.into()))
}

type Https = Client<HttpsConnector<HttpConnector>, http_body_util::Empty<bytes::Bytes>>;

/// Verifies tokens with a key set. Cheap to clone.
#[derive(Clone)]
pub struct Jwks(Arc<Inner>);

struct Inner {
    audience: String,
    options: JwksOptions,
    keys: ArcSwap<KeySet>,
    client: Option<Https>,
    /// When the URL was asked last; held while it is being asked.
    asked: Mutex<Option<Instant>>,
}

impl Jwks {
    /// Reads the keys.
    ///
    /// # Errors
    /// If they cannot be had.
    pub async fn start(options: JwksOptions, sentry: &SpiffeId) -> Result<Self, String> {
        let client = match &options.source {
            JwksSource::Url(_) => Some(client(options.ca_certificate.as_deref())?),
            _ => None,
        };
        let jwks = Self(Arc::new(Inner {
            audience: sentry.to_string(),
            options,
            keys: ArcSwap::default(),
            client,
            asked: Mutex::new(None),
        }));
        let keys = jwks.read().await?;
        *jwks.0.asked.lock().await = Some(Instant::now());
        jwks.0.keys.store(Arc::new(keys));
        Ok(jwks)
    }

    /// Keeps the keys up to date; never ends.
    pub async fn keep(self) {
        let pause = match &self.0.options.source {
            JwksSource::Inline(_) => return std::future::pending().await,
            JwksSource::File(_) => FILE_POLL,
            JwksSource::Url(_) => self.0.options.min_refresh.max(Duration::from_mins(10)),
        };
        let mut said = None;
        loop {
            tokio::time::sleep(pause).await;
            match self.read().await {
                Ok(keys) => {
                    said = None;
                    self.0.keys.store(Arc::new(keys));
                }
                Err(problem) => {
                    if said.as_ref() != Some(&problem) {
                        tracing::error!(
                            target: "dapr.sentry.identity.jwks",
                            "the key set cannot be refreshed, the one before stays in force: {problem}"
                        );
                        said = Some(problem);
                    }
                }
            }
        }
    }

    async fn read(&self) -> Result<KeySet, String> {
        let text = match &self.0.options.source {
            JwksSource::Inline(text) => text.clone(),
            JwksSource::File(path) => tokio::fs::read_to_string(path)
                .await
                .map_err(|error| format!("{} cannot be read: {error}", path.display()))?,
            JwksSource::Url(uri) => tokio::time::timeout(self.0.options.timeout, self.fetch(uri))
                .await
                .map_err(|_| format!("{uri} gave no answer within {:?}", self.0.options.timeout))??,
        };
        KeySet::parse(&text).map_err(|error| format!("the JWKS cannot be used: {error}"))
    }

    async fn fetch(&self, uri: &http::Uri) -> Result<String, String> {
        let client = self.0.client.as_ref().ok_or("no client")?;
        let response = client
            .get(uri.clone())
            .await
            .map_err(|error| format!("{uri}: {error}"))?;
        if !response.status().is_success() {
            return Err(format!("{uri} answered {}", response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_SET)
            .collect()
            .await
            .map_err(|error| format!("{uri}: {error}"))?;
        String::from_utf8(body.to_bytes().to_vec()).map_err(|_| format!("{uri} answered no text"))
    }

    /// A key that is not known may be new: the URL is asked again, but not too often.
    async fn refresh_for(&self, kid: &str) {
        if !matches!(self.0.options.source, JwksSource::Url(_)) {
            return;
        }
        let mut asked = self.0.asked.lock().await;
        if self.0.keys.load().has(kid) || asked.is_some_and(|at| at.elapsed() < self.0.options.min_refresh) {
            return;
        }
        *asked = Some(Instant::now());
        match self.read().await {
            Ok(keys) => self.0.keys.store(Arc::new(keys)),
            Err(problem) => {
                tracing::error!(target: "dapr.sentry.identity.jwks", "the key set cannot be refreshed: {problem}");
            }
        }
    }
}

fn client(ca: Option<&str>) -> Result<Https, String> {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(pem) = ca {
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|error| format!("caCertificate: {error}"))?;
            roots
                .add(certificate)
                .map_err(|error| format!("caCertificate: {error}"))?;
        }
        if roots.is_empty() {
            return Err("caCertificate holds no PEM block of type CERTIFICATE".to_owned());
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let tls = rustls::ClientConfig::builder_with_provider(crypto::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

#[async_trait]
impl Validator for Jwks {
    async fn validate(&self, request: &SignCertificateRequest) -> Result<Validated, Refusal> {
        if request.token.is_empty() {
            return Err(Refusal::new("the request does not contain a token"));
        }
        let trust_domain = common(request)?;
        let subject = SpiffeId::workload_id(&trust_domain, &request.namespace, &request.id)
            .map_err(|error| Refusal(format!("failed to construct SPIFFE ID for requestor: {error}")))?;
        let refused = |error: TokenError| Refusal(format!("token validation failed: {error}"));
        let mut claims = self.0.keys.load().verify(&request.token);
        if let Err(TokenError::UnknownKey(kid)) = &claims {
            self.refresh_for(kid).await;
            claims = self.0.keys.load().verify(&request.token);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        jws::check_claims(
            &claims.map_err(refused)?,
            now,
            SKEW,
            &self.0.audience,
            &subject.to_string(),
        )
        .map_err(refused)?;
        Ok(Validated {
            trust_domain,
            images: None,
        })
    }
}
