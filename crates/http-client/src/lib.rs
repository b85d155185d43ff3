//! HTTP calls of components to the world: bindings, token endpoints, key sets, registries.
//!
//! A call is bounded in time and size, follows redirects as Go's client does, and fails with Go's words. Whole bodies
//! only: what streams (invocation, the app channel) has clients of its own.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use outrigger_client_tls::TlsSettings;
use rustls_pki_types::ServerName;
use url::Url;

pub use outrigger_client_tls::{TlsError, Verify};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
const MAX_REDIRECTS: usize = 10;

/// Bounds of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the first byte sent to the last one read; `None` = none.
    pub timeout: Option<Duration>,
    /// Bytes of the answer's body that are kept; what comes after them is not read. `None` = all.
    pub max_body: Option<u64>,
    /// Whether a redirect is followed.
    pub follow: bool,
}

impl Default for Limits {
    /// 30 seconds, 4 MiB, redirects are followed.
    fn default() -> Self {
        Self {
            timeout: Some(Duration::from_secs(30)),
            max_body: Some(4 << 20),
            follow: true,
        }
    }
}

/// Why there is no answer; reads like Go's `Get "http://…": dial tcp …: connect: connection refused`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{verb} \"{url}\": {cause}")]
pub struct CallError {
    verb: String,
    url: String,
    cause: String,
}

impl CallError {
    fn new(method: &Method, url: impl std::fmt::Display, cause: impl Into<String>) -> Self {
        let lower = method.as_str().to_ascii_lowercase();
        let mut chars = lower.chars();
        let first = chars.next().map(|first| first.to_ascii_uppercase());
        Self {
            verb: first.into_iter().chain(chars).collect(),
            url: url.to_string(),
            cause: cause.into(),
        }
    }
}

/// A pool of connections with one set of TLS settings. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HttpClient {
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl HttpClient {
    /// A client with these settings.
    ///
    /// # Errors
    /// The TLS settings are of no use.
    pub fn new(tls: &TlsSettings) -> Result<Self, TlsError> {
        Self::with_server_name(tls, None)
    }

    /// A client that asks every server for this name in TLS, instead of the one in the URL.
    ///
    /// # Errors
    /// The TLS settings are of no use, or the name is none.
    pub fn with_server_name(tls: &TlsSettings, name: Option<&str>) -> Result<Self, TlsError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let builder = HttpsConnectorBuilder::new()
            .with_tls_config(tls.client()?)
            .https_or_http();
        let builder = match name {
            None => builder,
            Some(name) => {
                let name = ServerName::try_from(name.to_owned())
                    .map_err(|_| TlsError::new(format!("{name:?} is no name of a server")))?;
                builder.with_server_name_resolver(FixedServerNameResolver::new(name))
            }
        };
        let connector = builder.enable_http1().enable_http2().wrap_connector(tcp);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .http1_title_case_headers(true)
            .build(connector);
        Ok(Self { pool })
    }

    /// Sends a request and reads the answer.
    ///
    /// # Errors
    /// There is no complete answer within the limits. A status that tells of failure is an answer.
    pub async fn call(&self, request: Request<Bytes>, limits: Limits) -> Result<Response<Bytes>, CallError> {
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let running = self.follow(request, limits);
        match limits.timeout {
            None => running.await,
            Some(limit) => match tokio::time::timeout(limit, running).await {
                Ok(answer) => answer,
                Err(_) => Err(CallError::new(
                    &method,
                    uri,
                    "context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                )),
            },
        }
    }

    async fn follow(
        &self,
        mut request: Request<Bytes>,
        limits: Limits,
    ) -> Result<Response<Bytes>, CallError> {
        for _ in 0..=MAX_REDIRECTS {
            let next = limits.follow.then(|| Hop::of(&request));
            let (method, uri) = (request.method().clone(), request.uri().clone());
            let answer = self
                .pool
                .request(request.map(Full::new))
                .await
                .map_err(|error| CallError::new(&method, &uri, describe(&error, &uri)))?;
            match next.and_then(|hop| hop.next(&answer)) {
                Some(next) => request = next,
                None => {
                    let (parts, body) = answer.into_parts();
                    let body = read(body, limits.max_body)
                        .await
                        .map_err(|error| CallError::new(&method, &uri, error.to_string()))?;
                    return Ok(Response::from_parts(parts, body));
                }
            }
        }
        Err(CallError::new(
            request.method(),
            request.uri(),
            format!("stopped after {MAX_REDIRECTS} redirects"),
        ))
    }
}

/// A request that may have to be made elsewhere.
struct Hop {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Hop {
    fn of(request: &Request<Bytes>) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
            body: request.body().clone(),
        }
    }

    /// The request that a redirect asks for.
    fn next(mut self, answer: &Response<Incoming>) -> Option<Request<Bytes>> {
        let keeps = match answer.status() {
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => false,
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
            _ => return None,
        };
        let location = answer.headers().get(LOCATION)?.to_str().ok()?;
        let base = Url::parse(&self.uri.to_string()).ok()?;
        let target = base.join(location).ok()?;
        if !keeps {
            if self.method != Method::GET && self.method != Method::HEAD {
                self.method = Method::GET;
            }
            self.body = Bytes::new();
            self.headers.remove(CONTENT_TYPE);
            self.headers.remove(CONTENT_LENGTH);
        }
        if target.host() != base.host() || (base.scheme() == "https" && target.scheme() != "https") {
            for secret in [AUTHORIZATION, COOKIE, WWW_AUTHENTICATE] {
                self.headers.remove(secret);
            }
        }
        let mut request = Request::builder()
            .method(self.method)
            .uri(target.as_str())
            .body(self.body)
            .ok()?;
        *request.headers_mut() = self.headers;
        Some(request)
    }
}

