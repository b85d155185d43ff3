//! Actors in a gRPC app, which dials the sidecar and is asked over that stream: `SubscribeActorEventsAlpha1`
//! (contract `actors`, section 8).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use outrigger_model::GrpcCode;
use outrigger_proto::common::v1::InvokeResponse;
use outrigger_proto::internals::v1::{
    InternalInvokeRequest, InternalInvokeResponse, ListStringValue, Status as WireStatus,
};
use outrigger_proto::runtime::v1 as wire;
use outrigger_sidecar_actors::config::HostedTypes;
use outrigger_sidecar_actors::reminders::ReminderCall;
use outrigger_sidecar_actors::router::REENTRANCY_ID;
use outrigger_sidecar_actors::seams::{ActorTarget, TurnContext};
use outrigger_sidecar_actors::{ActorError, ActorKey, Engine};
use tokio::sync::{mpsc, oneshot};
use wire::subscribe_actor_events_request_alpha1::RequestType;
use wire::subscribe_actor_events_response_alpha1::ResponseType;

/// Requests that the app has not read yet.
const OUTBOX: usize = 128;
const ACTOR_ERROR: &str = "X-Daprerrorresponseheader";

/// The app's streams; the newest is asked.
#[derive(Default)]
pub struct StreamActors {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    suspended: bool,
    streams: Vec<Stream>,
}

struct Stream {
    number: u64,
    types: HostedTypes,
    /// At the engine, while the app is healthy.
    registration: Option<u64>,
    outbox: mpsc::Sender<wire::SubscribeActorEventsResponseAlpha1>,
    next_request: u64,
    pending: HashMap<String, oneshot::Sender<RequestType>>,
}

/// One stream of the app; dropping it unregisters its types and fails what was asked over it.
pub struct OpenStream {
    actors: Arc<StreamActors>,
    engine: Option<Arc<Engine>>,
    number: u64,
}

impl StreamActors {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a stream that hosts these types; what the app is asked comes out of the receiver.
    pub fn open(
        self: &Arc<Self>,
        engine: Option<Arc<Engine>>,
        types: HostedTypes,
    ) -> (
        OpenStream,
        mpsc::Receiver<wire::SubscribeActorEventsResponseAlpha1>,
    ) {
        let (outbox, requests) = mpsc::channel(OUTBOX);
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        let mut stream = Stream {
            number,
            types,
            registration: None,
            outbox,
            next_request: 0,
            pending: HashMap::new(),
        };
        if let Some(engine) = engine.as_ref().filter(|_| !state.suspended) {
            stream.register(engine, self);
        }
        state.streams.push(stream);
        let open = OpenStream {
            actors: Arc::clone(self),
            engine,
            number,
        };
        (open, requests)
    }

    /// The app is unhealthy: nothing is hosted over its streams until [`Self::resume`].
    pub fn suspend(&self, engine: &Arc<Engine>) {
        let mut state = self.state();
        state.suspended = true;
        for stream in &mut state.streams {
            if let Some(registration) = stream.registration.take() {
                engine.unregister(registration);
            }
        }
    }

    /// The app is healthy.
    pub fn resume(self: &Arc<Self>, engine: &Arc<Engine>) {
        let mut state = self.state();
        state.suspended = false;
        for stream in &mut state.streams {
            stream.register(engine, self);
        }
    }

    /// Ends all streams: the sidecar stops.
    pub fn close(&self) {
        let streams = std::mem::take(&mut self.state().streams);
        drop(streams);
    }

    /// Asks the app and waits for its answer.
    async fn ask(
        &self,
        request: impl FnOnce(String) -> ResponseType + Send,
    ) -> Result<RequestType, ActorError> {
        let (number, id, outbox, answer) = {
            let mut state = self.state();
            let Some(stream) = state.streams.last_mut() else {
                return Err(ActorError::failed("no actor stream of the app is open"));
            };
            stream.next_request += 1;
            let id = stream.next_request.to_string();
            let (sender, answer) = oneshot::channel();
            stream.pending.insert(id.clone(), sender);
            (stream.number, id, stream.outbox.clone(), answer)
        };
        let _forget = Forget {
            actors: self,
            number,
            id: &id,
        };
        let message = wire::SubscribeActorEventsResponseAlpha1 {
            response_type: Some(request(id.clone())),
        };
        let gone = || ActorError::failed("the actor stream of the app ended");
        outbox.send(message).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}

/// Takes a request that is answered, or not waited for any more, off the list.
struct Forget<'a> {
    actors: &'a StreamActors,
    number: u64,
    id: &'a str,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut state = self.actors.state();
        let mut streams = state.streams.iter_mut();
        if let Some(stream) = streams.find(|stream| stream.number == self.number) {
            stream.pending.remove(self.id);
        }
    }
}

impl Stream {
    fn register(&mut self, engine: &Arc<Engine>, actors: &Arc<StreamActors>) {
        if self.registration.is_none() && !self.types.types.is_empty() {
            let target: Arc<dyn ActorTarget> = actors.clone();
            self.registration = Some(engine.register(self.types.clone(), target));
        }
    }
}

