//! Delivery in batches (contract `pubsub`, section 7): messages of a broker that hands them over one by one are
//! gathered, sent together, and acknowledged one by one.

mod process;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use outrigger_cloudevents::Event;
use outrigger_cloudevents::bulk::{Content as Told, DeliveredEntry, Delivery as Envelope};
use outrigger_components_api::RequestMetadata;
use outrigger_components_api::pubsub::{BatchDefaults, HandlerError, MessageHandler, NewMessage};
use outrigger_trace_context::TraceContext;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::deliver::Consumer;

pub(super) use process::letters_request;

/// Entries on their way to one path of the app.
#[derive(Debug)]
pub struct Batch {
    /// Path of the app.
    pub path: String,
    /// Topic, without namespace.
    pub topic: String,
    /// Pub/sub component.
    pub pubsub: String,
    /// The component's name.
    pub metadata: RequestMetadata,
    /// The entries.
    pub entries: Vec<BatchEntry>,
    /// The span of the delivery.
    pub trace: Option<TraceContext>,
}

/// One entry of a batch.
#[derive(Debug)]
pub struct BatchEntry {
    /// Names it in the app's answer.
    pub id: String,
    /// What is delivered.
    pub content: Content,
    /// The broker's metadata, if it has any.
    pub metadata: Option<RequestMetadata>,
    /// The broker's content type.
    pub content_type: Option<String>,
    /// The message as it came.
    data: Bytes,
    /// Place in the gathered messages.
    origin: usize,
}

/// What an entry holds.
#[derive(Debug)]
pub enum Content {
    /// An event.
    Event(Event),
    /// The bytes of a raw subscription.
    Raw(Bytes),
}

impl Batch {
    /// What an HTTP app gets for some of the entries.
    pub fn to_json(&self, entries: &[usize]) -> Vec<u8> {
        let told: Vec<DeliveredEntry<'_>> = entries
            .iter()
            .filter_map(|index| self.entries.get(*index))
            .map(|entry| DeliveredEntry {
                entry_id: &entry.id,
                content: match &entry.content {
                    Content::Event(event) => Told::Event(event),
                    Content::Raw(data) => Told::Raw(data),
                },
                metadata: entry.metadata.as_ref(),
                content_type: entry.content_type.as_deref(),
            })
            .collect();
        Envelope {
            id: &super::new_id(),
            topic: &self.topic,
            pubsub_name: &self.pubsub,
            metadata: &self.metadata,
            entries: &told,
        }
        .to_json()
    }
}

/// A message that waits for its batch.
pub(super) struct Queued {
    message: NewMessage,
    done: oneshot::Sender<Result<(), HandlerError>>,
}

/// Takes messages from the broker and waits with each until its batch is through.
pub(super) struct Gatherer {
    consumer: Arc<Consumer>,
    queue: mpsc::Sender<Queued>,
}

impl Gatherer {
    /// The handler for the broker, and the queue that [`gather`] works off. It holds one batch.
    pub(super) fn new(consumer: Arc<Consumer>, settings: &BatchDefaults) -> (Self, mpsc::Receiver<Queued>) {
        let (queue, queued) = mpsc::channel(settings.max_messages.max(1));
        (Self { consumer, queue }, queued)
    }
}

#[async_trait]
impl MessageHandler for Gatherer {
    async fn handle(&self, message: NewMessage) -> Result<(), HandlerError> {
        if self.consumer.closing.is_cancelled() {
            return Err(HandlerError::Closed);
        }
        let (done, result) = oneshot::channel();
        let through = async {
            let queued = Queued { message, done };
            self.queue.send(queued).await.map_err(|_| HandlerError::Closed)?;
            result.await.unwrap_or(Err(HandlerError::Closed))
        };
        tokio::select! {
            biased;
            result = through => result,
            () = self.consumer.abort.cancelled() => Err(HandlerError::Closed),
        }
    }
}

/// Works batches off until the broker lets go of the handler.
pub(super) async fn gather(
    consumer: Arc<Consumer>,
    settings: BatchDefaults,
    immediate: bool,
    mut queue: mpsc::Receiver<Queued>,
) {
    while let Some(first) = queue.recv().await {
        let mut batch = vec![first];
        let deadline = if immediate {
            Instant::now()
        } else {
            Instant::now() + settings.max_wait
        };
        while batch.len() < settings.max_messages {
            // Who closes wants to be done: nothing more will come.
            let next = tokio::select! {
                biased;
                next = timeout_at(deadline, queue.recv()) => next.ok().flatten(),
                () = consumer.closing.cancelled() => None,
            };
            match next {
                Some(queued) => batch.push(queued),
                None => break,
            }
        }
        let (messages, waiting): (Vec<NewMessage>, Vec<_>) = batch
            .into_iter()
            .map(|queued| (queued.message, queued.done))
            .unzip();
        let results = tokio::select! {
            biased;
            results = consumer.process_batch(messages) => results,
            () = consumer.abort.cancelled() => return,
        };
        for (done, result) in waiting.into_iter().zip(results) {
            // The broker may have lost interest.
            let _ = done.send(result);
        }
    }
}
