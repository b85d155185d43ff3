//! Delivery to a gRPC app.

use std::collections::BTreeMap;
use std::error::Error as _;

use outrigger_cloudevents::{BULK_TYPE, Event};
use outrigger_components_api::RequestMetadata;
use outrigger_gojson::Value;
use outrigger_proto::runtime::v1 as wire;
use outrigger_proto::runtime::v1::topic_event_bulk_request_entry::Event as EntryEvent;
use outrigger_proto::runtime::v1::topic_event_response::TopicEventResponseStatus as Status;
use outrigger_trace_context::TraceContext;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct};
use tonic::{Code, Request};

use super::{BatchOutcome, Delivery, EntryStatus, Outcome, Refusal};
use crate::app::GrpcApp;
use crate::app::outgoing::grpc_metadata;
use crate::pubsub::bulk::{Batch, Content};

/// The event as `OnTopicEvent` and streams tell it.
///
/// # Errors
/// The event's data cannot be told in its content type.
pub(in crate::pubsub) fn topic_event(delivery: &Delivery) -> Result<wire::TopicEventRequest, String> {
    let event = &delivery.event;
    Ok(wire::TopicEventRequest {
        id: event.id().to_owned(),
        source: event.source().to_owned(),
        r#type: event.event_type().to_owned(),
        spec_version: event.spec_version().to_owned(),
        data_content_type: event.data_content_type().to_owned(),
        topic: delivery.topic.clone(),
        data: event.data_bytes().map_err(|error| error.to_string())?.into(),
        pubsub_name: delivery.pubsub.clone(),
        path: delivery.path.clone(),
        extensions: extensions(event),
    })
}

fn extensions(event: &Event) -> Option<Struct> {
    let fields: BTreeMap<String, prost_types::Value> = event
        .extensions()
        .map(|(name, value)| (name.to_owned(), to_proto(value)))
        .collect();
    (!fields.is_empty()).then_some(Struct { fields })
}

fn to_proto(value: &Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(truth) => Kind::BoolValue(*truth),
        Value::Number(text) => Kind::NumberValue(value.as_f64().or_else(|| text.parse().ok()).unwrap_or(0.0)),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(elements) => Kind::ListValue(ListValue {
            values: elements.iter().map(to_proto).collect(),
        }),
        Value::Object(members) => Kind::StructValue(Struct {
            fields: members
                .iter()
                .map(|(name, member)| (name.clone(), to_proto(member)))
                .collect(),
        }),
    };
    prost_types::Value { kind: Some(kind) }
}

fn request<T>(
    app: &GrpcApp,
    message: T,
    metadata: &RequestMetadata,
    trace: Option<&TraceContext>,
) -> Request<T> {
    let mut request = Request::new(message);
    grpc_metadata(request.metadata_mut(), metadata, trace);
    app.authorise(request.metadata_mut());
    request
}

/// A status that no app has sent has a source: the broken connection.
fn refusal(status: &tonic::Status) -> Refusal {
    let text = format!(
        "error returned from app while processing pub/sub event: rpc error: code = {:?} desc = {}",
        status.code(),
        status.message()
    );
    Refusal {
        undelivered: status.source().is_some(),
        ..Refusal::with_code(text, i32::from(status.code()))
    }
}

pub(super) async fn deliver(app: &GrpcApp, delivery: &Delivery) -> Outcome {
    let message = match topic_event(delivery) {
        Ok(message) => message,
        Err(text) => return Outcome::Refused(Refusal::new(text)),
    };
    let request = request(app, message, &delivery.metadata, delivery.trace.as_ref());
    match app.callback().on_topic_event(request).await {
        Ok(answer) => of_status(answer.get_ref().status),
        Err(status) if status.code() == Code::Unimplemented => {
            tracing::warn!(
                target: "dapr.runtime",
                "non-retriable error returned from app while processing pub/sub event: the app does not implement OnTopicEvent"
            );
            Outcome::Done
        }
        Err(status) => Outcome::Refused(refusal(&status)),
    }
}

/// What an app's or a stream's status means.
pub(in crate::pubsub) fn of_status(status: i32) -> Outcome {
    match Status::try_from(status) {
        Ok(Status::Success) => Outcome::Done,
        Ok(Status::Retry) => Outcome::Refused(Refusal::new(
            "RETRY status returned from app while processing pub/sub event",
        )),
        Ok(Status::Drop) => Outcome::Dropped,
        Err(_) => Outcome::Refused(Refusal::new(format!(
            "unknown status returned from app while processing pub/sub event: {status}"
        ))),
    }
}