impl OpenStream {
    /// The app answered. An answer nobody waits for is passed over.
    pub fn answered(&self, answer: RequestType) {
        let id = match &answer {
            RequestType::InvokeResponse(answer) => &answer.id,
            RequestType::ReminderResponse(answer) | RequestType::TimerResponse(answer) => &answer.id,
            RequestType::DeactivateResponse(answer) => &answer.id,
            RequestType::RequestFailed(answer) => &answer.id,
            RequestType::InitialRequest(_) => return,
        };
        let waiting = {
            let mut state = self.actors.state();
            let mut streams = state.streams.iter_mut();
            let stream = streams.find(|stream| stream.number == self.number);
            stream.and_then(|stream| stream.pending.remove(id))
        };
        if let Some(waiting) = waiting {
            // Whoever asked may have given up just now.
            let _ = waiting.send(answer);
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let stream = {
            let mut state = self.actors.state();
            let at = state
                .streams
                .iter()
                .position(|stream| stream.number == self.number);
            at.map(|at| state.streams.remove(at))
        };
        if let (Some(engine), Some(registration)) = (&self.engine, stream.and_then(|s| s.registration)) {
            engine.unregister(registration);
        }
    }
}

#[async_trait]
impl ActorTarget for StreamActors {
    async fn invoke(
        &self,
        actor: &ActorKey,
        request: Arc<InternalInvokeRequest>,
        context: TurnContext,
    ) -> Result<InternalInvokeResponse, ActorError> {
        let Some(message) = &request.message else {
            return Err(ActorError::failed(
                "failed to create InvokeMethodRequest: field Message is nil",
            ));
        };
        let first =
            |(key, list): (&String, &ListStringValue)| Some((key.clone(), list.values.first()?.clone()));
        let mut metadata: HashMap<_, _> = request.metadata.iter().filter_map(first).collect();
        if let Some(chain) = &context.chain {
            metadata
                .entry(REENTRANCY_ID.to_owned())
                .or_insert_with(|| chain.to_string());
        }
        let answer = self.ask(|id| {
            ResponseType::InvokeRequest(wire::SubscribeActorEventsResponseInvokeRequestAlpha1 {
                id,
                actor_type: actor.actor_type.to_string(),
                actor_id: actor.id.to_string(),
                method: message.method.clone(),
                data: message
                    .data
                    .as_ref()
                    .map(|data| Bytes::copy_from_slice(&data.value))
                    .unwrap_or_default(),
                metadata,
            })
        });
        match answer.await? {
            RequestType::InvokeResponse(answer) => invoke_answer(answer),
            other => Err(unexpected(&other)),
        }
    }

    async fn fire(&self, call: &ReminderCall, _context: TurnContext) -> Result<(), ActorError> {
        let (actor_type, actor_id) = (call.actor.actor_type.to_string(), call.actor.id.to_string());
        let answer = self.ask(|id| match &call.timer {
            Some(callback) => {
                ResponseType::TimerRequest(wire::SubscribeActorEventsResponseTimerRequestAlpha1 {
                    id,
                    actor_type,
                    actor_id,
                    name: call.name.clone(),
                    due_time: call.due_time.clone(),
                    period: call.period.clone(),
                    callback: callback.clone(),
                    data: call.data.clone(),
                })
            }
            None => ResponseType::ReminderRequest(wire::SubscribeActorEventsResponseReminderRequestAlpha1 {
                id,
                actor_type,
                actor_id,
                name: call.name.clone(),
                due_time: call.due_time.clone(),
                period: call.period.clone(),
                data: call.data.clone(),
            }),
        });
        match answer.await? {
            RequestType::ReminderResponse(answer) | RequestType::TimerResponse(answer) => {
                if answer.cancel {
                    Err(ActorError::ReminderCanceled)
                } else {
                    Ok(())
                }
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn deactivate(&self, actor: &ActorKey) -> Result<(), ActorError> {
        let answer = self.ask(|id| {
            ResponseType::DeactivateRequest(wire::SubscribeActorEventsResponseDeactivateRequestAlpha1 {
                id,
                actor_type: actor.actor_type.to_string(),
                actor_id: actor.id.to_string(),
            })
        });
        match answer.await? {
            RequestType::DeactivateResponse(_) => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}

fn invoke_answer(
    answer: wire::SubscribeActorEventsRequestInvokeResponseAlpha1,
) -> Result<InternalInvokeResponse, ActorError> {
    let mut headers: HashMap<_, _> = answer
        .metadata
        .into_iter()
        .map(|(key, value)| (key, ListStringValue { values: vec![value] }))
        .collect();
    if answer.error {
        let mark = ListStringValue {
            values: vec!["true".to_owned()],
        };
        headers.insert(ACTOR_ERROR.to_owned(), mark);
    }
    let response = InternalInvokeResponse {
        status: Some(WireStatus {
            code: 200,
            ..WireStatus::default()
        }),
        headers,
        trailers: HashMap::new(),
        message: Some(InvokeResponse {
            data: Some(prost_types::Any {
                type_url: String::new(),
                value: answer.data.into(),
            }),
            content_type: String::new(),
        }),
    };
    if answer.error {
        return Err(ActorError::Actor(Box::new(response)));
    }
    Ok(response)
}

/// The app failed, or answered something else than it was asked.
fn unexpected(answer: &RequestType) -> ActorError {
    match answer {
        RequestType::RequestFailed(failed) => {
            let code = GrpcCode::from_i32(i32::try_from(failed.code).unwrap_or(i32::MAX));
            ActorError::failed(format!("rpc error: code = {code} desc = {}", failed.message))
        }
        _ => ActorError::failed("the app answered another request than it was asked"),
    }
}
