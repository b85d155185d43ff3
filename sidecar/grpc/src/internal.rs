//! The internal API: calls that other sidecars make on behalf of their apps.

use std::sync::Arc;

use futures_util::StreamExt as _;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use outrigger_model::GrpcCode;
use outrigger_proto::internals::v1::{InternalInvokeRequest, ListStringValue, Reminder};
use outrigger_sidecar_core::Body as CoreBody;
use outrigger_sidecar_core::actors::reminders::ReminderCall;
use outrigger_sidecar_core::actors::router::REMOTE;
use outrigger_sidecar_core::actors::{ActorError, ActorKey, Engine};
use outrigger_sidecar_core::app::AppChannel;
use outrigger_sidecar_core::invoke::access::PeerCaller;
use outrigger_sidecar_core::invoke::frames::{Direction, FrameReader, FramesBody, PayloadBody};
use outrigger_sidecar_core::invoke::headers::CALLER_APP_ID;
use outrigger_sidecar_core::invoke::lead::{self, RequestLead};
use outrigger_sidecar_core::invoke::message::NO_EVENTS;
use outrigger_sidecar_core::invoke::{InvokeError, InvokeRequest, InvokeResponse, local, wire};
use outrigger_sidecar_core::spans::{Span, SpanKind};
use outrigger_trace_context::TraceContext;
use prost::Message;
use tonic::Status;
use tonic::body::Body;

use crate::{GrpcApi, actors, error, reply, spans, trace};

/// The method by which sidecars call each other's apps.
pub(crate) const STREAM: &str = "CallLocalStream";
/// Largest answer body whose first piece the leading message waits for.
const WAIT_BELOW: u64 = 64 << 10;

/// What the connection and the head of a call say about the other sidecar.
struct Peer {
    caller: Option<PeerCaller>,
    /// The span that its call belongs to; looked for only while spans are exported.
    parent: Option<TraceContext>,
}

impl GrpcApi {
    /// A call of the internal service that is not [`STREAM`].
    pub(crate) async fn internal(
        self: &Arc<Self>,
        method: &str,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let span = trace::start(&self.core, request.headers());
        let peer = self.peer(&request);
        let reader = FrameReader::new(request.into_body(), self.options.max_message);
        finished(match method {
            "CallLocal" => self.call_local(reader, span, &peer).await,
            "CallActor" => self.call_actor(reader, span).await,
            "CallActorReminder" => self.call_actor_reminder(reader, span).await,
            "CallActorStream" => self.call_actor_stream(reader, span).await,
            other => Err(Status::unimplemented(format!("unknown method {other}"))),
        })
    }

    /// [`STREAM`].
    pub(crate) async fn internal_stream(&self, request: Request<Incoming>) -> Response<Body> {
        let span = trace::start(&self.core, request.headers());
        let peer = self.peer(&request);
        let reader = FrameReader::new(request.into_body(), self.options.max_message);
        finished(self.call_local_stream(reader, span, &peer).await)
    }

    fn peer(&self, request: &Request<Incoming>) -> Peer {
        let spans = self.core.tracing.spans();
        Peer {
            caller: request.extensions().get::<PeerCaller>().cloned(),
            parent: spans.is_on().then(|| trace::parent(request.headers())).flatten(),
        }
    }

    async fn call_local_stream(
        &self,
        mut reader: FrameReader,
        span: Option<TraceContext>,
        peer: &Peer,
    ) -> Result<Response<Body>, Status> {
        let app = self.app()?;
        let first = match reader.next().await {
            Some(first) => first.map_err(|error| error::from_invoke(&error))?,
            None => return Err(Status::unknown("EOF")),
        };
        let mut first = RequestLead::decode(first).map_err(|error| error::from_invoke(&error))?;
        if first.headers.is_empty() || first.message.is_none() {
            return Err(Status::invalid_argument(
                "parsing InternalInvokeRequest error: request does not contain the required fields in the leading chunk",
            ));
        }
        let payload = PayloadBody::new(first.payload.take(), reader, Direction::Request)
            .map_err(|error| error::from_invoke(&error))?;
        let body = if payload.is_drained() {
            CoreBody::Empty
        } else {
            CoreBody::boxed(payload)
        };
        let request = wire::lead_to_request(first, body, span).map_err(|error| refused(&error))?;
        let asks_for_events = request.asks_for_events();
        let mut answer = self.counted_call(app, request, peer).await?;
        if asks_for_events {
            answer = answer
                .into_events()
                .ok_or_else(|| app_failed(&InvokeError::internal(NO_EVENTS)))?;
        }
        let wait_for_first = content_length(&answer.headers).is_some_and(|length| length <= WAIT_BELOW);
        let lead = lead::encode_response(&answer);
        Ok(reply::response(
            HeaderMap::new(),
            FramesBody::response(lead, answer.body, wait_for_first),
        ))
    }

