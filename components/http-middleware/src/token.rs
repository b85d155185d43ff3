//! Tokens from an OAuth2 token endpoint (RFC 6749), asked for as Go's client asks.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request};
use outrigger_http_client::{HttpClient, Limits};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

const FORM: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');
const TIMEOUT: Duration = Duration::from_secs(10);

/// As Go's `url.QueryEscape`.
pub(crate) fn escape(text: &str) -> String {
    utf8_percent_encode(text, FORM).to_string().replace("%20", "+")
}

/// How a client says who it is (RFC 6749, section 2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// The header first; if that gives no token, the body.
    Auto,
    Body,
    Header,
}

/// Who asks for tokens, and where.
pub(crate) struct TokenServer {
    pub(crate) client: HttpClient,
    pub(crate) url: String,
    pub(crate) id: String,
    pub(crate) secret: String,
    pub(crate) style: Style,
}

/// What was given.
pub(crate) struct Token {
    /// Kind and token, as a header's value.
    pub(crate) value: HeaderValue,
    /// How long it is of use, if the server says so.
    pub(crate) life: Option<Duration>,
}

impl std::fmt::Debug for TokenServer {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenServer")
            .field("id", &self.id)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl TokenServer {
    /// The token for a grant: the form without the client's id and secret.
    ///
    /// # Errors
    /// Why there is none, for the log.
    pub(crate) async fn grant(&self, form: &str) -> Result<Token, String> {
        if self.style != Style::Body {
            match self.ask(form.to_owned(), false).await {
                Err(_) if self.style == Style::Auto => {}
                result => return result,
            }
        }
        let (id, secret) = (escape(&self.id), escape(&self.secret));
        self.ask(format!("{form}&client_id={id}&client_secret={secret}"), true)
            .await
    }

    async fn ask(&self, form: String, is_identified: bool) -> Result<Token, String> {
        let mut request = Request::post(&self.url)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Bytes::from(form))
            .map_err(text)?;
        if !is_identified {
            let pair = format!("{}:{}", escape(&self.id), escape(&self.secret));
            let value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair))).map_err(text)?;
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let limits = Limits {
            timeout: Some(TIMEOUT),
            follow: false,
            ..Limits::default()
        };
        let answer = self.client.call(request, limits).await.map_err(text)?;
        if !answer.status().is_success() {
            return Err(format!(
                "the token server answered with status {}",
                answer.status()
            ));
        }
        let value = outrigger_gojson::parse(answer.body()).map_err(text)?;
        let token = value
            .get_str("access_token")
            .filter(|token| !token.is_empty())
            .ok_or("the token server's answer has no access_token")?;
        // Go spells the three known kinds its own way and the others as they come.
        let kind = match value.get_str("token_type").unwrap_or_default() {
            kind if kind.is_empty() || kind.eq_ignore_ascii_case("bearer") => "Bearer",
            kind if kind.eq_ignore_ascii_case("mac") => "MAC",
            kind if kind.eq_ignore_ascii_case("basic") => "Basic",
            kind => kind,
        };
        let life = value
            .get("expires_in")
            .and_then(|life| life.as_f64().or_else(|| life.as_str()?.parse().ok()))
            .filter(|life| *life > 0.0 && life.is_finite())
            .map(|life| Duration::from_secs_f64(life.min(1e9)));
        let mut value = HeaderValue::try_from(format!("{kind} {token}")).map_err(text)?;
        value.set_sensitive(true);
        Ok(Token { value, life })
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
