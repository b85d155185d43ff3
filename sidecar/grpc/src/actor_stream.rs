//! `SubscribeActorEventsAlpha1`: the app dials in and hosts actors over the stream.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use outrigger_proto::runtime::v1 as wire;
use outrigger_sidecar_core::Sidecar;
use outrigger_sidecar_core::actors::config::HostedTypes;
use outrigger_sidecar_core::actors::stream::OpenStream;
use tokio::sync::mpsc;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};
use wire::subscribe_actor_events_request_alpha1::RequestType;
use wire::subscribe_actor_events_response_alpha1::ResponseType;

/// What a stream answers.
pub(crate) type EventStream = BoxStream<wire::SubscribeActorEventsResponseAlpha1>;

/// The stream's two directions.
struct Open {
    answers: Streaming<wire::SubscribeActorEventsRequestAlpha1>,
    requests: mpsc::Receiver<wire::SubscribeActorEventsResponseAlpha1>,
    stream: OpenStream,
}

pub(crate) async fn subscribe(
    core: &Arc<Sidecar>,
    request: Request<Streaming<wire::SubscribeActorEventsRequestAlpha1>>,
) -> Result<Response<EventStream>, Status> {
    if core.invoker.app().is_some_and(|app| app.http().is_some()) {
        return Err(Status::failed_precondition(
            "actor callback streaming requires a gRPC app channel",
        ));
    }
    let mut answers = request.into_inner();
    let first = answers.message().await?.ok_or_else(|| Status::unknown("EOF"))?;
    let Some(RequestType::InitialRequest(initial)) = first.request_type else {
        return Err(Status::invalid_argument("initial request is required"));
    };
    let types = HostedTypes::from_stream(initial).map_err(Status::invalid_argument)?;
    let (stream, requests) = core.actor_streams.open(crate::actors::engine(core), types);
    let greeting = wire::SubscribeActorEventsResponseAlpha1 {
        response_type: Some(ResponseType::InitialResponse(
            wire::SubscribeActorEventsResponseInitialAlpha1 {},
        )),
    };
    let open = Open {
        answers,
        requests,
        stream,
    };
    let events = stream::unfold(Some(open), next);
    let answer = stream::once(std::future::ready(Ok(greeting))).chain(events);
    Ok(Response::new(Box::pin(answer)))
}

type Item = Result<wire::SubscribeActorEventsResponseAlpha1, Status>;

/// Takes answers until there is something to ask, or the end.
async fn next(open: Option<Open>) -> Option<(Item, Option<Open>)> {
    let mut open = open?;
    loop {
        let answer = tokio::select! {
            request = open.requests.recv() => {
                // The end: the sidecar stops.
                let request = request?;
                return Some((Ok(request), Some(open)));
            }
            answer = open.answers.message() => answer,
        };
        match answer {
            Ok(Some(message)) => match message.request_type {
                Some(RequestType::InitialRequest(_)) => {
                    return Some((
                        Err(Status::invalid_argument("duplicate initial request received")),
                        None,
                    ));
                }
                Some(answer) => open.stream.answered(answer),
                None => tracing::debug!("a message on an actor stream says nothing"),
            },
            Ok(None) => return None,
            Err(status) => return Some((Err(status), None)),
        }
    }
}
