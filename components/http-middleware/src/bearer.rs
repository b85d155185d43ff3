//! `middleware.http.bearer`: lets pass who shows a valid OpenID Connect token.

mod jwt;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Request, Response, StatusCode};
use outrigger_client_tls::TlsSettings;
use outrigger_components_api::metadata::Decoder;
use outrigger_components_api::middleware::{Body, HttpMiddleware, Next, refuse};
use outrigger_components_api::{InitContext, InitError};
use outrigger_gojson::Value;
use outrigger_http_client::{HttpClient, Limits};
use tokio::sync::{Mutex, RwLock};
use tokio::time::Instant;

use jwt::{Claims, Expected, Keys};

/// Keys are fetched anew at most this often, and no more often for a token whose key is unknown.
const REFRESH: Duration = Duration::from_secs(600);
const TIMEOUT: Duration = Duration::from_secs(10);

/// A check of bearer tokens.
#[derive(Debug)]
pub struct Bearer {
    client: HttpClient,
    jwks_url: String,
    expected: Expected,
    keys: RwLock<(Arc<Keys>, Instant)>,
    /// Held by the one request that fetches.
    fetching: Mutex<()>,
}

impl Bearer {
    /// Reads the settings and fetches the issuer's keys.
    ///
    /// # Errors
    /// A setting is missing, or the keys cannot be had.
    pub async fn new(context: &InitContext) -> Result<Self, InitError> {
        let decoder = Decoder::new(&context.properties)?;
        let text = |names: &[&str]| decoder.text(names).unwrap_or_default().to_owned();
        let issuer = text(&["issuer", "issuerURL"]);
        let audience = text(&["audience", "clientID"]);
        let given = text(&["jwksURL"]);
        decoder.finish()?;
        for (name, value) in [("issuer", &issuer), ("audience", &audience)] {
            if value.is_empty() {
                return Err(InitError(format!(
                    "metadata property '{name}' is required for the bearer middleware"
                )));
            }
        }
        let client =
            HttpClient::new(&TlsSettings::default()).map_err(|error| InitError(error.to_string()))?;
        let jwks_url = if given.is_empty() {
            discover(&client, &issuer).await?
        } else {
            given
        };
        let keys = fetch(&client, &jwks_url)
            .await
            .map_err(|error| InitError(format!("error retrieving JWKS: {error}")))?;
        Ok(Self {
            client,
            jwks_url,
            expected: Expected { issuer, audience },
            keys: RwLock::new((Arc::new(keys), Instant::now())),
            fetching: Mutex::new(()),
        })
    }

    async fn is_valid(&self, token: &str) -> Result<(), String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let claims = Claims::read(token)?;
        let (keys, since) = self.keys.read().await.clone();
        let keys = if since.elapsed() >= REFRESH {
            self.refresh(since).await
        } else {
            keys
        };
        claims.check_signature(&keys)?;
        claims.check(&self.expected, now.as_secs_f64())
    }

    /// The keys as they are now; the old ones if they cannot be had.
    async fn refresh(&self, known: Instant) -> Arc<Keys> {
        let _alone = self.fetching.lock().await;
        let (keys, since) = self.keys.read().await.clone();
        if since != known {
            return keys;
        }
        let keys = match fetch(&self.client, &self.jwks_url).await {
            Ok(keys) => Arc::new(keys),
            Err(error) => {
                tracing::warn!(url = %self.jwks_url, %error, "keys for bearer tokens cannot be fetched; the known ones stay");
                keys
            }
        };
        *self.keys.write().await = (keys.clone(), Instant::now());
        keys
    }
}

async fn get(client: &HttpClient, url: &str) -> Result<Value, String> {
    let request = Request::get(url)
        .body(Bytes::new())
        .map_err(|error| format!("{url} is no URL: {error}"))?;
    let limits = Limits {
        timeout: Some(TIMEOUT),
        ..Limits::default()
    };
    let answer = client
        .call(request, limits)
        .await
        .map_err(|error| error.to_string())?;
    if answer.status() != StatusCode::OK {
        return Err(format!("{url} answered with status {}", answer.status()));
    }
    outrigger_gojson::parse(answer.body()).map_err(|error| format!("{url} answered with no JSON: {error}"))
}

async fn fetch(client: &HttpClient, url: &str) -> Result<Keys, String> {
    let document = get(client, url).await?;
    Keys::read(&document).ok_or_else(|| format!("{url} answered with no key set"))
}

/// Asks the issuer where its keys are.
async fn discover(client: &HttpClient, issuer: &str) -> Result<String, InitError> {
    let url = format!(
        "{}/.well-known/openid-configuration",
        issuer.trim_end_matches('/')
    );
    let failed = |error: String| InitError(format!("error retrieving OpenID Connect configuration: {error}"));
    let document = get(client, &url).await.map_err(failed)?;
    match document.get_str("issuer") {
        Some(own) if own == issuer => {}
        own => {
            return Err(failed(format!(
                "the issuer calls itself {:?}, not {issuer:?}: give metadata issuer exactly as it does",
                own.unwrap_or_default()
            )));
        }
    }
    document
        .get_str("jwks_uri")
        .filter(|url| !url.is_empty())
        .map(str::to_owned)
        .ok_or_else(|| failed(format!("{url} names no jwks_uri")))
}

/// The token behind `Bearer `, in any case.
fn token<B>(request: &Request<B>) -> Option<&str> {
    let header = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[async_trait]
impl HttpMiddleware for Bearer {
    async fn handle(&self, request: Request<Body>, next: Next<'_>) -> Response<Body> {
        let valid = match token(&request) {
            Some(token) => self.is_valid(token).await,
            None => Err("there is no bearer token".to_owned()),
        };
        match valid {
            Ok(()) => next(request).await,
            Err(error) => {
                tracing::debug!(%error, "a request is refused by the bearer middleware");
                refuse(StatusCode::UNAUTHORIZED, "Unauthorized")
            }
        }
    }
}
