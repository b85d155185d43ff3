//! Subscriptions that an app opens as a stream (contract `pubsub`, section 5).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use outrigger_components_api::RequestMetadata;
use outrigger_components_api::pubsub::PubSub;
use outrigger_model::ApiError;
use outrigger_proto::runtime::v1::TopicEventRequest;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use super::active::{Active, StartError};
use super::bulk::Batch;
use super::deliver::{BatchOutcome, Delivery, Outcome, Refusal, Subscriber, grpc_status, topic_event};
use super::run::changed;
use super::subscription::{SubscriptionSpec, catch_all};
use super::{Inner, PubSubService, errors};
use crate::metadata::SubscriptionKind;

/// Events that may wait for the stream's transport.
const QUEUE: usize = 16;

/// What a stream asks for.
#[derive(Debug, Clone, Default)]
pub struct StreamRequest {
    /// Pub/sub component.
    pub pubsub: String,
    /// Topic.
    pub topic: String,
    /// Of the subscription.
    pub metadata: RequestMetadata,
    /// Where undeliverable events go.
    pub dead_letter: Option<String>,
}

/// Why a stream was not opened.
#[derive(Debug, Clone, PartialEq)]
pub enum StreamError {
    /// An error of the API.
    Api(ApiError),
    /// A plain text, for the status `Unknown`.
    Text(String),
}

/// An open stream. Dropping it stops its subscription; events without an answer go to somebody else.
pub struct Stream {
    inner: Arc<Inner>,
    number: u64,
    events: mpsc::Receiver<TopicEventRequest>,
    waiting: Arc<Waiting>,
    spec: Arc<SubscriptionSpec>,
    subscriber: Arc<dyn Subscriber>,
    active: Option<Active>,
    /// The component that it reads from.
    broker: Option<Weak<dyn PubSub>>,
    changes: watch::Receiver<u64>,
    /// The subscription at the component before, which ends when its events are answered.
    draining: Option<AbortOnDropHandle<()>>,
}

/// Deliveries that wait for the app's answer, by event id.
#[derive(Default)]
struct Waiting(Mutex<HashMap<String, Vec<oneshot::Sender<i32>>>>);

impl Waiting {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<oneshot::Sender<i32>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, id: &str) -> oneshot::Receiver<i32> {
        let (answer, answered) = oneshot::channel();
        self.lock().entry(id.to_owned()).or_default().push(answer);
        answered
    }

    /// Answers the oldest delivery of this id; false if there is none.
    fn answer(&self, id: &str, status: i32) -> bool {
        let mut waiting = self.lock();
        let Some(senders) = waiting.get_mut(id) else {
            return false;
        };
        senders.retain(|sender| !sender.is_closed());
        let sender = (!senders.is_empty()).then(|| senders.remove(0));
        if senders.is_empty() {
            waiting.remove(id);
        }
        sender.is_some_and(|sender| sender.send(status).is_ok())
    }

    /// Forgets deliveries of this id that nobody waits for any more.
    fn forget(&self, id: &str) {
        let mut waiting = self.lock();
        if let Some(senders) = waiting.get_mut(id) {
            senders.retain(|sender| !sender.is_closed());
            if senders.is_empty() {
                waiting.remove(id);
            }
        }
    }
}

/// The stream's side that the broker's messages are delivered to.
struct StreamSubscriber {
    events: mpsc::Sender<TopicEventRequest>,
    waiting: Arc<Waiting>,
}

/// Takes an unanswered delivery off the list, also when it is given up.
struct Answer<'a> {
    waiting: &'a Waiting,
    id: &'a str,
    answered: Option<oneshot::Receiver<i32>>,
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        self.answered = None;
        self.waiting.forget(self.id);
    }
}

#[async_trait]
impl Subscriber for StreamSubscriber {
    async fn deliver(&self, delivery: &Delivery) -> Outcome {
        let event = match topic_event(delivery) {
            Ok(event) => event,
            Err(text) => return Outcome::Refused(Refusal::new(text)),
        };
        let id = event.id.clone();
        let mut answer = Answer {
            waiting: &self.waiting,
            id: &id,
            answered: Some(self.waiting.add(&id)),
        };
        if self.events.send(event).await.is_err() {
            return Outcome::Closed;
        }
        match &mut answer.answered {
            Some(answered) => answered.await.map_or(Outcome::Closed, grpc_status),
            None => Outcome::Closed,
        }
    }

    async fn deliver_batch(&self, _batch: &Batch, _entries: &[usize]) -> BatchOutcome {
        BatchOutcome::Refused(Refusal::new("streams get no batches"))
    }
}

