//! Transparent proxying: a gRPC call of a service that no sidecar knows goes to the app its metadata names
//! (contract `service-invocation`, section 5). Messages stay opaque bytes.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use outrigger_components_api::name_resolution::ResolveRequest;
use outrigger_model::GrpcCode;
use outrigger_trace_context::{GRPC_TRACE_BIN, TraceContext};
use tonic::body::Body as TonicBody;
use tower::ServiceExt as _;

use super::access::InvokeAccess;
use super::headers::{API_TOKEN, APP_ID, CALLEE_APP_ID, CALLER_APP_ID};
use super::peer::{Lease, with_source};
use super::target::{Target, parse};
use super::{InvokeError, Invoker, wire};
use crate::{Body, BodyError};

/// The answer's messages and trailers, as they come.
pub type ProxyBody = UnsyncBoxBody<Bytes, BodyError>;

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
    ) -> Result<Response<ProxyBody>, InvokeError> {
        let target = target(request.headers())?;
        let Target::App { id, namespace } = parse(&target).map_err(unknown)? else {
            return Err(unknown(InvokeError::internal(format!("invalid app id {target}"))));
        };
        if id == &*self.parts.identity.app_id {
            return self.proxy_to_app(request, access).await;
        }
        let namespace = namespace.unwrap_or(&self.parts.identity.namespace);
        self.proxy_to_peer(id, namespace, request, trace).await
    }

    async fn proxy_to_app(
        &self,
        mut request: Request<Body>,
        access: &InvokeAccess,
    ) -> Result<Response<ProxyBody>, InvokeError> {
        access.check(None, request.uri().path(), None)?;
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
        let response = app.channel().oneshot(request.map(TonicBody::new)).await;
        let response = response.map_err(|error| {
            InvokeError::status(
                GrpcCode::Unavailable,
                format!("connection error: desc = \"{}\"", with_source(&error)),
            )
        })?;
        Ok(response.map(|body| {
            body.map_err(|status| BodyError::Connection(status.message().to_owned()))
                .boxed_unsync()
        }))
    }

    async fn proxy_to_peer(
        &self,
        app_id: &str,
        namespace: &str,
        mut request: Request<Body>,
        trace: Option<&TraceContext>,
    ) -> Result<Response<ProxyBody>, InvokeError> {
        let callee =
            HeaderValue::from_str(app_id).map_err(|_| unknown(InvokeError::internal("invalid app id")))?;
        let headers = request.headers_mut();
        headers.remove(APP_ID);
        headers.append(CALLER_APP_ID, self.own_app_id.clone());
        headers.append(CALLEE_APP_ID, callee);
        if let Some(trace) = trace {
            trace.write_request_headers(headers);
            if let Ok(binary) = HeaderValue::from_str(&wire::unpadded(&trace.to_binary())) {
                headers.insert(GRPC_TRACE_BIN, binary);
            }
        }
        let lookup = ResolveRequest {
            app_id: app_id.to_owned(),
            namespace: namespace.to_owned(),
            port: self.parts.internal_port,
        };
        let address = self.parts.addresses.resolve(&lookup).await.map_err(unknown)?;
        let path = request.uri().path_and_query().cloned();
        let uri = http::Uri::builder()
            .scheme("http")
            .authority(address.as_str())
            .path_and_query(path.map_or_else(|| "/".to_owned(), |path| path.to_string()))
            .build();
        *request.uri_mut() = uri.map_err(|error| {
            unknown(InvokeError::internal(format!(
                "the resolver answered {address:?}, which is no address: {error}"
            )))
        })?;
        match self.parts.peers.send(&address, request).await {
            Ok((response, lease)) => Ok(response.map(|body| {
                Leased {
                    inner: body,
                    _lease: lease,
                }
                .boxed_unsync()
            })),
            Err(error) => {
                self.parts.peers.forget(&address);
                self.parts.addresses.forget(&lookup);
                Err(error)
            }
        }
    }
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
    inner: Incoming,
    _lease: Lease,
}

impl HttpBody for Leased {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let inner = Pin::new(&mut self.get_mut().inner);
        inner.poll_frame(cx).map_err(BodyError::from)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_callee_goes_before_the_app_id() {
        let both = headers(&[("dapr-app-id", "a"), ("dapr-callee-app-id", "b")]);
        assert_eq!(target(&both).unwrap(), "b");
        assert_eq!(target(&headers(&[("dapr-app-id", "a")])).unwrap(), "a");
        let error = target(&HeaderMap::new()).unwrap_err();
        assert_eq!(error.code, GrpcCode::Unknown);
        assert!(error.message.starts_with("cannot proxy request: missing"));
    }
}
