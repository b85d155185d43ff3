//! Message brokers (contract `pubsub`).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{ComponentError, RequestMetadata};

/// A capability as the metadata API spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PubSubFeature {
    /// `MESSAGE_TTL`: the broker expires messages itself.
    MessageTtl,
    /// `SUBSCRIBE_WILDCARDS`
    SubscribeWildcards,
    /// `BULK_PUBSUB`: [`PubSub::bulk_publish`] is native.
    BulkPublish,
    /// `BULK_SUBSCRIBE_IMMEDIATE`: bulk batching flushes as soon as something is queued.
    BulkSubscribeImmediate,
}

impl PubSubFeature {
    /// The spelling of the metadata API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MessageTtl => "MESSAGE_TTL",
            Self::SubscribeWildcards => "SUBSCRIBE_WILDCARDS",
            Self::BulkPublish => "BULK_PUBSUB",
            Self::BulkSubscribeImmediate => "BULK_SUBSCRIBE_IMMEDIATE",
        }
    }
}

/// Publish one message. The topic is already namespaced.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PublishRequest {
    /// Topic as the broker sees it.
    pub topic: String,
    /// Payload.
    pub data: Bytes,
    /// `None` when the caller gave none at all (some brokers store the difference).
    pub metadata: Option<RequestMetadata>,
    /// Content type of the payload, if known.
    pub content_type: Option<String>,
}

/// One entry of a bulk publish.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BulkEntry {
    /// Unique within the request.
    pub entry_id: String,
    /// Payload.
    pub data: Bytes,
    /// Content type of the payload.
    pub content_type: String,
    /// Metadata of this entry.
    pub metadata: Option<RequestMetadata>,
}

/// Publish several messages.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BulkPublishRequest {
    /// Topic as the broker sees it.
    pub topic: String,
    /// The entries.
    pub entries: Vec<BulkEntry>,
    /// Metadata of the request as a whole.
    pub metadata: RequestMetadata,
}

/// One entry that was not published.
#[derive(Debug, Clone, PartialEq)]
pub struct FailedEntry {
    /// Which.
    pub entry_id: String,
    /// Why.
    pub error: ComponentError,
}

/// Start consuming a topic.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SubscribeRequest {
    /// Topic as the broker sees it.
    pub topic: String,
    /// Subscription metadata.
    pub metadata: RequestMetadata,
    /// Messages that the subscriber wants to have in hand together, as it takes them in batches. A component that otherwise waits
    /// for the handler between two messages of a sequence hands over so many at once, in their order. 0: as it always does.
    pub batch: usize,
}

/// How batches are made where a subscription says nothing about it (contract `pubsub`, section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchDefaults {
    /// Largest batch.
    pub max_messages: usize,
    /// Longest wait for a batch to fill.
    pub max_wait: Duration,
}

/// A message from the broker.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewMessage {
    /// Topic as the broker sees it.
    pub topic: String,
    /// Payload.
    pub data: Bytes,
    /// Broker metadata, handed to the app; `None` when the publisher gave none at all, which apps see as `null`.
    pub metadata: Option<RequestMetadata>,
    /// Content type, if the broker knows it.
    pub content_type: Option<String>,
}

impl NewMessage {
    /// The metadata, empty if there is none.
    pub fn metadata(&self) -> &RequestMetadata {
        static NONE: RequestMetadata = RequestMetadata::new();
        self.metadata.as_ref().unwrap_or(&NONE)
    }
}

/// Consumes messages. `Ok` acknowledges; `Err` means: as the broker treats a failed message.
#[async_trait]
pub trait MessageHandler: Send + Sync + 'static {
    /// Handles one message. May be called concurrently.
    async fn handle(&self, message: NewMessage) -> Result<(), HandlerError>;
}

/// Why a message was not handled.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum HandlerError {
    /// The app or the policy around it failed: the broker may redeliver or drop, as its contract says.
    #[error("{0}")]
    Failed(String),
    /// The app could not be reached, or died before it answered: nobody has decided about this message, so a
    /// broker that can keep it must not acknowledge it. (Go's Redis component does, and loses the event.)
    #[error("{0}")]
    Undelivered(String),
    /// The subscription is closing: the message was not handled and must not be acknowledged.
    #[error("subscription is closed")]
    Closed,
}

/// A running consumer of one topic.
#[derive(Debug)]
pub struct Subscription {
    /// Cancelled to stop consuming.
    pub stop: CancellationToken,
    /// Resolves when the consumer has stopped: no further call of the handler is made, all made calls have ended.
    pub stopped: tokio::task::JoinHandle<()>,
}

impl Subscription {
    /// A consumer that has been started, once it says that it takes what comes. It is stopped if it says otherwise, or if
    /// nobody waits for it any more.
    ///
    /// # Errors
    /// What it says.
    pub async fn established(self, ready: oneshot::Receiver<Result<(), String>>) -> Result<Self, String> {
        let unwanted = self.stop.clone().drop_guard();
        match ready.await {
            Ok(Ok(())) => {
                unwanted.disarm();
                Ok(self)
            }
            result => {
                self.close().await;
                let ended = || "it ended before it was established".to_owned();
                Err(result.ok().and_then(Result::err).unwrap_or_else(ended))
            }
        }
    }

    /// Stops consuming and waits until the handler's calls have ended.
    pub async fn close(self) {
        self.stop.cancel();
        // A panicked consumer has stopped as well.
        let _ = self.stopped.await;
    }
}

/// A message broker.
#[async_trait]
pub trait PubSub: Send + Sync + 'static {
    /// Declared capabilities.
    fn features(&self) -> &[PubSubFeature];

    /// Whether a capability is declared.
    fn has(&self, feature: PubSubFeature) -> bool {
        self.features().contains(&feature)
    }

    /// How batches are made where a subscription says nothing about it.
    fn batch_defaults(&self) -> BatchDefaults {
        BatchDefaults {
            max_messages: 100,
            max_wait: Duration::from_secs(1),
        }
    }

    /// Publishes one message; `Ok` means that the broker has it.
    async fn publish(&self, request: PublishRequest) -> Result<(), ComponentError>;

    /// Publishes several messages natively. Only called when [`PubSubFeature::BulkPublish`] is declared.
    ///
    /// # Errors
    /// The entries that were not published.
    async fn bulk_publish(&self, request: BulkPublishRequest) -> Result<(), Vec<FailedEntry>> {
        let error = ComponentError::new("bulk publish is not supported by this pub/sub component");
        Err(request
            .entries
            .into_iter()
            .map(|entry| FailedEntry {
                entry_id: entry.entry_id,
                error: error.clone(),
            })
            .collect())
    }

    /// Starts consuming. Returns when the subscription is established at the broker.
    async fn subscribe(
        &self,
        request: SubscribeRequest,
        handler: Arc<dyn MessageHandler>,
    ) -> Result<Subscription, ComponentError>;

    /// Checks that the broker answers.
    async fn ping(&self) -> Result<(), ComponentError> {
        Ok(())
    }

    /// Whether a second one of these settings cannot work beside it: when its settings change it is closed before the one
    /// that takes its place is made.
    fn excludes_another(&self) -> bool {
        false
    }

    /// Releases connections; called once, after all subscriptions are closed.
    async fn close(&self) {}
}
