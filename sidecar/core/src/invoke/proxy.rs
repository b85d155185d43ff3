//! Transparent proxying: a gRPC call of a service that no sidecar knows goes to the app its metadata names
//! (contract `service-invocation`, section 5). Messages stay opaque bytes.
//!
//! Retries of a policy end with the first message of an answer: from then on the answer streams, and what has been
//! handed on cannot be taken back. Its time limit and its circuit breaker go on to the end of the answer.

mod messages;

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use outrigger_components_api::name_resolution::ResolveRequest;
use outrigger_model::GrpcCode;
use outrigger_resiliency::{Failure, PolicyError};
use outrigger_trace_context::{GRPC_TRACE_BIN, TraceContext};
use tonic::body::Body as TonicBody;
use tower::ServiceExt as _;

use super::access::{InvokeAccess, PeerCaller};
use super::exchange::PeerBody;
use super::frames::GRPC_STATUS;
use super::governed::Governed;
use super::headers::{API_TOKEN, APP_ID, CALLEE_APP_ID, CALLER_APP_ID};
use super::peer::{Lease, with_source};
use super::replay::Replay;
use super::target::{Target, parse};
use super::{InvokeError, Invoker, method, wire};
use crate::{Body, BodyError};
use messages::{Found, Messages};

/// The text of Go's client for the same.
pub const CUT_OFF: &str = "server closed the stream without sending trailers";
/// Says that a call is a stream, which policies cover less far.
const STREAM: &str = "dapr-stream";

/// An answer's messages and trailers, as they come.
pub type ProxyBody = UnsyncBoxBody<Bytes, BodyError>;

/// What came back.
pub enum ProxyAnswer {
    /// Nothing but a status, in trailers. Headers of such an answer are not handed on, as upstream has it.
    Status(HeaderMap),
    /// An answer with messages.
    Stream {
        /// Its headers.
        headers: HeaderMap,
        /// The beginning of its messages.
        first: Bytes,
        /// The rest, up to the trailers.
        rest: ProxyBody,
    },
}

/// A failed attempt under a policy.
enum Attempt {
    Answer(Box<ProxyAnswer>),
    Error(InvokeError),
}

impl Invoker {
    /// Sends the call on and returns the answer as it comes.
    ///
    /// # Errors
    /// The target is not named, not found or not reached, or its rules forbid the call.
    pub async fn proxy(
        &self,
        request: Request<Body>,
        access: &InvokeAccess,
        trace: Option<&TraceContext>,
    ) -> Result<ProxyAnswer, InvokeError> {
        let target = target(request.headers())?;
        let Target::App { id, namespace } = parse(&target).map_err(unknown)? else {
            return Err(unknown(InvokeError::internal(format!("invalid app id {target}"))));
        };
        let found = Found::default();
        let answer = if id == &*self.parts.identity.app_id {
            self.proxy_to_app(request, access, &found).await
        } else {
            let namespace = namespace.unwrap_or(&self.parts.identity.namespace);
            self.proxy_to_peer((id, namespace), request, trace, &found).await
        };
        answer.map_err(|error| found.behind(error))
    }

    /// A body of messages that are no larger than they may be.
    fn limited<B>(&self, body: B, found: &Found) -> Messages<B> {
        Messages::new(body, self.parts.max_message, found.clone())
    }

    async fn proxy_to_app(
        &self,
        mut request: Request<Body>,
        access: &InvokeAccess,
        found: &Found,
    ) -> Result<ProxyAnswer, InvokeError> {
        let caller = request.extensions_mut().remove::<PeerCaller>();
        // What is decided about is what the app gets.
        let method = method::normalize(request.uri().path())?.into_owned();
        access.check(caller.as_ref(), &method, None)?;
        if method != request.uri().path() {
            let uri = http::Uri::try_from(method);
            *request.uri_mut() = uri.map_err(|error| unknown(InvokeError::internal(error.to_string())))?;
        }
        let Some(app) = self.parts.app.as_ref().and_then(|app| app.grpc()) else {
            return Err(InvokeError::status(
                GrpcCode::Unavailable,
                "connection error: desc = \"this sidecar has no gRPC app: set --app-port and --app-protocol grpc\"",
            ));
        };
        let headers = request.headers_mut();
        headers.remove(APP_ID);
        headers.remove(API_TOKEN);
        if let Some(token) = app.token() {
            headers.append(API_TOKEN, token);
        }
        let request = request.map(|body| TonicBody::new(self.limited(body, found)));
        let response = app.channel().oneshot(request).await;
        let response = response.map_err(|error| app_failed(&error))?;
        peek(response.map(|body| {
            let body = body.map_err(|status| BodyError::Connection(status.message().to_owned()));
            self.limited(body, found).boxed_unsync()
        }))
        .await
    }

