//! HTTP middleware (contract `components`, section 6): what stands between a server and its handler, or between the
//! sidecar and its app.

use std::error::Error;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};

/// A body's own failure.
pub type BodyFailure = Box<dyn Error + Send + Sync>;

/// A body on its way through a pipeline; it streams.
pub type Body = BoxBody<Bytes, BodyFailure>;

/// Who sent a request, among its extensions; not there if nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteAddress(pub SocketAddr);

/// An answer under construction.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Response<Body>> + Send + 'a>>;

/// The rest of the pipeline.
pub type Next<'a> = Box<dyn FnOnce(Request<Body>) -> Answer<'a> + Send + 'a>;

/// One step of a pipeline.
#[async_trait]
pub trait HttpMiddleware: Send + Sync + 'static {
    /// Answers a request, itself or by what `next` answers to it. The path is as it came: not decoded, not cleaned.
    async fn handle(&self, request: Request<Body>, next: Next<'_>) -> Response<Body>;

    /// Releases what it holds; called once.
    async fn close(&self) {}
}

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A plain text as an answer, as Go's `http.Error` writes it but for the line's end.
pub fn refuse(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
