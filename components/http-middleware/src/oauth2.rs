//! `middleware.http.oauth2`: sends a browser to log in, and then adds the token it came back with.
//!
//! Sessions live in memory, by a cookie, as in Dapr. Unlike there they are bounded: the oldest makes room. The cookie is
//! not readable for scripts, and `Secure` where the way to the sidecar is told to be encrypted (`forceHTTPS`).

mod sessions;

use async_trait::async_trait;
use http::header::{COOKIE, LOCATION, SET_COOKIE};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use outrigger_client_tls::TlsSettings;
use outrigger_components_api::metadata::Decoder;
use outrigger_components_api::middleware::{Body, HttpMiddleware, Next, full, refuse};
use outrigger_components_api::{InitContext, InitError};
use outrigger_http_client::HttpClient;
use percent_encoding::percent_decode_str;

use crate::paths::PathFilter;
use crate::token::{Style, Token, TokenServer, escape};
use sessions::{Begun, Sessions};

/// The name that Dapr's sessions have.
const COOKIE_NAME: &str = "gosessionid";

/// A login before everything else.
#[derive(Debug)]
pub struct OAuth2 {
    server: TokenServer,
    auth_url: String,
    redirect_url: String,
    scopes: String,
    header: HeaderName,
    force_https: bool,
    path_filter: PathFilter,
    sessions: Sessions,
}

impl OAuth2 {
    /// Reads the settings. Nobody is asked before the first request.
    ///
    /// # Errors
    /// Names what is missing or wrong.
    pub fn new(context: &InitContext) -> Result<Self, InitError> {
        let decoder = Decoder::new(&context.properties)?;
        let text = |name| decoder.text(&[name]).unwrap_or_default().to_owned();
        let (auth_url, header, filter) = (text("authURL"), text("authHeaderName"), text("pathFilter"));
        let force_https = decoder
            .boolean(&["forceHTTPS"])
            .unwrap_or(decoder.default_of("forceHTTPS", false));
        let (redirect_url, scopes) = (text("redirectURL"), text("scopes").replace(',', " "));
        let server = TokenServer {
            client: HttpClient::new(&TlsSettings::default()).map_err(|error| InitError(error.to_string()))?,
            url: text("tokenURL"),
            id: text("clientID"),
            secret: text("clientSecret"),
            style: Style::Auto,
        };
        decoder.finish()?;
        // Dapr takes a component without them and fails at the first request.
        for (name, value) in [
            ("clientID", &server.id),
            ("authURL", &auth_url),
            ("tokenURL", &server.url),
            ("authHeaderName", &header),
        ] {
            if value.is_empty() {
                return Err(InitError(format!(
                    "metadata errors: parameter '{name}' needs to be set"
                )));
            }
        }
        for (name, url) in [("authURL", &auth_url), ("tokenURL", &server.url)] {
            let absolute = url
                .parse::<Uri>()
                .is_ok_and(|uri| uri.scheme().is_some() && uri.host().is_some());
            if !absolute {
                return Err(InitError(format!(
                    "{name} {url:?} is no URL: give e.g. https://login.example/{name}"
                )));
            }
        }
        Ok(Self {
            server,
            auth_url,
            redirect_url,
            scopes,
            header: HeaderName::from_bytes(header.as_bytes())
                .map_err(|_| InitError(format!("authHeaderName {header:?} is no header name")))?,
            force_https,
            path_filter: PathFilter::new(&filter)?,
            sessions: Sessions::default(),
        })
    }

    /// Where the browser logs in.
    fn login_url(&self, state: &str) -> String {
        let glue = if self.auth_url.contains('?') { '&' } else { '?' };
        let mut url = format!(
            "{}{glue}access_type=offline&client_id={}",
            self.auth_url,
            escape(&self.server.id)
        );
        if !self.redirect_url.is_empty() {
            url.push_str(&format!("&redirect_uri={}", escape(&self.redirect_url)));
        }
        url.push_str("&response_type=code");
        if !self.scopes.is_empty() {
            url.push_str(&format!("&scope={}", escape(&self.scopes)));
        }
        format!("{url}&state={}", escape(state))
    }

