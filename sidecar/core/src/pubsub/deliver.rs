//! From a broker's message to the subscriber and back to the broker's acknowledgement (contract `pubsub`,
//! section 4).

pub(super) mod app;
mod grpc;
mod http;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use outrigger_cloudevents::{BinaryInput, Event, RawInput, content_type};
use outrigger_components_api::RequestMetadata;
use outrigger_components_api::pubsub::{HandlerError, MessageHandler, NewMessage};
use outrigger_resiliency::Failure;
use outrigger_trace_context::TraceContext;
use tokio_util::sync::CancellationToken;

use super::Inner;
use super::bulk::Batch;
use super::routes::Routes;
use super::subscription::SubscriptionSpec;
use crate::metrics::IngressStatus;
use crate::spans::Span;

pub(super) use grpc::of_status as grpc_status;
pub(super) use grpc::topic_event;

/// An event on its way to a subscriber.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Path of the app, from the matching rule.
    pub path: String,
    /// The event.
    pub event: Event,
    /// What an HTTP app gets.
    pub body: Bytes,
    /// The topic it came by, without namespace.
    pub topic: String,
    /// Pub/sub component.
    pub pubsub: String,
    /// The broker's metadata and the component's name.
    pub metadata: RequestMetadata,
    /// The span of the delivery.
    pub trace: Option<TraceContext>,
}

/// Why a subscriber did not take an event that may be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For people.
    pub text: String,
    /// HTTP status or gRPC code.
    pub code: Option<i32>,
    /// The subscriber could not be reached, or was gone before it answered.
    pub undelivered: bool,
}

/// What became of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged.
    Done,
    /// Given up by the subscriber: for the dead letter topic.
    Dropped,
    /// Not taken.
    Refused(Refusal),
    /// The subscriber is gone for good: the event belongs to somebody else.
    Closed,
}

/// What a subscriber says about a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchOutcome {
    /// About each entry it mentions, by entry id.
    Statuses(Vec<(String, EntryStatus)>),
    /// The subscriber has no place for them: all are acknowledged and gone.
    AllDropped,
    /// None was taken.
    Refused(Refusal),
    /// The subscriber is gone for good: the entries belong to somebody else.
    Closed,
}

/// What a subscriber says about one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryStatus {
    /// Acknowledged.
    Success,
    /// To be delivered again.
    Retry,
    /// Given up.
    Drop,
}

/// Where events of a subscription go.
#[async_trait]
pub(super) trait Subscriber: Send + Sync + 'static {
    /// Delivers one event.
    async fn deliver(&self, delivery: &Delivery) -> Outcome;

    /// Delivers some entries of a batch.
    async fn deliver_batch(&self, batch: &Batch, entries: &[usize]) -> BatchOutcome;
}

impl Refusal {
    /// A refusal without a code.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            code: None,
            undelivered: false,
        }
    }

    /// A refusal with an HTTP status or a gRPC code.
    pub fn with_code(text: impl Into<String>, code: i32) -> Self {
        Self {
            code: Some(code),
            ..Self::new(text)
        }
    }

    /// The subscriber was not reached.
    pub fn undelivered(text: impl Into<String>) -> Self {
        Self {
            undelivered: true,
            ..Self::new(text)
        }
    }

    pub(super) fn into_handler_error(self) -> HandlerError {
        if self.undelivered {
            HandlerError::Undelivered(self.text)
        } else {
            HandlerError::Failed(self.text)
        }
    }
}

/// What consumers of one subscription share.
pub(super) struct Consumer {
    pub(super) inner: Arc<Inner>,
    pub(super) spec: Arc<SubscriptionSpec>,
    pub(super) routes: Routes,
    pub(super) raw: bool,
    pub(super) topic_prefix: Option<Arc<str>>,
    pub(super) subscriber: Arc<dyn Subscriber>,
    /// No new message is taken.
    pub(super) closing: CancellationToken,
    /// Messages in hand are let go.
    pub(super) abort: CancellationToken,
}

#[async_trait]
impl MessageHandler for Consumer {
    async fn handle(&self, message: NewMessage) -> Result<(), HandlerError> {
        if self.closing.is_cancelled() {
            return Err(HandlerError::Closed);
        }
        tokio::select! {
            biased;
            result = self.process(message) => result,
            () = self.abort.cancelled() => Err(HandlerError::Closed),
        }
    }
}