impl PubSubService {
    /// Opens a stream.
    ///
    /// # Errors
    /// Missing names, an unknown component, a topic that is not allowed, or the broker's failure.
    pub async fn open_stream(&self, request: StreamRequest) -> Result<Stream, StreamError> {
        if self.inner.find(&request.pubsub).is_none() && !request.pubsub.is_empty() {
            return Err(StreamError::Api(errors::not_found(&request.pubsub, None)));
        }
        if request.pubsub.is_empty() {
            return Err(StreamError::Text("pubsubName is required".to_owned()));
        }
        if request.topic.is_empty() {
            return Err(StreamError::Text("topic is required".to_owned()));
        }
        let spec = Arc::new(SubscriptionSpec {
            pubsub: request.pubsub,
            topic: request.topic,
            dead_letter: request.dead_letter.filter(|topic| !topic.is_empty()),
            metadata: request.metadata,
            rules: vec![catch_all("/")],
            bulk: None,
            kind: SubscriptionKind::Streaming,
        });
        let (sender, events) = mpsc::channel(QUEUE);
        let waiting = Arc::new(Waiting::default());
        let subscriber: Arc<dyn Subscriber> = Arc::new(StreamSubscriber {
            events: sender,
            waiting: waiting.clone(),
        });
        let changes = self.inner.changes.subscribe();
        let broker = self.inner.broker(&spec.pubsub);
        let active =
            self.inner
                .start(spec.clone(), subscriber.clone())
                .await
                .map_err(|error| match error {
                    StartError::NoComponent(name) => StreamError::Api(errors::not_found(&name, None)),
                    error => StreamError::Text(format!(
                        "failed to create subscription for {}: {error}",
                        spec.pubsub
                    )),
                })?;
        let number = {
            let mut streams = self.inner.streams();
            let number = streams.next;
            streams.next += 1;
            streams.open.insert(number, spec.to_metadata());
            number
        };
        Ok(Stream {
            inner: self.inner.clone(),
            number,
            events,
            waiting,
            spec,
            subscriber,
            active: Some(active),
            broker,
            changes,
            draining: None,
        })
    }
}

impl Stream {
    /// The next event; `None` when the sidecar stops, or when the component is gone.
    pub async fn next(&mut self) -> Option<TopicEventRequest> {
        let inner = self.inner.clone();
        loop {
            tokio::select! {
                biased;
                () = inner.closing.cancelled() => return None,
                event = self.events.recv() => return event,
                () = changed(&mut self.changes) => {}
            }
            if inner.is_current(&self.spec.pubsub, self.broker.as_ref()) && self.active.is_some() {
                continue;
            }
            if inner.components.is_replaced(&self.spec.pubsub) {
                self.broker = None;
                let active = self.active.take();
                self.drain(active);
            } else if !self.renew().await {
                return None;
            }
        }
    }

    /// Ends reading in the background: events that the app has are answered over this stream.
    fn drain(&mut self, active: Option<Active>) {
        if let Some(active) = active {
            self.draining = Some(AbortOnDropHandle::new(tokio::spawn(active.close())));
        }
    }

    /// Another component has taken the place of the one that is read from: reads from it. False if there is none, or
    /// it takes no subscription; the app opens the stream anew then. May be dropped half-way and called again.
    async fn renew(&mut self) -> bool {
        let broker = self.inner.broker(&self.spec.pubsub);
        match self.inner.start(self.spec.clone(), self.subscriber.clone()).await {
            Ok(active) => {
                let old = self.active.replace(active);
                self.broker = broker;
                self.drain(old);
                true
            }
            Err(error) => {
                tracing::warn!(
                    target: "dapr.runtime",
                    "a stream of topic '{}' ends, its component was reloaded: {error}", self.spec.topic
                );
                false
            }
        }
    }

    /// The app's answer to an event: its status on the wire.
    pub fn answer(&self, id: &str, status: i32) {
        if !self.waiting.answer(id, status) {
            tracing::warn!(target: "dapr.runtime", "received an answer for unknown event id: {id}");
        }
    }

    /// Stops the subscription and waits for it; events without an answer go back to the broker.
    pub async fn close(mut self) {
        self.events.close();
        self.waiting.lock().clear();
        if let Some(active) = self.active.take() {
            active.close().await;
        }
        if let Some(draining) = self.draining.take() {
            // A panic has been reported by the runtime; there is nothing left to stop.
            let _ = draining.await;
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.inner.streams().open.remove(&self.number);
    }
}
