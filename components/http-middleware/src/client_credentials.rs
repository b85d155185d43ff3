//! `middleware.http.oauth2clientcredentials`: adds a token that the sidecar gets for itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use http::{HeaderName, HeaderValue, Request, Response};
use outrigger_client_tls::TlsSettings;
use outrigger_components_api::metadata::Decoder;
use outrigger_components_api::middleware::{Body, HttpMiddleware, Next, full};
use outrigger_components_api::{InitContext, InitError};
use outrigger_http_client::HttpClient;
use tokio::time::Instant;

use crate::paths::PathFilter;
use crate::token::{Style, Token, TokenServer, escape};

/// A token is fetched anew this long before its end.
const MARGIN: Duration = Duration::from_secs(10);
/// The life of a token whose server does not say how long it lives.
const UNKNOWN_LIFE: Duration = Duration::from_secs(3600);

/// A source of tokens for requests.
#[derive(Debug)]
pub struct ClientCredentials {
    server: Arc<TokenServer>,
    /// What is asked for.
    form: Arc<str>,
    header: HeaderName,
    path_filter: PathFilter,
    kept: Mutex<Kept>,
}

/// What was got, until when it is of use, and whoever is getting more.
#[derive(Debug, Default)]
struct Kept {
    token: Option<(HeaderValue, Instant)>,
    attempt: Option<WeakShared<Attempt>>,
}

/// One attempt for all who wait for it; it goes on as long as one of them does.
type Attempt = BoxFuture<'static, Result<(HeaderValue, Instant), Arc<str>>>;

impl ClientCredentials {
    /// Reads the settings; the token is fetched by the first request.
    ///
    /// # Errors
    /// Names what is missing or wrong.
    pub fn new(context: &InitContext) -> Result<Self, InitError> {
        let mut decoder = Decoder::new(&context.properties)?;
        let text = |name| decoder.text(&[name]).unwrap_or_default().to_owned();
        let (id, secret, scopes) = (text("clientID"), text("clientSecret"), text("scopes"));
        let (token_url, header) = (text("tokenURL"), text("headerName"));
        let (more, filter) = (text("endpointParamsQuery"), text("pathFilter"));
        let style = decoder
            .integer(&["authStyle"])
            .unwrap_or(decoder.default_of("authStyle", 0));
        decoder.finish()?;
        for (name, value) in [
            ("headerName", &header),
            ("clientID", &id),
            ("clientSecret", &secret),
            ("scopes", &scopes),
            ("tokenURL", &token_url),
        ] {
            if value.is_empty() {
                return Err(InitError(format!(
                    "metadata errors: parameter '{name}' needs to be set"
                )));
            }
        }
        let style = match style {
            0 => Style::Auto,
            1 => Style::Body,
            2 => Style::Header,
            _ => {
                return Err(InitError::new(
                    "metadata errors: parameter 'authStyle' can only have the values 0,1,2",
                ));
            }
        };
        let header = HeaderName::from_bytes(header.as_bytes())
            .map_err(|_| InitError(format!("headerName {header:?} is no header name")))?;
        let client =
            HttpClient::new(&TlsSettings::default()).map_err(|error| InitError(error.to_string()))?;
        let mut form = format!(
            "grant_type=client_credentials&scope={}",
            escape(&scopes.replace(',', " "))
        );
        if !more.is_empty() {
            form.push('&');
            form.push_str(&more);
        }
        Ok(Self {
            server: Arc::new(TokenServer {
                client,
                url: token_url,
                id,
                secret,
                style,
            }),
            form: form.into(),
            header,
            path_filter: PathFilter::new(&filter)?,
            kept: Mutex::default(),
        })
    }

    /// The header's value. Requests that need a new one at the same time share one attempt and what came of it, good or
    /// bad: nobody waits for a dead server longer than one attempt takes.
    async fn token(&self) -> Result<HeaderValue, Arc<str>> {
        let attempt = {
            let mut kept = self.kept();
            if let Some((value, end)) = &kept.token
                && Instant::now() < *end
            {
                return Ok(value.clone());
            }
            if let Some(under_way) = kept.attempt.as_ref().and_then(WeakShared::upgrade) {
                under_way
            } else {
                let attempt = self.attempt();
                kept.attempt = attempt.downgrade();
                attempt
            }
        };
        let result = attempt.clone().await;
        let mut kept = self.kept();
        let current = kept.attempt.as_ref().and_then(WeakShared::upgrade);
        if current.is_some_and(|current| current.ptr_eq(&attempt)) {
            kept.attempt = None;
            kept.token = result.as_ref().ok().cloned();
        }
        result.map(|(value, _)| value)
    }