/// The end of a delivery under its policy.
enum Ended {
    Done,
    Dropped,
    Refused(Refusal),
    Closed,
}

impl Consumer {
    async fn process(&self, mut message: NewMessage) -> Result<(), HandlerError> {
        message.topic = self.own_topic(&message.topic);
        let metadata = message.metadata.get_or_insert_default();
        metadata.insert("pubsubName".to_owned(), self.spec.pubsub.clone());
        if let Some(content_type) = &message.content_type {
            metadata.insert("content-type".to_owned(), content_type.clone());
        }
        let (event, body) = match self.read(&message) {
            Ok(read) => read,
            Err(error) => {
                let text = format!(
                    "error deserializing cloud event in pubsub {} and topic {}: {error}",
                    self.spec.pubsub, message.topic
                );
                tracing::error!(target: "dapr.runtime", "{text}");
                return self.give_up(&message, Refusal::new(text)).await;
            }
        };
        if event.is_expired(Timestamp::now()) {
            tracing::warn!(
                target: "dapr.runtime",
                "dropping expired pub/sub event {} of topic {}", event.id(), message.topic
            );
            self.record_unasked(&message.topic, IngressStatus::Drop);
            return self.drop_message(&message).await;
        }
        let path = match self.routes.find(|rule| rule.matches_event(&event)) {
            Ok(Some(path)) => path.to_owned(),
            Ok(None) => {
                tracing::debug!(
                    target: "dapr.runtime",
                    "no matching route for event {} of topic {}; skipping", event.id(), message.topic
                );
                let status = match self.spec.dead_letter {
                    Some(_) => IngressStatus::Drop,
                    None => IngressStatus::Success,
                };
                self.record_unasked(&message.topic, status);
                return self.drop_message(&message).await;
            }
            Err(error) => {
                let text = format!(
                    "error finding matching route for event {} in pubsub {} and topic {}: {error}",
                    event.id(),
                    self.spec.pubsub,
                    message.topic
                );
                tracing::error!(target: "dapr.runtime", "{text}");
                return self.give_up(&message, Refusal::new(text)).await;
            }
        };
        let delivery = Delivery {
            path,
            trace: self.span(&event),
            event,
            body,
            topic: message.topic.clone(),
            pubsub: self.spec.pubsub.clone(),
            metadata: message.metadata().clone(),
        };
        match self.deliver(&delivery).await {
            Ended::Done => Ok(()),
            Ended::Closed => Err(HandlerError::Closed),
            Ended::Refused(refusal) => self.give_up(&message, refusal).await,
            Ended::Dropped => {
                tracing::warn!(
                    target: "dapr.runtime",
                    "DROP status returned from app while processing pub/sub event {}", delivery.event.id()
                );
                self.drop_message(&message).await
            }
        }
    }

    /// The topic without the namespace that the broker knows it by.
    pub(super) fn own_topic(&self, topic: &str) -> String {
        match self.topic_prefix.as_deref() {
            Some(prefix) if !prefix.is_empty() => topic.replacen(prefix, "", 1),
            _ => topic.to_owned(),
        }
    }

    /// The span of a delivery: only events that say anything about a trace have one.
    pub(super) fn span(&self, event: &Event) -> Option<TraceContext> {
        let members = event.members();
        if !members.contains_key("traceparent") && !members.contains_key("traceid") {
            return None;
        }
        let parent = event.trace_parent().and_then(TraceContext::parse);
        self.inner.tracing.start_under(parent.as_ref())
    }

    fn read(&self, message: &NewMessage) -> Result<(Event, Bytes), String> {
        if self.raw {
            let event = Event::wrap_raw(&RawInput {
                id: &super::new_id(),
                topic: &message.topic,
                pubsub_name: &self.spec.pubsub,
                data: &message.data,
                metadata: message.metadata(),
            });
            let body = event.to_json().into();
            return Ok((event, body));
        }
        let mut event = match message.metadata().get("content-type") {
            Some(content_type) if content_type == content_type::OCTET_STREAM => {
                Event::from_binary(&BinaryInput {
                    data: &message.data,
                    content_type,
                    metadata: message.metadata(),
                })
            }
            _ => Event::parse(&message.data).map_err(|error| error.to_string())?,
        };
        event.complete_trace(message.metadata());
        Ok((event, message.data.clone()))
    }

