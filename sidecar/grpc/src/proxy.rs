//! Calls of services that this server doesn't know: they belong to an app.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use outrigger_sidecar_core::Body as CoreBody;
use outrigger_sidecar_core::invoke::frames::GRPC_STATUS;
use outrigger_sidecar_core::invoke::proxy::ProxyBody;
use tonic::Status;
use tonic::body::Body;

use crate::{GrpcApi, error, reply, trace};

impl GrpcApi {
    /// Sends the call to its app, itself or through another sidecar.
    pub(crate) async fn proxy(self: &Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let span = trace::start(&self.core, request.headers());
        let request = request.map(CoreBody::from);
        let answer = self
            .core
            .invoker
            .proxy(request, &self.options.invoke_access, span.as_ref())
            .await;
        match answer {
            Ok(response) => relay(response).await,
            Err(error) => error::from_invoke(&error).into_http(),
        }
    }
}

/// Upstream hands headers on with the first message: an answer without messages has no headers, only trailers.
async fn relay(response: Response<ProxyBody>) -> Response<Body> {
    let (parts, mut body) = response.into_parts();
    if parts.headers.contains_key(GRPC_STATUS) {
        return reply::response(parts.headers, Empty::<Bytes>::new());
    }
    if parts.status != http::StatusCode::OK {
        let text = format!(
            "unexpected HTTP status code received from server: {}",
            parts.status
        );
        return Status::unavailable(text).into_http();
    }
    loop {
        let frame = match body.frame().await {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Status::unavailable(error.to_string()).into_http(),
            None => return cut_off().into_http(),
        };
        match frame.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => {
                let relayed = Relayed {
                    first: Some(data),
                    rest: Some(body),
                    ended: false,
                };
                return reply::response(parts.headers, relayed);
            }
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                return reply::response(trailers, Empty::<Bytes>::new());
            }
        }
    }
}

/// The text of Go's client for the same.
fn cut_off() -> Status {
    Status::internal("server closed the stream without sending trailers")
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
            None => cut_off(),
            Some(Err(error)) => Status::unavailable(error.to_string()),
        };
        this.rest = None;
        let mut trailers = HeaderMap::new();
        // Message and details are encoded into ASCII, which every header can hold.
        let _ = status.add_header(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}
