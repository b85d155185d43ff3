//! What every request passes before its handler.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{CONNECTION, CONTENT_TYPE, EXPECT, ORIGIN};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use outrigger_components_api::middleware::RemoteAddress;
use outrigger_sidecar_core::Body;
use outrigger_sidecar_core::body::Limited;
use outrigger_trace_context::TraceContext;
use outrigger_trace_context::baggage::BAGGAGE;

use crate::request::ApiRequest;
use crate::respond;
use crate::router::{Match, RawParams};
use crate::server::Listener;
use crate::{HttpApi, path, spans};

const API_TOKEN: &str = "dapr-api-token";

impl HttpApi {
    /// Answers one request of a listener, and counts it.
    pub(crate) async fn handle(
        self: &Arc<Self>,
        listener: Listener,
        remote: Option<SocketAddr>,
        mut request: Request<Incoming>,
    ) -> Response<Body> {
        if let Some(remote) = remote.filter(|_| self.middleware().is_some()) {
            request.extensions_mut().insert(RemoteAddress(remote));
        }
        let call = self.core.metrics.http.server_call(&request);
        let response = self.serve(listener, request).await;
        match call {
            Some(call) => call.answer(response),
            None => response,
        }
    }

    async fn serve(self: &Arc<Self>, listener: Listener, request: Request<Incoming>) -> Response<Body> {
        let (parts, incoming) = request.into_parts();
        let traced = match decoded_path(&parts) {
            Ok(_) if expects_the_impossible(&parts) => return refuse(StatusCode::EXPECTATION_FAILED, ""),
            Ok(path) => !path.contains("/healthz"),
            Err(_) => return refuse(StatusCode::BAD_REQUEST, "400 Bad Request"),
        };
        if parts.uri.path() == "*" && parts.method == Method::OPTIONS {
            return Response::new(Body::Empty);
        }
        let trace = if traced {
            self.core.tracing.start(&parts.headers)
        } else {
            None
        };
        if trace.is_some()
            && let Err(text) = outrigger_trace_context::baggage::check(&parts.headers)
        {
            return respond::plain_error(
                StatusCode::BAD_REQUEST,
                &format!("invalid baggage header: {text}"),
            );
        }
        let span = spans::begin(&self.core, trace.as_ref(), &parts);
        let baggage = trace
            .as_ref()
            .and_then(|_| outrigger_trace_context::baggage::joined(&parts.headers));
        let mut response = if listener == Listener::Public {
            self.route(listener, None, parts, incoming.into(), trace.clone())
                .await
        } else {
            self.handle_api(parts, incoming, trace.clone()).await
        };
        finish(&mut response, trace.as_ref());
        if let Some(span) = span {
            spans::end(span, response.status());
        }
        if let Some(Ok(baggage)) = baggage.map(HeaderValue::try_from) {
            response.headers_mut().insert(BAGGAGE, baggage);
        }
        response
    }

    async fn handle_api(
        self: &Arc<Self>,
        parts: Parts,
        incoming: Incoming,
        trace: Option<TraceContext>,
    ) -> Response<Body> {
        let body = match self.options.max_body_size {
            Some(limit) => Body::boxed(Limited::new(incoming, limit)),
            None => incoming.into(),
        };
        let Some(cors) = &self.options.cors else {
            return self.handle_authorised(parts, body, trace).await;
        };
        if let Some(response) = cors.preflight(&parts.method, &parts.headers) {
            return response;
        }
        let (method, origin) = (parts.method.clone(), parts.headers.get(ORIGIN).cloned());
        let mut response = self.handle_authorised(parts, body, trace).await;
        cors.mark(&method, origin.as_ref(), response.headers_mut());
        response
    }