    /// Delivers under the component's inbound policy. When the subscription closes, an attempt in hand may end, but
    /// there is no other one.
    async fn deliver(&self, delivery: &Delivery) -> Ended {
        let policy = self.inner.policies.pubsub_inbound(&self.spec.pubsub);
        let attempt_runs = tokio::sync::Mutex::new(());
        let attempts = policy.run(
            |attempt| {
                let attempt_runs = &attempt_runs;
                async move {
                let _running = attempt_runs.lock().await;
                if attempt > 1 && self.closing.is_cancelled() {
                    return Err(Failure::permanent(Ended::Closed));
                }
                let started = Instant::now();
                let span = self.begin_span(delivery);
                let outcome = self.subscriber.deliver(delivery).await;
                if let Some(mut span) = span {
                    if let Outcome::Refused(refusal) = &outcome {
                        span.fail(refusal.text.clone());
                    }
                    span.end();
                }
                self.record(delivery, &outcome, started);
                match outcome {
                    Outcome::Done => Ok(Ended::Done),
                    Outcome::Dropped => Ok(Ended::Dropped),
                    Outcome::Closed => Err(Failure::permanent(Ended::Closed)),
                    Outcome::Refused(refusal) => {
                        tracing::warn!(
                            target: "dapr.runtime",
                            "encountered a retriable error while publishing a subscribed message to topic {}, err: {}",
                            delivery.topic,
                            refusal.text
                        );
                        let code = refusal.code;
                        Err(Failure {
                            code,
                            ..Failure::new(Ended::Refused(refusal))
                        })
                    }
                }
            }
            },
            |error| Ended::Refused(Refusal::new(error.to_string())),
        );
        tokio::select! {
            biased;
            ended = attempts => ended.unwrap_or_else(|ended| ended),
            () = self.closed_between_attempts(&attempt_runs) => Ended::Closed,
        }
    }

    fn begin_span(&self, delivery: &Delivery) -> Option<Span> {
        let spans = self.inner.tracing.spans();
        if !spans.is_on() {
            return None;
        }
        let parent = delivery.event.trace_parent().and_then(TraceContext::parse);
        let mut span = spans.begin(delivery.trace.as_ref(), parent.as_ref())?;
        span.name = format!("pubsub/{}", delivery.topic);
        span.set("messaging.system", "pubsub");
        span.set("messaging.destination.name", delivery.topic.as_str());
        Some(span)
    }

    fn record(&self, delivery: &Delivery, outcome: &Outcome, started: Instant) {
        let status = match outcome {
            Outcome::Done => IngressStatus::Success,
            Outcome::Dropped => IngressStatus::DroppedByApp,
            Outcome::Refused(_) => IngressStatus::Retry,
            Outcome::Closed => return,
        };
        let metrics = self.inner.policies.metrics();
        metrics.delivered(&delivery.pubsub, &delivery.topic, status, started.elapsed());
    }

    /// An event that its app is not asked about.
    fn record_unasked(&self, topic: &str, status: IngressStatus) {
        let metrics = self.inner.policies.metrics();
        metrics.delivered(&self.spec.pubsub, topic, status, Duration::ZERO);
    }

    /// Resolves when the subscription closes while no attempt runs.
    pub(super) async fn closed_between_attempts(&self, attempt_runs: &tokio::sync::Mutex<()>) {
        self.closing.cancelled().await;
        let _idle = attempt_runs.lock().await;
    }

    /// A message that the app, a rule or its age rules out: acknowledged, once the dead letter topic has it.
    async fn drop_message(&self, message: &NewMessage) -> Result<(), HandlerError> {
        match &self.spec.dead_letter {
            None => Ok(()),
            Some(topic) => self
                .dead_letter(topic, message)
                .await
                .map_err(HandlerError::Failed),
        }
    }

    /// A message that cannot be delivered: to the dead letter topic, or back to the broker.
    async fn give_up(&self, message: &NewMessage, refusal: Refusal) -> Result<(), HandlerError> {
        if let Some(topic) = &self.spec.dead_letter
            && self.dead_letter(topic, message).await.is_ok()
        {
            return Ok(());
        }
        Err(refusal.into_handler_error())
    }

    async fn dead_letter(&self, topic: &str, message: &NewMessage) -> Result<(), String> {
        let sent = self.inner.dead_letter(&self.spec.pubsub, topic, message).await;
        if let Err(error) = &sent {
            tracing::error!(
                target: "dapr.runtime",
                "error sending message to dead letter, origin topic: {} dead letter topic {topic} err: {error}",
                message.topic
            );
        }
        sent
    }
}