async fn read(mut body: Incoming, limit: Option<u64>) -> Result<Bytes, hyper::Error> {
    let limit = limit.and_then(|limit| usize::try_from(limit).ok());
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            all.extend_from_slice(&data);
        }
        if let Some(limit) = limit
            && all.len() >= limit
        {
            all.truncate(limit);
            break;
        }
    }
    Ok(all.into())
}

/// The failure as Go words it.
fn describe(error: &hyper_util::client::legacy::Error, uri: &Uri) -> String {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut last = error.to_string();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::ConnectionRefused
        {
            let port = match (uri.port_u16(), uri.scheme_str()) {
                (Some(port), _) => port,
                (None, Some("https")) => 443,
                (None, _) => 80,
            };
            let host = uri.host().unwrap_or_default();
            return format!("dial tcp {host}:{port}: connect: connection refused");
        }
        if let Some(error) = cause.downcast_ref::<hyper::Error>()
            && error.is_incomplete_message()
        {
            return "EOF".to_owned();
        }
        last = cause.to_string();
        source = cause.source();
    }
    last
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers each connection's one request in turn; what was asked.
    async fn serve(answers: Vec<String>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let own = address.clone();
        let serving = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = vec![0; 4096];
                let length = stream.read(&mut head).await.unwrap();
                asked.push(String::from_utf8_lossy(&head[..length]).into_owned());
                let answer = answer.replace("{own}", &own);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            asked
        });
        (address, serving)
    }

    fn request(method: &str, url: &str) -> Request<Bytes> {
        Request::builder()
            .method(method)
            .uri(url)
            .header("authorization", "secret")
            .body(Bytes::from_static(b"data"))
            .unwrap()
    }

    fn answer(status: &str, more: &str) -> String {
        format!("HTTP/1.1 {status}\r\n{more}connection: close\r\ncontent-length: 2\r\n\r\nok")
    }

    #[tokio::test]
    async fn redirects_are_followed_as_by_go() {
        let (url, serving) = serve(vec![
            answer("307 Temporary Redirect", "location: /second?x=1\r\n"),
            answer("302 Found", "location: {own}/third\r\n"),
            answer("200 OK", ""),
        ])
        .await;
        let client = HttpClient::new(&TlsSettings::default()).unwrap();
        let got = client
            .call(request("POST", &format!("{url}/first")), Limits::default())
            .await
            .unwrap();
        assert_eq!(got.status(), 200);
        let asked = serving.await.unwrap();
        assert!(asked[1].starts_with("POST /second?x=1 ") && asked[1].ends_with("data"));
        assert!(asked[2].starts_with("GET /third ") && !asked[2].contains("data"));
        assert!(asked[2].contains("secret"));
    }

    #[tokio::test]
    async fn a_loop_of_redirects_ends_and_one_that_is_not_followed_is_an_answer() {
        let (url, serving) = serve(vec![answer("302 Found", "location: /again\r\n"); 12]).await;
        let client = HttpClient::new(&TlsSettings::default()).unwrap();
        let error = client
            .call(request("GET", &url), Limits::default())
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("stopped after 10 redirects"),
            "{error}"
        );
        let limits = Limits {
            follow: false,
            max_body: Some(1),
            ..Limits::default()
        };
        let got = client.call(request("GET", &url), limits).await.unwrap();
        assert_eq!(got.status(), 302);
        assert_eq!(got.body().as_ref(), b"o");
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn failures_read_like_gos() {
        let client = HttpClient::new(&TlsSettings::default()).unwrap();
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap().port()
        };
        let error = client
            .call(
                request("GET", &format!("http://127.0.0.1:{port}/x")),
                Limits::default(),
            )
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "Get \"http://127.0.0.1:{port}/x\": dial tcp 127.0.0.1:{port}: connect: connection refused"
            )
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let limits = Limits {
            timeout: Some(Duration::from_millis(50)),
            ..Limits::default()
        };
        let error = client.call(request("GET", &url), limits).await.unwrap_err();
        assert!(error.to_string().contains("context deadline exceeded"), "{error}");
    }
}
