//! `middleware.http.bearer`: lets pass who shows a valid OpenID Connect token.

mod jwt;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use jwt::{Claims, Expected, Keys};

/// Keys are fetched anew at most this often, and no more often for a token whose key is unknown.
const REFRESH: Duration = Duration::from_secs(600);
const TIMEOUT: Duration = Duration::from_secs(10);

/// A check of bearer tokens.
#[derive(Debug)]
pub struct Bearer {
    expected: Expected,
    issuer: Arc<Issuer>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// Whose keys tokens are checked with.
#[derive(Debug)]
struct Issuer {
    client: HttpClient,
    jwks_url: String,
    known: watch::Sender<Known>,
    /// One task at a time fetches.
    fetching: AtomicBool,
}

#[derive(Debug, Clone)]
struct Known {
    keys: Arc<Keys>,
    /// When they were fetched, or could not be.
    since: Instant,
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
        let known = Known {
            keys: Arc::new(keys),
            since: Instant::now(),
        };
        Ok(Self {
            expected: Expected { issuer, audience },
            issuer: Arc::new(Issuer {
                client,
                jwks_url,
                known: watch::Sender::new(known),
                fetching: AtomicBool::new(false),
            }),
            tasks: context.tasks.clone(),
            shutdown: context.shutdown.clone(),
        })
    }

    /// Only a token whose key is unknown waits for keys, and only when it is time to fetch them.
    async fn is_valid(&self, token: &str) -> Result<(), String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let claims = Claims::read(token)?;
        claims.check(&self.expected, now.as_secs_f64())?;
        let known = self.issuer.known.borrow().clone();
        let is_old = known.since.elapsed() >= REFRESH;
        if is_old {
            self.refresh();
        }
        match claims.check_signature(&known.keys) {
            Err(_) if is_old => {
                let mut known_now = self.issuer.known.subscribe();
                let fetched = known_now.wait_for(|now| now.since != known.since).await;
                let keys = fetched.map_err(|error| error.to_string())?.keys.clone();
                claims.check_signature(&keys)
            }
            checked => checked,
        }
    }

    /// Has the keys fetched, if nobody does that already.
    fn refresh(&self) {
        if self.issuer.fetching.swap(true, Ordering::AcqRel) {
            return;
        }
        let (issuer, shutdown) = (self.issuer.clone(), self.shutdown.clone());
        self.tasks.spawn(async move {
            let fetched = shutdown
                .run_until_cancelled(fetch(&issuer.client, &issuer.jwks_url))
                .await;
            issuer.known.send_modify(|known| {
                known.since = Instant::now();
                match fetched {
                    Some(Ok(keys)) => known.keys = Arc::new(keys),
                    Some(Err(error)) => tracing::warn!(url = %issuer.jwks_url, %error,
                        "keys for bearer tokens cannot be fetched; the known ones stay"),
                    None => {}
                }
            });
            issuer.fetching.store(false, Ordering::Release);
        });
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

#[cfg(test)]
mod tests;