    async fn proxy_to_peer(
        &self,
        (app_id, namespace): (&str, &str),
        mut request: Request<Body>,
        trace: Option<&TraceContext>,
        found: &Found,
    ) -> Result<ProxyAnswer, InvokeError> {
        let callee =
            HeaderValue::from_str(app_id).map_err(|_| unknown(InvokeError::internal("invalid app id")))?;
        let headers = request.headers_mut();
        let named = headers.remove(APP_ID);
        headers.append(CALLER_APP_ID, self.own_app_id.clone());
        headers.append(CALLEE_APP_ID, callee);
        if let Some(trace) = trace {
            trace.write_request_headers(headers);
            if let Ok(binary) = HeaderValue::from_str(&wire::unpadded(&trace.to_binary())) {
                headers.insert(GRPC_TRACE_BIN, binary);
            }
        }
        let is_stream = headers.get(STREAM).is_some_and(is_truthy);
        let lookup = ResolveRequest {
            app_id: app_id.to_owned(),
            namespace: namespace.to_owned(),
            port: self.parts.internal_port,
        };
        // Policies go by the name that the caller used.
        let named = named.as_ref().and_then(|value| value.to_str().ok());
        let has_policies = |name: &&str| self.parts.resiliency.app_cover(name).has_policies;
        match named.filter(has_policies) {
            // Boxed, as below: rare, and larger than a call without policies.
            Some(name) if is_stream => {
                let address = Box::pin(self.reach(name, &lookup, request.uri().path())).await?;
                let request = request.map(|body| Body::boxed(self.limited(body, found)));
                self.send_to_address(&address, &lookup, request, found).await
            }
            Some(name) => Box::pin(self.proxy_under_policy(name, &lookup, request, found)).await,
            None => {
                let request = request.map(|body| Body::boxed(self.limited(body, found)));
                self.send_to_peer(&lookup, request, found).await
            }
        }
    }

    /// Finds the target's sidecar and connects to it under the caller's policy, which covers no more of a stream.
    async fn reach(&self, name: &str, lookup: &ResolveRequest, path: &str) -> Result<String, InvokeError> {
        let policy = self.parts.resiliency.app(name, &format!("{name}:{path}"));
        let run = policy.run(
            |_| async {
                let result = async {
                    let address = self.parts.addresses.resolve(lookup).await.map_err(unknown)?;
                    let target = super::peer_target(&address, lookup);
                    if let Err(error) = self.parts.peers.connect(target).await {
                        self.parts.peers.forget(&address);
                        self.parts.addresses.forget(lookup);
                        return Err(error);
                    }
                    Ok(address)
                };
                result.await.map_err(|error: InvokeError| {
                    let code = error.code.as_i32();
                    Failure::with_code(error, code)
                })
            },
            policy_error,
        );
        run.await
    }

    async fn proxy_under_policy(
        &self,
        name: &str,
        lookup: &ResolveRequest,
        request: Request<Body>,
        found: &Found,
    ) -> Result<ProxyAnswer, InvokeError> {
        let endpoint = format!("{name}:{}", request.uri().path());
        let policy = self.parts.resiliency.app(name, &endpoint);
        let (parts, body) = request.into_parts();
        let body = self.limited(body, found);
        let body = if policy.has_retry() {
            Replay::new(Body::boxed(body.single()), self.parts.max_message)
        } else {
            Replay::new(Body::boxed(body), 0)
        };
        let run = policy.run_open(
            |_| {
                let outgoing = body.attempt();
                let outgoing = outgoing.map(|body| Request::from_parts(parts.clone(), body));
                async move {
                    let Some(outgoing) = outgoing else {
                        return Err(Failure::permanent(Attempt::Error(super::not_again())));
                    };
                    let result = self.send_to_peer(lookup, outgoing, found).await;
                    if let Some(violation) = found.get() {
                        return Err(Failure::permanent(Attempt::Error(violation.error())));
                    }
                    classify(result)
                }
            },
            |error| Attempt::Error(policy_error(error)),
        );
        match run.await {
            Ok((ProxyAnswer::Stream { headers, first, rest }, open)) if !open.is_none() => {
                let rest = Governed::new(rest, open, true).boxed_unsync();
                Ok(ProxyAnswer::Stream { headers, first, rest })
            }
            Ok((answer, _)) => Ok(answer),
            Err(Attempt::Answer(answer)) => Ok(*answer),
            Err(Attempt::Error(error)) => Err(error),
        }
    }