    /// The older form with everything in one message each way.
    async fn call_local(
        &self,
        mut reader: FrameReader,
        span: Option<TraceContext>,
        peer: &Peer,
    ) -> Result<Response<Body>, Status> {
        let app = self.app()?;
        let message = match reader.next().await {
            Some(message) => message.map_err(|error| error::from_invoke(&error))?,
            None => return Err(Status::internal("the request has no message")),
        };
        let mut request =
            InternalInvokeRequest::decode(message).map_err(|error| Status::internal(error.to_string()))?;
        let data = request.message.as_mut().and_then(|message| message.data.as_mut());
        let bytes = data
            .map(|data| std::mem::take(&mut data.value))
            .unwrap_or_default();
        let request =
            wire::to_request(request, CoreBody::full(bytes), span).map_err(|error| refused(&error))?;
        let answer = self.counted_call(app, request, peer).await?;
        let mut response = wire::response(&answer);
        let bytes = answer
            .body
            .collect_bytes()
            .await
            .map_err(|error| Status::internal(format!("error invoking app channel: {error}")))?;
        let message = response.message.get_or_insert_default();
        message.data.get_or_insert_default().value = bytes.to_vec();
        Ok(reply::ok(HeaderMap::new(), &response, HeaderMap::new()))
    }

    /// Reads the one message of a call.
    async fn message<T: Message + Default>(mut reader: FrameReader) -> Result<T, Status> {
        let message = match reader.next().await {
            Some(message) => message.map_err(|error| error::from_invoke(&error))?,
            None => return Err(Status::internal("the request has no message")),
        };
        T::decode(message).map_err(|error| Status::internal(error.to_string()))
    }

    /// An actor request from another sidecar, marked so.
    async fn actor_request(reader: FrameReader) -> Result<InternalInvokeRequest, Status> {
        let mut request: InternalInvokeRequest = Self::message(reader).await?;
        let remote = ListStringValue {
            values: vec!["true".to_owned()],
        };
        request.metadata.insert(REMOTE.to_owned(), remote);
        Ok(request)
    }

    fn engine(&self) -> Result<&Arc<Engine>, Status> {
        self.core
            .actors
            .engine()
            .map_err(|error| error::to_status(&error))
    }

    async fn call_actor(
        &self,
        reader: FrameReader,
        span: Option<TraceContext>,
    ) -> Result<Response<Body>, Status> {
        let engine = self.engine()?;
        let request = Self::actor_request(reader).await?;
        let answer = match engine.invoke(request, span).await {
            Ok(answer) => answer,
            Err(ActorError::Actor(answer)) => *answer,
            Err(error) => return Err(actors::call_failed(&error)),
        };
        Ok(reply::ok(HeaderMap::new(), &answer, HeaderMap::new()))
    }

    async fn call_actor_reminder(
        &self,
        reader: FrameReader,
        span: Option<TraceContext>,
    ) -> Result<Response<Body>, Status> {
        let engine = self.engine()?;
        let reminder: Reminder = Self::message(reader).await?;
        let call = ReminderCall {
            actor: ActorKey::new(reminder.actor_type, reminder.actor_id),
            name: reminder.name,
            data: reminder.data,
            due_time: reminder.due_time,
            period: reminder.period,
            // What a timer's maker wants called is not on the wire.
            timer: reminder.is_timer.then(String::new),
            skip_lock: reminder.skip_lock,
        };
        match engine.fire_for_peer(call, span).await {
            Ok(()) => Ok(reply::ok(HeaderMap::new(), &(), HeaderMap::new())),
            Err(error) => Err(reminder_failed(&error)),
        }
    }

