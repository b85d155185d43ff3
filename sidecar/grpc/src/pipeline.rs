//! What every call passes before its service.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use hyper::body::Incoming;
use outrigger_trace_context::baggage::{self, BAGGAGE};
use outrigger_trace_context::{GRPC_TRACE_BIN, TraceContext};
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use crate::deadline::{self, Limited};
use crate::trace;
use crate::{GrpcApi, Server, access, bindings, error, internal, reflection, reply, spans};

const DAPR: &str = "/dapr.proto.runtime.v1.Dapr/";
const INTERNAL: &str = "/dapr.proto.internals.v1.ServiceInvocation/";
/// RPCs with a stream; they are counted only where they are proxied.
const STREAMS: [&str; 8] = [
    "SubscribeTopicEventsAlpha1",
    "SubscribeConfiguration",
    "SubscribeConfigurationAlpha1",
    "EncryptAlpha1",
    "DecryptAlpha1",
    "ConverseStreamAlpha1",
    "ConverseStreamAlpha2",
    "SubscribeActorEventsAlpha1",
];
const API_TOKEN: &str = "dapr-api-token";

impl GrpcApi {
    /// Answers one call, within the time that its caller gives it.
    pub(crate) async fn handle(
        self: &Arc<Self>,
        server: Server,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let deadline = match deadline::of(request.headers()) {
            Ok(None) => return self.answer(server, request).await,
            Ok(Some(deadline)) => deadline,
            Err(status) => return status.into_http(),
        };
        match tokio::time::timeout_at(deadline, Box::pin(self.answer(server, request))).await {
            Ok(response) => response.map(|body| Body::new(Limited::new(body, deadline))),
            Err(_) => deadline::exceeded().into_http(),
        }
    }

    /// The calls of other sidecars' apps go straight through; everything else is boxed, so that the future which is
    /// made for each of them stays small: hyper and the runtime move it about several times.
    async fn answer(self: &Arc<Self>, server: Server, mut request: Request<Incoming>) -> Response<Body> {
        if server == Server::Api
            && let Err(status) = self.authorise(&mut request)
        {
            return status.into_http();
        }
        let path = request.uri().path();
        if path.starts_with(reflection::PREFIX) {
            return match self.reflection(server) {
                Ok(reflection) => Box::pin(reflection.clone().call(request)).await,
                Err(error) => reflection::unusable(error),
            };
        }
        if let Some(method) = path.strip_prefix(INTERNAL).filter(|_| server == Server::Internal) {
            if method == internal::STREAM {
                return self.internal_stream(request).await;
            }
            let method = method.to_owned();
            return Box::pin(self.internal(&method, request)).await;
        }
        if !path.starts_with(DAPR) || server != Server::Api {
            return Box::pin(self.proxy(request)).await;
        }
        Box::pin(self.api_call(request)).await
    }

    /// A call of the app's, to the Dapr API.
    async fn api_call(&self, mut request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        let method = path.strip_prefix(DAPR).unwrap_or(path);
        if !self.access.load().allows_grpc(access::groups(method)) {
            return error::from_http(501, "requested endpoint is not available").into_http();
        }
        let invokes = method == "InvokeService";
        let is_stream = STREAMS.contains(&method);
        let binds = method == "InvokeBinding";
        let span = trace::start(&self.core, request.headers());
        let baggage = span.as_ref().and_then(|_| baggage::joined(request.headers()));
        let baggage = match baggage.map(|text| baggage::rewrite(&text)).transpose() {
            // As OpenTelemetry writes it again.
            Ok(baggage) => baggage
                .filter(|text| !text.is_empty())
                .and_then(|text| HeaderValue::try_from(text).ok()),
            Err(text) => {
                return Status::invalid_argument(format!("invalid baggage header: {text}")).into_http();
            }
        };
        if let Some(span) = &span {
            request.extensions_mut().insert(trace::Span(span.clone()));
        }
        let recorded = spans::begin(&self.core, span.as_ref(), request.uri().path(), request.headers());
        let metrics = &self.core.metrics;
        let mut response = if !metrics.is_enabled() || is_stream {
            self.dapr_call(request, invokes, span.clone()).await
        } else {
            let (request, call) = metrics.grpc.server(request);
            let response = self.dapr_call(request, invokes, span.clone()).await;
            call.answer(response).map(Body::new)
        };
        if let Some(mark) = error::take_mark(response.headers_mut())
            && let Some((code, category)) = mark.to_str().unwrap_or_default().split_once(' ')
        {
            metrics.runtime.error_code(code, category);
        }
        if let Some(recorded) = recorded {
            spans::end(recorded, response.headers());
        }
        if !invokes {
            error::reword_size_limit(response.headers_mut());
        }
        if binds {
            response = reply::headers_apart(response, bindings::PREFIX);
        }
        if let Some(baggage) = baggage {
            response.headers_mut().insert(BAGGAGE, baggage);
        }
        if let Some(span) = span.filter(|_| !invokes)
            && let Ok(value) = HeaderValue::from_str(&trace::binary_text(&span))
        {
            response
                .headers_mut()
                .insert(HeaderName::from_static(GRPC_TRACE_BIN), value);
        }
        response
    }

    async fn dapr_call<B>(
        &self,
        request: Request<B>,
        invokes: bool,
        span: Option<TraceContext>,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        if invokes {
            return crate::invoke::invoke_service(&self.core, self.options.max_message, request, span).await;
        }
        let mut service = self.dapr.clone();
        match service.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    /// Checks the API token and takes it out of the metadata.
    fn authorise(&self, request: &mut Request<Incoming>) -> Result<(), Status> {
        let Some(token) = &self.options.api_token else {
            return Ok(());
        };
        let given = request
            .headers()
            .get(API_TOKEN)
            .ok_or("missing api token in request metadata");
        let result = given.and_then(|given| {
            if given.as_bytes() == token.as_bytes() {
                Ok(())
            } else {
                Err("authentication error: api token mismatch")
            }
        });
        result.map_err(|text| error::from_http(401, text))?;
        request.headers_mut().remove(API_TOKEN);
        Ok(())
    }
}