    async fn handle_authorised(
        self: &Arc<Self>,
        mut parts: Parts,
        body: Body,
        trace: Option<TraceContext>,
    ) -> Response<Body> {
        if let Some(token) = &self.options.api_token {
            let given = parts.headers.get(API_TOKEN).map(HeaderValue::as_bytes);
            if given != Some(token.as_bytes()) && !exempt_from_token(&parts) {
                return respond::plain_error(StatusCode::UNAUTHORIZED, "invalid api token");
            }
            parts.headers.remove(API_TOKEN);
        }
        let Some(middleware) = self.middleware() else {
            return self.handle_logged(None, parts, body, trace).await;
        };
        // The route is the one of the path that came; what middleware makes of it concerns invocations only.
        let routed = parts.uri.path().to_owned();
        let handle = |request: Request<Body>| {
            let (parts, body) = request.into_parts();
            self.handle_logged(Some(routed), parts, body, trace)
        };
        Box::pin(middleware.run(Request::from_parts(parts, body), handle)).await
    }

    async fn handle_logged(
        self: &Arc<Self>,
        routed: Option<String>,
        parts: Parts,
        body: Body,
        trace: Option<TraceContext>,
    ) -> Response<Body> {
        if let Some(log) = self.live.load().api_log {
            log.write(&parts.method, parts.uri.path(), &parts.headers);
        }
        self.route(Listener::Api, routed, parts, body, trace).await
    }

    async fn route(
        self: &Arc<Self>,
        listener: Listener,
        routed: Option<String>,
        parts: Parts,
        body: Body,
        trace: Option<TraceContext>,
    ) -> Response<Body> {
        let live = self.live.load_full();
        let table = if listener == Listener::Public {
            &live.public_routes
        } else {
            &live.routes
        };
        let escaped = routed.unwrap_or_else(|| parts.uri.path().to_owned());
        let cleaned = path::clean(&escaped);
        match table.find(&parts.method, &cleaned) {
            Match::Found(handler, params) => {
                let params = match decode(&params) {
                    Ok(params) => params,
                    Err(response) => return *response,
                };
                let request = ApiRequest::new(parts, body, params, trace);
                self.answer(handler(self.clone(), request).await)
            }
            _ if listener == Listener::Api && live.invoke_fallback => {
                let request = ApiRequest::new(parts, body, BTreeMap::new(), trace);
                self.answer(Box::pin(crate::invoke::handle(self.clone(), request)).await)
            }
            Match::OtherMethods(methods) => respond::method_not_allowed(&methods),
            Match::None => respond::plain_error(StatusCode::NOT_FOUND, "404 page not found"),
        }
    }

    fn answer(&self, result: Result<Response<Body>, outrigger_model::ApiError>) -> Response<Body> {
        result.unwrap_or_else(|error| {
            self.core.metrics.runtime.error(&error);
            respond::error(&error)
        })
    }
}

/// The path without escapes.
fn decoded_path(parts: &Parts) -> Result<Cow<'_, str>, path::BadEscape> {
    let path = parts.uri.path();
    if path.contains('%') {
        path::path_unescape(path).map(Cow::Owned)
    } else {
        Ok(Cow::Borrowed(path))
    }
}

fn expects_the_impossible(parts: &Parts) -> bool {
    let expected = parts.headers.get(EXPECT).map(HeaderValue::as_bytes);
    expected.is_some_and(|value| !value.eq_ignore_ascii_case(b"100-continue"))
}

/// What Go's server refuses before any handler sees it; the connection ends with such an answer.
fn refuse(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if !text.is_empty() {
        headers.insert(CONTENT_TYPE, respond::PLAIN);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn finish(response: &mut Response<Body>, trace: Option<&TraceContext>) {
    if let Some(trace) = trace {
        trace.write_response_headers(response.headers_mut());
    }
}

fn exempt_from_token(parts: &Parts) -> bool {
    let path = parts.uri.path();
    parts.method == Method::GET
        && matches!(
            path.strip_suffix('/').unwrap_or(path),
            "/v1.0/healthz" | "/v1.0/healthz/outbound"
        )
}

fn decode(raw: &RawParams<'_>) -> Result<BTreeMap<&'static str, String>, Box<Response<Body>>> {
    raw.iter()
        .map(|(name, text)| {
            path::query_unescape(text)
                .map(|value| (name, value))
                .map_err(|error| {
                    let text = format!("failed to unescape request parameter \"{name}\". Error: {error}");
                    Box::new(respond::plain_error(StatusCode::BAD_REQUEST, &text))
                })
        })
        .collect()
}
