//! A code for a token.

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
pub(super) fn escape(text: &str) -> String {
    utf8_percent_encode(text, FORM).to_string().replace("%20", "+")
}

/// Who asks for tokens, and where.
pub(super) struct Exchange {
    pub(super) client: HttpClient,
    pub(super) id: String,
    pub(super) secret: String,
    pub(super) scopes: String,
    pub(super) token_url: String,
    pub(super) redirect_url: String,
}

impl std::fmt::Debug for Exchange {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange")
            .field("id", &self.id)
            .field("token_url", &self.token_url)
            .finish_non_exhaustive()
    }
}

impl Exchange {
    /// The header's value and how long it is of use, if the server says so. Who asks stands in the header, and if that
    /// is refused in the body, as Go's client does it.
    pub(super) async fn run(&self, code: &str) -> Result<(HeaderValue, Option<Duration>), String> {
        match self.ask(code, false).await {
            Err(Refused::Status(_)) => self.ask(code, true).await.map_err(|error| error.to_string()),
            result => result.map_err(|error| error.to_string()),
        }
    }

    async fn ask(&self, code: &str, in_body: bool) -> Result<(HeaderValue, Option<Duration>), Refused> {
        let other = |error: &dyn std::fmt::Display| Refused::Other(error.to_string());
        let mut form = format!("code={}&grant_type=authorization_code", escape(code));
        if !self.redirect_url.is_empty() {
            form.push_str(&format!("&redirect_uri={}", escape(&self.redirect_url)));
        }
        if in_body {
            form.push_str(&format!(
                "&client_id={}&client_secret={}",
                escape(&self.id),
                escape(&self.secret)
            ));
        }
        let mut request = Request::post(&self.token_url)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Bytes::from(form))
            .map_err(|error| other(&error))?;
        if !in_body {
            let pair = format!("{}:{}", escape(&self.id), escape(&self.secret));
            let value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair)))
                .map_err(|error| other(&error))?;
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
            .map_err(|error| other(&error))?;
        if !answer.status().is_success() {
            return Err(Refused::Status(answer.status().as_u16()));
        }
        let value = outrigger_gojson::parse(answer.body()).map_err(|error| other(&error))?;
        let token = value.get_str("access_token").filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| other(&"the token server's answer has no access_token"))?;
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
        let mut header = HeaderValue::try_from(format!("{kind} {token}")).map_err(|error| other(&error))?;
        header.set_sensitive(true);
        Ok((header, life))
    }
}

/// Why there is no token.
#[derive(Debug)]
enum Refused {
    Status(u16),
    Other(String),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "the token server answered with status {status}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}