    async fn call_actor_stream(
        &self,
        reader: FrameReader,
        span: Option<TraceContext>,
    ) -> Result<Response<Body>, Status> {
        let engine = self.engine()?;
        let request = Self::actor_request(reader).await?;
        let answers = engine
            .stream(request, span)
            .await
            .map_err(|error| reminder_failed(&error))?;
        Ok(reply::stream(answers.map(|answer| {
            answer.map_err(|error| actors::call_failed(&error))
        })))
    }

    fn app(&self) -> Result<&AppChannel, Status> {
        let app = self.core.invoker.app();
        app.map(Arc::as_ref)
            .ok_or_else(|| Status::internal("app channel is not initialized"))
    }

    /// [`Self::call_app`], told to metrics and spans.
    async fn counted_call(
        &self,
        app: &AppChannel,
        request: InvokeRequest,
        peer: &Peer,
    ) -> Result<InvokeResponse, Status> {
        let span = self.begin_span(&request, peer);
        let result = self.metered_call(app, request, peer.caller.as_ref()).await;
        if let Some(mut span) = span {
            if let Err(status) = &result {
                span.fail(status.message());
            }
            span.end();
        }
        result
    }

    fn begin_span(&self, request: &InvokeRequest, peer: &Peer) -> Option<Span> {
        if !self.core.tracing.spans().is_on() {
            return None;
        }
        let name = format!("CallLocal/{}/{}", self.core.identity.app_id, request.method);
        let (trace, parent) = (request.trace.as_ref(), peer.parent.as_ref());
        let mut span = spans::begin_as(&self.core, trace, parent, SpanKind::Server, &name)?;
        span.set("dapr.invoke_method", request.method.as_str());
        span.set("rpc.service", "ServiceInvocation");
        Some(span)
    }

    async fn metered_call(
        &self,
        app: &AppChannel,
        request: InvokeRequest,
        peer: Option<&PeerCaller>,
    ) -> Result<InvokeResponse, Status> {
        if !self.core.metrics.is_enabled() {
            return self.call_app(app, request, peer).await;
        }
        let caller = request.headers.get_all(CALLER_APP_ID).iter().next_back().cloned();
        let caller = caller
            .as_ref()
            .and_then(|caller| caller.to_str().ok())
            .unwrap_or("unknown");
        let metrics = &self.core.metrics.runtime;
        metrics.invocation_received(caller);
        let result = self.call_app(app, request, peer).await;
        let status = match &result {
            Ok(answer) => answer.status.code,
            Err(_) => GrpcCode::Internal.as_i32(),
        };
        metrics.response_sent(caller, status);
        result
    }

    /// Authorises and makes the call.
    async fn call_app(
        &self,
        app: &AppChannel,
        request: InvokeRequest,
        caller: Option<&PeerCaller>,
    ) -> Result<InvokeResponse, Status> {
        let verb = request.verb.as_ref().map(http::Method::as_str);
        self.options
            .invoke_access
            .check(caller, &request.method, verb)
            .map_err(|error| error::from_invoke(&error))?;
        local::invoke(app, request)
            .await
            .map_err(|error| app_failed(&error))
    }
}

fn finished(result: Result<Response<Body>, Status>) -> Response<Body> {
    let mut answer = result.unwrap_or_else(Status::into_http);
    // For our own counting of the app's errors, not for other sidecars.
    error::take_mark(answer.headers_mut());
    answer
}

/// A call that did not reach the app.
fn reminder_failed(error: &ActorError) -> Status {
    let (code, text) = error.reminder_status();
    Status::new(tonic::Code::from_i32(code.as_i32()), text)
}

fn app_failed(error: &InvokeError) -> Status {
    Status::internal(format!("error invoking app channel: {error}"))
}

/// A request that cannot be made a call. Its version is looked at by upstream's app channel.
fn refused(error: &InvokeError) -> Status {
    if error.code == GrpcCode::Unimplemented {
        return app_failed(error);
    }
    error::from_invoke(error)
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(http::header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}