fn bulk_entry(batch: &Batch, index: usize) -> Option<wire::TopicEventBulkRequestEntry> {
    let entry = batch.entries.get(index)?;
    let event = match &entry.content {
        Content::Raw(data) => EntryEvent::Bytes(data.clone()),
        Content::Event(event) => EntryEvent::CloudEvent(wire::TopicEventCeRequest {
            id: event.id().to_owned(),
            source: event.source().to_owned(),
            r#type: event.event_type().to_owned(),
            spec_version: event.spec_version().to_owned(),
            data_content_type: event.data_content_type().to_owned(),
            // Data that cannot be told is left out; the rest of the batch must not wait for it.
            data: event.plain_data_bytes().unwrap_or_default().into(),
            extensions: extensions(event),
        }),
    };
    Some(wire::TopicEventBulkRequestEntry {
        entry_id: entry.id.clone(),
        content_type: entry.content_type.clone().unwrap_or_default(),
        metadata: entry.metadata.clone().unwrap_or_default().into_iter().collect(),
        event: Some(event),
    })
}

pub(super) async fn deliver_batch(app: &GrpcApp, batch: &Batch, entries: &[usize]) -> BatchOutcome {
    let message = wire::TopicEventBulkRequest {
        id: super::super::new_id(),
        entries: entries
            .iter()
            .filter_map(|index| bulk_entry(batch, *index))
            .collect(),
        metadata: batch.metadata.clone().into_iter().collect(),
        topic: batch.topic.clone(),
        pubsub_name: batch.pubsub.clone(),
        r#type: BULK_TYPE.to_owned(),
        path: batch.path.clone(),
    };
    let make = |message| request(app, message, &batch.metadata, batch.trace.as_ref());
    let mut answer = app.callback().on_bulk_topic_event(make(message.clone())).await;
    if matches!(&answer, Err(status) if status.code() == Code::Unimplemented) {
        #[expect(deprecated, reason = "older SDKs serve only this one")]
        let older = app
            .callback_alpha()
            .on_bulk_topic_event_alpha1(make(message))
            .await;
        answer = older;
    }
    match answer {
        Ok(answer) => BatchOutcome::Statuses(
            answer
                .into_inner()
                .statuses
                .into_iter()
                .map(|entry| {
                    let status = match Status::try_from(entry.status) {
                        Ok(Status::Success) => EntryStatus::Success,
                        Ok(Status::Drop) => EntryStatus::Drop,
                        Ok(Status::Retry) | Err(_) => EntryStatus::Retry,
                    };
                    (entry.entry_id, status)
                })
                .collect(),
        ),
        Err(status) if status.code() == Code::Unimplemented => BatchOutcome::AllDropped,
        Err(status) => BatchOutcome::Refused(refusal(&status)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;
    use tokio::sync::watch;

    use super::*;
    use crate::app::AppChannel;
    use crate::config::{AppConfig, DisabledInitEndpoints, Protocol};
    use crate::metrics::Metrics;
    use crate::outside::Outside;

    fn app_on(port: u16) -> Arc<AppChannel> {
        let config = AppConfig {
            port: Some(port),
            protocol: Protocol::Grpc,
            address: "127.0.0.1".into(),
            max_concurrency: None,
            health_check: None,
            disabled_init: DisabledInitEndpoints::default(),
            binding_options_timeout: std::time::Duration::from_secs(1),
            token: None,
        };
        Arc::new(
            AppChannel::new(
                &config,
                1 << 20,
                1 << 16,
                &Outside::default(),
                &Metrics::default(),
                watch::channel(true).1,
            )
            .unwrap(),
        )
    }

    fn delivery() -> Delivery {
        Delivery {
            path: "/t".into(),
            event: Event::parse(b"{}").unwrap(),
            body: bytes::Bytes::new(),
            topic: "t".into(),
            pubsub: "ps".into(),
            metadata: RequestMetadata::new(),
            trace: None,
        }
    }

    async fn is_undelivered(app: &AppChannel) -> bool {
        match deliver(app.grpc().unwrap(), &delivery()).await {
            Outcome::Refused(refusal) => refusal.undelivered,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn an_app_that_cannot_be_reached_or_dies_before_it_answers_has_not_decided() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = app_on(listener.local_addr().unwrap().port());
        let dying = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 512];
            // The request's beginning has come; the app dies.
            assert!(stream.read(&mut request).await.unwrap() > 0);
            drop(stream);
            drop(listener);
        };
        let (undelivered, ()) = tokio::join!(is_undelivered(&app), dying);
        assert!(undelivered);
        assert!(is_undelivered(&app).await, "nobody listens");
    }

    #[test]
    fn a_status_of_the_app_itself_is_its_decision() {
        assert!(!refusal(&tonic::Status::unavailable("busy")).undelivered);
    }
}
