//! `middleware.http.oauth2clientcredentials`: adds a token that the sidecar gets for itself.

use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Request, Response};
use outrigger_client_tls::TlsSettings;
use outrigger_components_api::metadata::Decoder;
use outrigger_components_api::middleware::{Body, HttpMiddleware, Next, full};
use outrigger_components_api::{InitContext, InitError};
use outrigger_http_client::{HttpClient, Limits};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use regex::Regex;
use tokio::sync::Mutex;
use tokio::time::Instant;

const FORM: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');
/// A token is fetched anew this long before its end.
const MARGIN: Duration = Duration::from_secs(10);
/// The life of a token whose server does not say how long it lives.
const UNKNOWN_LIFE: Duration = Duration::from_secs(3600);
const TIMEOUT: Duration = Duration::from_secs(10);

/// A source of tokens for requests.
#[derive(Debug)]
pub struct ClientCredentials {
    client: HttpClient,
    settings: Settings,
    path_filter: Option<Regex>,
    token: Mutex<Option<(HeaderValue, Instant)>>,
}

/// How the sidecar says who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// The header first; if that is refused, the body.
    Auto,
    Body,
    Header,
}

struct Settings {
    id: String,
    secret: String,
    scopes: String,
    token_url: String,
    header: HeaderName,
    more: String,
    style: Style,
}

impl std::fmt::Debug for Settings {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("id", &self.id)
            .field("token_url", &self.token_url)
            .finish_non_exhaustive()
    }
}

fn escape(text: &str) -> String {
    utf8_percent_encode(text, FORM).to_string().replace("%20", "+")
}

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
        let style = decoder.integer(&["authStyle"]).unwrap_or(0);
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
        let path_filter = (!filter.is_empty())
            .then(|| Regex::new(&filter))
            .transpose()
            .map_err(|error| InitError(format!("error compiling path filter regex: {error}")))?;
        let header = HeaderName::from_bytes(header.as_bytes())
            .map_err(|_| InitError(format!("headerName {header:?} is no header name")))?;
        let client =
            HttpClient::new(&TlsSettings::default()).map_err(|error| InitError(error.to_string()))?;
        Ok(Self {
            client,
            settings: Settings {
                id,
                secret,
                scopes: scopes.replace(',', " "),
                token_url,
                header,
                more,
                style,
            },
            path_filter,
            token: Mutex::default(),
        })
    }

    /// The header's value; one request fetches, the others wait for it.
    async fn token(&self) -> Result<HeaderValue, String> {
        let mut kept = self.token.lock().await;
        if let Some((value, end)) = &*kept
            && Instant::now() < *end
        {
            return Ok(value.clone());
        }
        let answer = match self.settings.style {
            Style::Body => self.fetch(Style::Body).await?,
            Style::Header => self.fetch(Style::Header).await?,
            Style::Auto => match self.fetch(Style::Header).await {
                Ok(answer) => answer,
                Err(_) => self.fetch(Style::Body).await?,
            },
        };
        let (value, life) = answer;
        *kept = Some((value.clone(), Instant::now() + life));
        Ok(value)
    }

    async fn fetch(&self, style: Style) -> Result<(HeaderValue, Duration), String> {
        let own = &self.settings;
        let mut form = format!("grant_type=client_credentials&scope={}", escape(&own.scopes));
        if style == Style::Body {
            form.push_str(&format!(
                "&client_id={}&client_secret={}",
                escape(&own.id),
                escape(&own.secret)
            ));
        }
        if !own.more.is_empty() {
            form.push('&');
            form.push_str(&own.more);
        }
        let mut request = Request::post(&own.token_url)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Bytes::from(form))
            .map_err(|error| error.to_string())?;
        if style == Style::Header {
            let pair = format!("{}:{}", escape(&own.id), escape(&own.secret));
            let value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair)))
                .map_err(|error| error.to_string())?;
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let limits = Limits {
            timeout: Some(TIMEOUT),
            follow: false,
            ..Limits::default()
        };
        let answer = self
            .client
            .call(request, limits)
            .await
            .map_err(|error| error.to_string())?;
        if !answer.status().is_success() {
            return Err(format!(
                "the token server answered with status {}",
                answer.status()
            ));
        }
        let value = outrigger_gojson::parse(answer.body()).map_err(|error| error.to_string())?;
        let token = value
            .get_str("access_token")
            .filter(|token| !token.is_empty())
            .ok_or("the token server's answer has no access_token")?;
        let kind = match value.get_str("token_type") {
            None | Some("") => "Bearer",
            Some(kind) if kind.eq_ignore_ascii_case("bearer") => "Bearer",
            Some(kind) => kind,
        };
        let life = value
            .get("expires_in")
            .and_then(|life| life.as_f64().or_else(|| life.as_str()?.parse().ok()))
            .filter(|life| *life > 0.0 && life.is_finite())
            .map_or(UNKNOWN_LIFE, |life| Duration::from_secs_f64(life.min(1e9)));
        let mut header =
            HeaderValue::try_from(format!("{kind} {token}")).map_err(|error| error.to_string())?;
        header.set_sensitive(true);
        Ok((header, life.saturating_sub(MARGIN)))
    }
}

#[async_trait]
impl HttpMiddleware for ClientCredentials {
    async fn handle(&self, mut request: Request<Body>, next: Next<'_>) -> Response<Body> {
        let path = request.uri().path();
        if self
            .path_filter
            .as_ref()
            .is_some_and(|filter| !filter.is_match(path))
        {
            return next(request).await;
        }
        match self.token().await {
            Ok(token) => {
                request.headers_mut().insert(self.settings.header.clone(), token);
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

    #[test]
    fn what_is_missing_is_named() {
        let error = ClientCredentials::new(&init_context("cc", [("headerName", "x")])).unwrap_err();
        assert_eq!(error.0, "metadata errors: parameter 'clientID' needs to be set");
    }
}