    /// One attempt.
    async fn send_to_peer(
        &self,
        lookup: &ResolveRequest,
        request: Request<Body>,
        found: &Found,
    ) -> Result<ProxyAnswer, InvokeError> {
        let address = self.parts.addresses.resolve(lookup).await.map_err(unknown)?;
        self.send_to_address(&address, lookup, request, found).await
    }

    async fn send_to_address(
        &self,
        address: &str,
        lookup: &ResolveRequest,
        mut request: Request<Body>,
        found: &Found,
    ) -> Result<ProxyAnswer, InvokeError> {
        let path = request.uri().path_and_query().cloned();
        let uri = http::Uri::builder()
            .scheme("http")
            .authority(address)
            .path_and_query(path.map_or_else(|| "/".to_owned(), |path| path.to_string()))
            .build();
        *request.uri_mut() = uri.map_err(|error| {
            unknown(InvokeError::internal(format!(
                "the resolver answered {address:?}, which is no address: {error}"
            )))
        })?;
        match self
            .parts
            .peers
            .send(super::peer_target(address, lookup), request)
            .await
        {
            Ok((response, lease)) => {
                peek(response.map(|body| {
                    let leased = Leased {
                        inner: body,
                        _lease: lease,
                    };
                    self.limited(leased, found).boxed_unsync()
                }))
                .await
            }
            Err(error) => {
                self.parts.peers.forget(address);
                self.parts.addresses.forget(lookup);
                Err(error)
            }
        }
    }
}

/// The client minds the caller's `grpc-timeout` as well; the rest are connections that failed.
fn app_failed(error: &tonic::transport::Error) -> InvokeError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if cause.is::<tonic::TimeoutExpired>() {
            return policy_error(PolicyError::Timeout);
        }
        source = cause.source();
    }
    InvokeError::status(
        GrpcCode::Unavailable,
        format!("connection error: desc = \"{}\"", with_source(error)),
    )
}

/// Waits for the first message, or for the end.
async fn peek(response: Response<ProxyBody>) -> Result<ProxyAnswer, InvokeError> {
    let unavailable = |text: String| InvokeError::status(GrpcCode::Unavailable, text);
    let (parts, mut body) = response.into_parts();
    if parts.headers.contains_key(GRPC_STATUS) {
        return Ok(ProxyAnswer::Status(parts.headers));
    }
    if parts.status != StatusCode::OK {
        let status = parts.status;
        return Err(unavailable(format!(
            "unexpected HTTP status code received from server: {status}"
        )));
    }
    loop {
        let frame = match body.frame().await {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Err(unavailable(error.to_string())),
            None => return Err(InvokeError::status(GrpcCode::Internal, CUT_OFF)),
        };
        match frame.into_data() {
            Ok(first) if first.is_empty() => {}
            Ok(first) => {
                return Ok(ProxyAnswer::Stream {
                    headers: parts.headers,
                    first,
                    rest: body,
                });
            }
            Err(frame) => return Ok(ProxyAnswer::Status(frame.into_trailers().unwrap_or_default())),
        }
    }
}

/// A status other than OK counts as a failure with its code.
fn classify(result: Result<ProxyAnswer, InvokeError>) -> Result<ProxyAnswer, Failure<Attempt>> {
    match result {
        Ok(ProxyAnswer::Status(trailers)) => {
            let code = trailers.get(GRPC_STATUS).and_then(|code| code.to_str().ok());
            let code = code.and_then(|code| code.parse().ok()).unwrap_or(2);
            let answer = ProxyAnswer::Status(trailers);
            if code == 0 {
                Ok(answer)
            } else {
                Err(Failure::with_code(Attempt::Answer(Box::new(answer)), code))
            }
        }
        Ok(answer) => Ok(answer),
        Err(error) => {
            let code = error.code.as_i32();
            Err(Failure::with_code(Attempt::Error(error), code))
        }
    }
}

fn policy_error(error: PolicyError) -> InvokeError {
    match error {
        PolicyError::Timeout => InvokeError::status(GrpcCode::DeadlineExceeded, "context deadline exceeded"),
        PolicyError::CircuitOpen | PolicyError::TooManyRequests => {
            InvokeError::status(GrpcCode::Unknown, error.to_string())
        }
    }
}

fn is_truthy(value: &HeaderValue) -> bool {
    let value = value.to_str().unwrap_or_default().to_ascii_lowercase();
    matches!(value.as_str(), "y" | "yes" | "t" | "true" | "on" | "1")
}

/// The app a call is for: `dapr-callee-app-id` goes before `dapr-app-id`.
fn target(headers: &HeaderMap) -> Result<String, InvokeError> {
    let named = headers.get(CALLEE_APP_ID).or_else(|| headers.get(APP_ID));
    let named = named.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    named.ok_or_else(|| {
        InvokeError::status(
            GrpcCode::Unknown,
            "cannot proxy request: missing dapr-callee-app-id or dapr-app-id metadata",
        )
    })
}

