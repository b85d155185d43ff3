//! `PublishEvent`, `BulkPublishEvent`, `SubscribeTopicEventsAlpha1`

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use outrigger_components_api::RequestMetadata;
use outrigger_proto::runtime::v1 as wire;
use outrigger_proto::runtime::v1::subscribe_topic_events_request_alpha1::SubscribeTopicEventsRequestType as Asked;
use outrigger_proto::runtime::v1::subscribe_topic_events_response_alpha1::SubscribeTopicEventsResponseType as Told;
use outrigger_sidecar_core::pubsub::stream::{Stream as Events, StreamError, StreamRequest};
use outrigger_sidecar_core::pubsub::{BulkError, Entry, PublishTrace};
use outrigger_sidecar_core::{Edge, Sidecar};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use crate::error::{map, to_status};
use crate::trace;

/// What a stream answers.
pub(crate) type EventStream = BoxStream<wire::SubscribeTopicEventsResponseAlpha1>;

pub(crate) fn trace_of<T>(request: &Request<T>) -> PublishTrace {
    let headers = request.metadata().clone().into_headers();
    PublishTrace::new(trace::of(request.extensions()), trace::parent(&headers).is_some())
}

pub(crate) async fn publish(
    core: &Sidecar,
    request: Request<wire::PublishEventRequest>,
) -> Result<Response<()>, Status> {
    let trace = trace_of(&request);
    let request = request.into_inner();
    let target = core
        .pubsub
        .target(
            &request.pubsub_name,
            &request.topic,
            map(request.metadata),
            Edge::Grpc,
        )
        .map_err(|error| to_status(&error))?;
    target
        .publish(request.data, &request.data_content_type, &trace)
        .await
        .map_err(|error| to_status(&error))?;
    Ok(Response::new(()))
}

pub(crate) async fn publish_bulk(
    core: &Sidecar,
    request: Request<wire::BulkPublishRequest>,
) -> Result<Response<wire::BulkPublishResponse>, Status> {
    let trace = trace_of(&request);
    let request = request.into_inner();
    let target = core
        .pubsub
        .target(
            &request.pubsub_name,
            &request.topic,
            map(request.metadata),
            Edge::Grpc,
        )
        .map_err(|error| to_status(&error))?;
    let entries = request
        .entries
        .into_iter()
        .map(|entry| Entry {
            entry_id: entry.entry_id,
            data: entry.event,
            content_type: entry.content_type,
            metadata: Some(map(entry.metadata)).filter(|metadata: &RequestMetadata| !metadata.is_empty()),
        })
        .collect();
    match target.publish_bulk(entries, &trace).await {
        Ok(()) => Ok(Response::new(wire::BulkPublishResponse::default())),
        Err(BulkError::Refused(error) | BulkError::Failed { error, .. }) => Err(to_status(&error)),
    }
}

/// The stream's two directions.
struct Open {
    requests: Streaming<wire::SubscribeTopicEventsRequestAlpha1>,
    events: Events,
}

pub(crate) async fn subscribe(
    core: &Arc<Sidecar>,
    request: Request<Streaming<wire::SubscribeTopicEventsRequestAlpha1>>,
) -> Result<Response<EventStream>, Status> {
    let mut requests = request.into_inner();
    let first = requests.message().await?.ok_or_else(|| Status::unknown("EOF"))?;
    let Some(Asked::InitialRequest(initial)) = first.subscribe_topic_events_request_type else {
        return Err(Status::unknown("initial request is required"));
    };
    let opened = core.pubsub.open_stream(StreamRequest {
        pubsub: initial.pubsub_name,
        topic: initial.topic,
        metadata: map(initial.metadata),
        dead_letter: initial.dead_letter_topic,
    });
    let events = opened.await.map_err(|error| match error {
        StreamError::Api(error) => to_status(&error),
        StreamError::Text(text) => Status::unknown(text),
    })?;
    let greeting = wire::SubscribeTopicEventsResponseAlpha1 {
        subscribe_topic_events_response_type: Some(Told::InitialResponse(
            wire::SubscribeTopicEventsResponseInitialAlpha1::default(),
        )),
    };
    let events = stream::unfold(Some(Open { requests, events }), next);
    let answer = stream::once(std::future::ready(Ok(greeting))).chain(events);
    Ok(Response::new(Box::pin(answer)))
}

type Item = Result<wire::SubscribeTopicEventsResponseAlpha1, Status>;

/// Hands answers on until there is an event, or the end.
async fn next(open: Option<Open>) -> Option<(Item, Option<Open>)> {
    let mut open = open?;
    let end = loop {
        let asked = tokio::select! {
            event = open.events.next() => match event {
                Some(event) => {
                    let told = wire::SubscribeTopicEventsResponseAlpha1 {
                        subscribe_topic_events_response_type: Some(Told::EventMessage(event)),
                    };
                    return Some((Ok(told), Some(open)));
                }
                // The sidecar stops.
                None => break None,
            },
            asked = open.requests.message() => asked,
        };
        match asked {
            Ok(Some(message)) => match message.subscribe_topic_events_request_type {
                Some(Asked::EventProcessed(processed)) => {
                    let status = processed.status.unwrap_or_default().status;
                    open.events.answer(&processed.id, status);
                }
                Some(Asked::InitialRequest(_)) => {
                    break Some(Status::unknown("duplicate initial request received"));
                }
                None => tracing::debug!("a message on a subscription's stream says nothing"),
            },
            Ok(None) => break Some(Status::unknown("EOF")),
            Err(status) => break Some(status),
        }
    };
    open.events.close().await;
    end.map(|status| (Err(status), None))
}