    /// Begins a login; the session's cookie goes with the answer.
    fn begin(&self, session: Option<String>, request: &Request<Body>) -> Response<Body> {
        let target = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let host = request.uri().authority().map(ToString::to_string).or_else(|| {
            let host = request.headers().get(http::header::HOST)?;
            host.to_str().ok().map(str::to_owned)
        });
        let target = match host {
            Some(host) if self.force_https => format!("https://{host}{target}"),
            _ => target.to_owned(),
        };
        let Begun { session, state } = self.sessions.begin(session, target);
        let mut answer = redirect(&self.login_url(&state));
        let secure = if self.force_https { "; Secure" } else { "" };
        let cookie = format!("{COOKIE_NAME}={session}; Path=/; HttpOnly; SameSite=Lax{secure}");
        if let Ok(cookie) = HeaderValue::try_from(cookie) {
            answer.headers_mut().insert(SET_COOKIE, cookie);
        }
        answer
    }

    /// Ends a login: the browser is back with a state and a code.
    async fn finish(&self, session: Option<&str>, state: &str, code: Option<String>) -> Response<Body> {
        let Some((expected, target)) = session.and_then(|session| self.sessions.begun(session)) else {
            tracing::warn!(
                "a login is finished that this sidecar has not begun: was it restarted meanwhile?"
            );
            return refuse(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error");
        };
        if state != expected {
            return refuse(StatusCode::BAD_REQUEST, "invalid state");
        }
        let Some(code) = code.filter(|code| !code.is_empty()) else {
            return refuse(StatusCode::BAD_REQUEST, "code not found");
        };
        let mut form = format!("code={}&grant_type=authorization_code", escape(&code));
        if !self.redirect_url.is_empty() {
            form.push_str(&format!("&redirect_uri={}", escape(&self.redirect_url)));
        }
        match self.server.grant(&form).await {
            Ok(Token { value, life }) => {
                self.sessions.end(session.unwrap_or_default(), value, life);
                redirect(&target)
            }
            Err(error) => {
                tracing::error!(%error, "Failed to exchange token");
                refuse(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")
            }
        }
    }
}

fn redirect(url: &str) -> Response<Body> {
    let mut answer = Response::new(full(""));
    *answer.status_mut() = StatusCode::FOUND;
    match HeaderValue::try_from(url) {
        Ok(url) => {
            answer.headers_mut().insert(LOCATION, url);
        }
        Err(_) => *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
    }
    answer
}

/// The session that a request belongs to.
fn cookie(request: &Request<Body>) -> Option<String> {
    let lines = request
        .headers()
        .get_all(COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok());
    let mut pairs = lines
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs
        .find(|(name, _)| *name == COOKIE_NAME)
        .map(|(_, value)| value.to_owned())
}

fn parameter(request: &Request<Body>, wanted: &str) -> Option<String> {
    let query = request.uri().query()?;
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(name, _)| *name == wanted)?;
    Some(
        percent_decode_str(&value.replace('+', " "))
            .decode_utf8_lossy()
            .into_owned(),
    )
}

#[async_trait]
impl HttpMiddleware for OAuth2 {
    async fn handle(&self, mut request: Request<Body>, next: Next<'_>) -> Response<Body> {
        if !self.path_filter.takes(request.uri().path()) {
            return next(request).await;
        }
        let session = cookie(&request);
        if let Some(value) = session
            .as_deref()
            .and_then(|session| self.sessions.token(session))
        {
            // What the caller says itself must not stand beside it.
            request.headers_mut().insert(self.header.clone(), value);
            return next(request).await;
        }
        match parameter(&request, "state").filter(|state| !state.is_empty()) {
            None => self.begin(session, &request),
            Some(state) => {
                let code = parameter(&request, "code");
                self.finish(session.as_deref(), &state, code).await
            }
        }
    }
}

#[cfg(test)]
mod tests;
