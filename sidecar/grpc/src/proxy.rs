//! Calls of services that this server doesn't know: they belong to an app.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame};
use http_body_util::Empty;
use hyper::body::Incoming;
use outrigger_sidecar_core::invoke::headers::{APP_ID, CALLEE_APP_ID};
use outrigger_sidecar_core::invoke::proxy::{CUT_OFF, ProxyAnswer, ProxyBody};
use outrigger_sidecar_core::metrics::MeasuredBody;
use outrigger_sidecar_core::spans::{Span, SpanKind};
use outrigger_sidecar_core::{Body as CoreBody, BodyError};
use outrigger_trace_context::TraceContext;
use tonic::Status;
use tonic::body::Body;

use crate::{GrpcApi, error, reply, spans, trace};

impl GrpcApi {
    /// Sends the call to its app, itself or through another sidecar.
    pub(crate) async fn proxy(self: &Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let span = trace::start(&self.core, request.headers());
        let recorded = self.begin_proxied_span(span.as_ref(), &request);
        let is_measured = self.core.metrics.is_enabled();
        let (request, call) = self.core.metrics.grpc.server(request.map(CoreBody::from));
        let request = if is_measured {
            request.map(CoreBody::boxed)
        } else {
            request.map(MeasuredBody::into_inner)
        };
        let answer = self
            .core
            .invoker
            .proxy(request, &self.options.invoke_access, span.as_ref())
            .await;
        let response = match answer {
            Ok(ProxyAnswer::Status(trailers)) => reply::response(trailers, Empty::<Bytes>::new()),
            Ok(ProxyAnswer::Stream { headers, first, rest }) => {
                let relayed = Relayed {
                    first: Some(first),
                    rest: Some(rest),
                    ended: false,
                };
                reply::response(headers, relayed)
            }
            Err(error) => error::from_invoke(&error).into_http(),
        };
        if let Some(recorded) = recorded {
            spans::end(recorded, response.headers());
        }
        if is_measured {
            call.answer(response).map(Body::new)
        } else {
            response
        }
    }
}

impl GrpcApi {
    fn begin_proxied_span(
        &self,
        context: Option<&TraceContext>,
        request: &Request<Incoming>,
    ) -> Option<Span> {
        let headers = request.headers();
        if !self.core.tracing.spans().is_on() {
            return None;
        }
        let target = headers.get(CALLEE_APP_ID).or_else(|| headers.get(APP_ID))?;
        let kind = if target.as_bytes() == self.core.identity.app_id.as_bytes() {
            SpanKind::Server
        } else {
            SpanKind::Client
        };
        let parent = trace::parent(headers);
        let path = request.uri().path();
        let mut span = spans::begin_as(&self.core, context, parent.as_ref(), kind, path)?;
        span.set_headers(headers, true);
        Some(span)
    }
}

/// The rest of an answer; a broken connection becomes a status.
struct Relayed {
    first: Option<Bytes>,
    rest: Option<ProxyBody>,
    ended: bool,
}

impl HttpBody for Relayed {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let Some(rest) = &mut this.rest else {
            return Poll::Ready(None);
        };
        let status = match ready!(Pin::new(rest).poll_frame(cx)) {
            Some(Ok(frame)) => {
                this.ended |= frame.is_trailers();
                return Poll::Ready(Some(Ok(frame)));
            }
            None if this.ended => return Poll::Ready(None),
            None => Status::internal(CUT_OFF),
            Some(Err(error @ BodyError::MessageTooLarge { .. })) => {
                Status::resource_exhausted(error.to_string())
            }
            Some(Err(error @ BodyError::Deadline)) => Status::deadline_exceeded(error.to_string()),
            Some(Err(error)) => Status::unavailable(error.to_string()),
        };
        this.rest = None;
        let mut trailers = HeaderMap::new();
        // Message and details are encoded into ASCII, which every header can hold.
        let _ = status.add_header(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}