    fn attempt(&self) -> Shared<Attempt> {
        let (server, form) = (self.server.clone(), self.form.clone());
        let attempt = async move {
            let Token { value, life } = server.grant(&form).await?;
            let life = life.unwrap_or(UNKNOWN_LIFE).saturating_sub(MARGIN);
            Ok((value, Instant::now() + life))
        };
        attempt.boxed().shared()
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl HttpMiddleware for ClientCredentials {
    async fn handle(&self, mut request: Request<Body>, next: Next<'_>) -> Response<Body> {
        if !self.path_filter.takes(request.uri().path()) {
            return next(request).await;
        }
        match self.token().await {
            Ok(token) => {
                request.headers_mut().insert(self.header.clone(), token);
                next(request).await
            }
            // Dapr ends the request with an empty 200 here, and so do we: the request is not passed on.
            Err(error) => {
                tracing::error!(%error, "error acquiring token; the request is not passed on");
                Response::new(full(Bytes::new()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use outrigger_components_api::testing::init_context;

    #[tokio::test]
    async fn a_token_is_fetched_once_and_added() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let context = init_context(
            "cc",
            [
                ("clientID", "me"),
                ("clientSecret", "s:&"),
                ("scopes", "a,b"),
                ("tokenURL", &url),
                ("headerName", "X-Auth"),
                ("endpointParamsQuery", "p=1"),
            ],
        );
        let middleware = ClientCredentials::new(&context).unwrap();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            let length = stream.read(&mut asked).await.unwrap();
            let body = r#"{"access_token":"t","token_type":"bearer","expires_in":60}"#;
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(asked[..length].to_vec()).unwrap()
        });
        for _ in 0..2 {
            let request = Request::get("/x").body(full("")).unwrap();
            let answer = middleware
                .handle(
                    request,
                    Box::new(|request| {
                        Box::pin(async move {
                            assert_eq!(request.headers()["x-auth"], "Bearer t");
                            Response::new(full("passed"))
                        })
                    }),
                )
                .await;
            assert_eq!(answer.status(), 200);
        }
        let asked = serving.await.unwrap();
        assert!(
            asked.contains("grant_type=client_credentials&scope=a+b&p=1"),
            "{asked}"
        );
        assert!(
            asked.contains(&format!("Basic {}", STANDARD.encode("me:s%3A%26"))),
            "{asked}"
        );
    }

    fn middleware(url: &str) -> ClientCredentials {
        let pairs = [
            ("clientID", "me"),
            ("clientSecret", "s"),
            ("scopes", "a"),
            ("tokenURL", url),
            ("headerName", "X-Auth"),
        ];
        ClientCredentials::new(&init_context("cc", pairs)).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_wait_share_what_came_of_one_attempt() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let middleware = middleware(&format!("http://{}/token", listener.local_addr().unwrap()));
        // Takes connections and says nothing, until told to close them.
        let (tell, mut told) = tokio::sync::watch::channel(0);
        let serving = tokio::spawn(async move {
            let mut silent = Vec::new();
            loop {
                tokio::select! {
                    taken = listener.accept() => {
                        silent.push(taken.unwrap());
                        tell.send_modify(|taken| *taken += 1);
                    }
                    () = tokio::time::sleep(Duration::from_secs(3600)) => return,
                }
            }
        });
        let begun = Instant::now();
        // The first one gives up; the others go on with what it began.
        let impatient = tokio::time::timeout(Duration::from_secs(1), middleware.token());
        let (impatient, others) = futures_util::future::join(
            impatient,
            futures_util::future::join_all((0..20).map(|_| middleware.token())),
        )
        .await;
        assert!(impatient.is_err());
        assert!(others.iter().all(Result::is_err), "{others:?}");
        // Twice ten seconds: by header and by body.
        assert!(
            begun.elapsed() <= Duration::from_secs(21),
            "{:?}",
            begun.elapsed()
        );
        assert!(*told.borrow_and_update() <= 2);
        // What failed is not kept.
        assert!(middleware.token().await.is_err());
        assert!(*told.borrow_and_update() > 2);
        serving.abort();
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = ClientCredentials::new(&init_context("cc", [("headerName", "x")])).unwrap_err();
        assert_eq!(error.0, "metadata errors: parameter 'clientID' needs to be set");
    }
}