/// Upstream returns these as plain errors, which gRPC makes UNKNOWN.
fn unknown(error: InvokeError) -> InvokeError {
    InvokeError::status(GrpcCode::Unknown, error.message)
}

/// A body that keeps its connection's lease.
struct Leased {
    inner: PeerBody,
    _lease: Lease,
}

impl HttpBody for Leased {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.get_mut().inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outrigger_identity::{PeerIdentity, SpiffeId};
    use outrigger_resources::AccessControl;

    use super::*;
    use crate::invoke::access::AccessMetrics;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            (
                http::HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        pairs.collect()
    }

    #[test]
    fn words_that_mean_yes_mark_a_stream() {
        for (value, expected) in [
            ("true", true),
            ("Y", true),
            ("1", true),
            ("0", false),
            ("", false),
        ] {
            assert_eq!(is_truthy(&HeaderValue::from_static(value)), expected, "{value}");
        }
    }

    #[tokio::test]
    async fn an_answer_without_messages_is_a_status_whatever_its_headers() {
        let trailers = headers(&[("grpc-status", "5"), ("x-t", "1")]);
        let frames = [Ok::<_, BodyError>(Frame::trailers(trailers.clone()))];
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
        let mut response = Response::new(body);
        response
            .headers_mut()
            .insert("x-h", HeaderValue::from_static("1"));
        let Ok(ProxyAnswer::Status(found)) = peek(response).await else {
            panic!("a status was sent");
        };
        assert_eq!(found, trailers);
        let failed = classify(Ok(ProxyAnswer::Status(found)));
        assert!(failed.is_err_and(|failure| failure.code == Some(5) && !failure.permanent));
    }

    #[tokio::test]
    async fn rules_decide_about_the_path_as_the_app_would_get_it() {
        let spec = serde_json::from_value(serde_json::json!({
            "defaultAction": "allow",
            "policies": [{
                "appId": "web", "namespace": "shop", "trustDomain": "public", "defaultAction": "allow",
                "operations": [{"name": "/pkg.Svc/Secret", "action": "deny"}],
            }],
        }))
        .unwrap();
        let rules = AccessControl::new(&spec, false).unwrap();
        let access = InvokeAccess::new(rules, AccessMetrics::default());
        let web = PeerCaller::from(&PeerIdentity {
            id: SpiffeId::parse("spiffe://public/ns/shop/web").unwrap(),
            chain: Arc::default(),
        });
        let invoker = crate::invoke::tests::invoker("callee", serde_json::json!({}), None);
        for (path, code) in [
            ("/pkg.Svc/Secret", GrpcCode::PermissionDenied),
            ("/x/../pkg.Svc/Secret", GrpcCode::PermissionDenied),
            ("//pkg.Svc/./Secret", GrpcCode::PermissionDenied),
            ("/../pkg.Svc/Secret/", GrpcCode::PermissionDenied),
            // Whoever decodes the path would be there.
            ("/pkg.Svc/%53ecret", GrpcCode::PermissionDenied),
            ("/pkg.Svc/%2553ecret", GrpcCode::PermissionDenied),
            ("/x/%2e%2e/pkg.Svc%2fSecret", GrpcCode::PermissionDenied),
            // Allowed, but there is no app.
            ("/pkg.Svc/Open", GrpcCode::Unavailable),
            ("/pkg.Svc/Secret/../Open", GrpcCode::Unavailable),
        ] {
            let uri = http::Uri::builder()
                .scheme("http")
                .authority("x")
                .path_and_query(path);
            let mut request = Request::new(Body::Empty);
            *request.uri_mut() = uri.build().unwrap();
            *request.headers_mut() = headers(&[("dapr-app-id", "callee")]);
            request.extensions_mut().insert(web.clone());
            let answer = invoker.proxy(request, &access, None).await;
            assert_eq!(answer.err().map(|error| error.code), Some(code), "{path}");
        }
    }

    #[test]
    fn the_callee_goes_before_the_app_id() {
        let both = headers(&[("dapr-app-id", "a"), ("dapr-callee-app-id", "b")]);
        assert_eq!(target(&both).unwrap(), "b");
        assert_eq!(target(&headers(&[("dapr-app-id", "a")])).unwrap(), "a");
        let error = target(&HeaderMap::new()).unwrap_err();
        assert_eq!(error.code, GrpcCode::Unknown);
        assert!(error.message.starts_with("cannot proxy request: missing"));
    }
}
