//! Calls to an HTTP app: HTTP/1.1 with keep-alive, or HTTP/2 with prior knowledge; redirects are not followed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{HeaderName, PROXY_AUTHORIZATION};
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::Semaphore;

use super::pool::{MAX_CONNECTIONS, Pool};
use super::tls::Connector;
use super::{AppError, Slot, gzip};
use crate::config::{AppConfig, Protocol};
use crate::metrics::HttpMetrics;
use crate::middleware::Pipeline;
use crate::outside::{Outside, Proxies};
use crate::tls::ClientTls;
use crate::{Body, BodyError};

/// Idle connections kept to the app.
const MAX_IDLE: usize = 64;
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// The client of one HTTP app.
pub struct HttpApp {
    /// To a plain HTTP/1.1 app.
    pool: Option<Pool>,
    /// For everything else: TLS, HTTP/2, other servers.
    client: Client<Connector, Body>,
    /// Places for calls of a TLS app, each of which takes a connection of the client.
    room: Option<Arc<Semaphore>>,
    scheme: Scheme,
    authority: Authority,
    base: String,
    token: Option<HeaderValue>,
    proxies: Proxies,
    metrics: HttpMetrics,
    middleware: Option<Arc<Pipeline>>,
}

impl HttpApp {
    pub(super) fn new(
        config: &AppConfig,
        port: u16,
        token: Option<HeaderValue>,
        max_headers: usize,
        outside: &Outside,
        metrics: HttpMetrics,
    ) -> Self {
        let host = if config.address.contains(':') && !config.address.starts_with('[') {
            format!("[{}]:{port}", config.address)
        } else {
            format!("{}:{port}", config.address)
        };
        // A host that is no authority fails at the first call, with the dialer's text.
        let authority =
            Authority::try_from(host.as_str()).unwrap_or_else(|_| Authority::from_static("invalid"));
        let tls = config.protocol.is_tls();
        let scheme = if tls { Scheme::HTTPS } else { Scheme::HTTP };
        let base = format!("{scheme}://{host}");
        // HTTP/2 with prior knowledge goes through no proxy.
        let proxies = match config.protocol {
            Protocol::H2c => Proxies::default(),
            _ => outside.proxies.clone(),
        };
        let is_proxied = Uri::try_from(&base).is_ok_and(|uri| proxies.of(&uri).is_some());
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE)
            .http2_only(config.protocol == Protocol::H2c)
            .http1_title_case_headers(true)
            .http1_max_buf_size(max_headers.max(64 << 10))
            .build(Connector::app(tls, outside.roots.clone(), proxies.clone()));
        let is_plain = config.protocol == Protocol::Http && !is_proxied;
        let max_head = max_headers.max(64 << 10);
        Self {
            pool: is_plain.then(|| Pool::new(&authority, max_head)).flatten(),
            client,
            room: tls.then(|| Arc::new(Semaphore::new(MAX_CONNECTIONS))),
            base,
            scheme,
            authority,
            token,
            proxies,
            metrics,
            middleware: None,
        }
    }

    /// A client of endpoints outside Dapr, whose calls are counted and pass the app's pipeline.
    pub(crate) fn external(
        tls: ClientTls,
        proxies: Proxies,
        connect_timeout: Duration,
        metrics: HttpMetrics,
        middleware: Option<Arc<Pipeline>>,
    ) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE)
            .http1_title_case_headers(true)
            .build(Connector::external(tls, proxies.clone(), connect_timeout));
        Self {
            pool: None,
            client,
            room: None,
            base: String::new(),
            scheme: Scheme::HTTPS,
            authority: Authority::from_static("invalid"),
            token: None,
            proxies,
            metrics,
            middleware,
        }
    }

    /// Calls carry this token of the app.
    pub(crate) fn with_token(mut self, token: Option<HeaderValue>) -> Self {
        self.token = token;
        self
    }

    /// Calls pass these from now on, health probes excepted.
    pub(super) fn set_middleware(&mut self, middleware: Option<Arc<Pipeline>>) {
        self.middleware = middleware;
    }

    /// `http://host:port`, for error texts.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The URI of a path (without a leading slash) and query.
    ///
    /// # Errors
    /// The path is no URI path; callers have escaped it.
    pub fn uri(&self, path: &str, query: &str) -> Result<Uri, AppError> {
        let mut path_and_query = String::with_capacity(path.len() + query.len() + 2);
        path_and_query.push('/');
        path_and_query.push_str(path);
        if !query.is_empty() {
            path_and_query.push('?');
            path_and_query.push_str(query);
        }
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path_and_query)
            .build()
            .map_err(|error| AppError::Transport(format!("parse \"{}/{path}\": {error}", self.base)))
    }

    /// Sends a request with the app's token; the slot is held until the answer's body has been read.
    ///
    /// # Errors
    /// The exchange failed before the answer's head was complete.
    pub async fn call(&self, mut request: Request<Body>, slot: Slot) -> Result<Response<Body>, AppError> {
        let headers = request.headers_mut();
        if let Some(token) = &self.token {
            headers.insert(HeaderName::from_static("dapr-api-token"), token.clone());
        }
        self.pass(request, |request| self.send(request, slot)).await
    }

    /// Counts a request and takes it through the pipeline, if that has handlers, to `exchange`.
    ///
    /// # Errors
    /// Those of `exchange`.
    pub(crate) async fn pass<F, Fut>(
        &self,
        request: Request<Body>,
        exchange: F,
    ) -> Result<Response<Body>, AppError>
    where
        F: FnOnce(Request<Body>) -> Fut + Send,
        Fut: Future<Output = Result<Response<Body>, AppError>> + Send,
    {
        let call = self.metrics.client_call(&request);
        let pipeline = self.middleware.as_ref().filter(|pipeline| pipeline.is_used());
        let result = match pipeline {
            None => exchange(request).await,
            Some(middleware) => Box::pin(Self::pass_through(middleware, request, exchange)).await,
        };
        if let Some(call) = call {
            call.completed(result.as_ref().ok());
        }
        result
    }

    async fn pass_through<F, Fut>(
        middleware: &Pipeline,
        request: Request<Body>,
        exchange: F,
    ) -> Result<Response<Body>, AppError>
    where
        F: FnOnce(Request<Body>) -> Fut + Send,
        Fut: Future<Output = Result<Response<Body>, AppError>> + Send,
    {
        // Middleware knows no failures, only answers: this one is not handed on.
        let failed = Mutex::new(None);
        let answer = middleware
            .run(request, |request| async {
                match exchange(request).await {
                    Ok(answer) => answer,
                    Err(error) => {
                        *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        Response::new(Body::Empty)
                    }
                }
            })
            .await;
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        failed.map_or(Ok(answer), Err)
    }

    /// A health probe: as it is, and counted apart.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(super) async fn probe(&self, request: Request<Body>) -> Result<Response<Body>, AppError> {
        let started = Instant::now();
        let result = self.send(request, None).await;
        let status = match &result {
            Ok(response) => response.status(),
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        self.metrics.probed(status, started);
        result
    }

    /// Sends a request as it is: health probes carry no token.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn send(&self, mut request: Request<Body>, slot: Slot) -> Result<Response<Body>, AppError> {
        let unasked = gzip::is_unasked(request.method(), request.headers());
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let is_app = uri.scheme() == Some(&self.scheme) && uri.authority() == Some(&self.authority);
        let answer: Result<_, Box<dyn std::error::Error + Send + Sync>> =
            match self.pool.as_ref().filter(|_| is_app) {
                Some(pool) => match pool.call(request).await {
                    Ok(response) => Ok(response.map(|body| with_slot(body, slot))),
                    Err(error) => Err(error.into()),
                },
                None => {
                    let place = match self.room.as_ref().filter(|_| is_app) {
                        // The semaphore is never closed.
                        Some(room) => room.clone().acquire_owned().await.ok(),
                        None => None,
                    };
                    // Of https the proxy sees no more than the request for a tunnel.
                    if uri.scheme() == Some(&Scheme::HTTP)
                        && let Some(proxy) = self.proxies.of(&uri)
                        && let Some(auth) = proxy.basic_auth()
                    {
                        let headers = request.headers_mut();
                        headers.insert(PROXY_AUTHORIZATION, auth.clone());
                    }
                    match self.client.request(request).await {
                        Ok(response) => Ok(response.map(|body| match (slot, place) {
                            (None, None) => Body::Incoming(body),
                            held => Body::boxed(Held { body, held }),
                        })),
                        Err(error) => Err(error.into()),
                    }
                }
            };
        match answer {
            Ok(response) if unasked => Ok(gzip::unpack(response)),
            Ok(response) => Ok(response),
            Err(error) => {
                let text = self.describe(&*error, &uri);
                let text = format!("{} \"{uri}\": {text}", title(method.as_str()));
                Err(if is_refused(&*error) {
                    AppError::Refused(text)
                } else {
                    AppError::Transport(text)
                })
            }
        }
    }

    /// The failure as Go's client words it.
    fn describe(&self, error: &(dyn std::error::Error + 'static), uri: &Uri) -> String {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(cause) = source {
            if let Some(error) = cause.downcast_ref::<BodyError>() {
                return error.to_string();
            }
            if let Some(error) = cause.downcast_ref::<std::io::Error>() {
                let text = crate::invoke::peer::go_dial_error(error);
                return if text.starts_with("connect: ") {
                    format!(
                        "dial tcp {}: {text}",
                        uri.authority().map_or("", Authority::as_str)
                    )
                } else {
                    text
                };
            }
            if let Some(error) = cause.downcast_ref::<hyper::Error>()
                && error.is_incomplete_message()
            {
                return "EOF".into();
            }
            source = cause.source();
        }
        crate::invoke::peer::with_source(error)
    }
}

/// Whether nobody listens at the other end.
fn is_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    })
}

/// Go prints the verb of a failed request as `Get`, `Post`.
fn title(verb: &str) -> String {
    let lower = verb.to_ascii_lowercase();
    let mut chars = lower.chars();
    chars
        .next()
        .map(|first| first.to_ascii_uppercase().to_string() + chars.as_str())
        .unwrap_or_default()
}

/// A body that keeps the slot until its end.
pub(crate) fn with_slot<B>(body: B, slot: Slot) -> Body
where
    B: HttpBody<Data = Bytes> + Unpin + Send + Sync + 'static,
    BodyError: From<B::Error>,
{
    Body::boxed(Held { body, held: slot })
}

/// A body that gives back at its end what it holds.
struct Held<B, T> {
    body: B,
    held: T,
}

impl<B, T> HttpBody for Held<B, T>
where
    B: HttpBody<Data = Bytes> + Unpin,
    BodyError: From<B::Error>,
    T: Default + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = std::pin::Pin::new(&mut this.body)
            .poll_frame(cx)
            .map_err(BodyError::from);
        if matches!(polled, std::task::Poll::Ready(None | Some(Err(_)))) {
            this.held = T::default();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
