//! Answers: JSON, bytes, errors.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Response, StatusCode};
use outrigger_model::ApiError;
use outrigger_sidecar_core::Body;

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(crate) const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// 204 without a body.
pub(crate) fn no_content() -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// 200 with a JSON text.
pub(crate) fn json(body: impl Into<Bytes>) -> Response<Body> {
    json_with(StatusCode::OK, body)
}

/// A JSON text under another status.
pub(crate) fn json_with(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// The error's JSON under its status.
pub(crate) fn error(error: &ApiError) -> Response<Body> {
    let status = StatusCode::from_u16(error.http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json_with(status, error.http_body())
}

/// A plain text as Go's `http.Error` writes it.
pub(crate) fn plain_error(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::full(format!("{text}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, PLAIN);
    response
        .headers_mut()
        .insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// 405 with the methods that would be served.
pub(crate) fn method_not_allowed(methods: &[Method]) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    for method in methods {
        if let Ok(value) = HeaderValue::from_str(method.as_str()) {
            response.headers_mut().append(ALLOW, value);
        }
    }
    response
}
