//! One running subscription: start, drain, stop.

use std::sync::Arc;
use std::time::Duration;

use outrigger_components_api::metadata::request::raw_payload;
use outrigger_components_api::pubsub::{MessageHandler, PubSubFeature, SubscribeRequest, Subscription};
use thiserror::Error;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

use super::Inner;
use super::bulk::{Gatherer, gather};
use super::deliver::{Consumer, Subscriber};
use super::publish::at_broker;
use super::routes::Routes;
use super::subscription::SubscriptionSpec;

/// How long messages in hand may take when a subscription stops.
const DRAIN: Duration = Duration::from_millis(30_400);

/// Why a subscription did not start.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum StartError {
    /// The component is not loaded (yet).
    #[error("pubsub {0} is not found")]
    NoComponent(String),
    /// Scopes keep this app from the topic.
    #[error("subscription to topic '{topic}' on pubsub '{pubsub}' is not allowed")]
    NotAllowed {
        /// Topic.
        topic: String,
        /// Component.
        pubsub: String,
    },
    /// Rules or metadata cannot be understood, or the broker says no.
    #[error("{0}")]
    Other(String),
}

/// A subscription that receives messages. Dropping it stops it without draining.
pub(super) struct Active {
    subscription: Subscription,
    /// Stops the broker's consumer if nobody closes.
    _stop: DropGuard,
    closing: CancellationToken,
    abort: DropGuard,
    batches: Option<AbortOnDropHandle<()>>,
}

impl Inner {
    /// Starts a subscription.
    ///
    /// # Errors
    /// See [`StartError`].
    pub(super) async fn start(
        self: &Arc<Self>,
        spec: Arc<SubscriptionSpec>,
        subscriber: Arc<dyn Subscriber>,
    ) -> Result<Active, StartError> {
        let loaded = self
            .find(&spec.pubsub)
            .ok_or_else(|| StartError::NoComponent(spec.pubsub.clone()))?;
        if !loaded.scopes.may_subscribe(&spec.topic) {
            return Err(StartError::NotAllowed {
                topic: spec.topic.clone(),
                pubsub: spec.pubsub.clone(),
            });
        }
        let raw = raw_payload(&spec.metadata).map_err(|error| StartError::Other(error.to_string()))?;
        let routes = Routes::compile(&spec.rules).map_err(StartError::Other)?;
        let (closing, abort) = (CancellationToken::new(), CancellationToken::new());
        let batch = spec
            .bulk
            .map(|settings| settings.resolve(loaded.broker.batch_defaults()));
        let request = SubscribeRequest {
            topic: at_broker(&loaded, &spec.topic),
            metadata: spec.metadata.clone(),
            batch: batch.map_or(0, |batch| batch.max_messages),
        };
        let consumer = Arc::new(Consumer {
            inner: self.clone(),
            spec: spec.clone(),
            routes,
            raw,
            topic_prefix: loaded.topic_prefix.clone(),
            subscriber,
            closing: closing.clone(),
            abort: abort.clone(),
        });
        let (handler, batches): (Arc<dyn MessageHandler>, _) = match batch {
            None => (consumer, None),
            Some(settings) => {
                let (gatherer, queue) = Gatherer::new(consumer.clone(), &settings);
                let immediate = loaded.broker.has(PubSubFeature::BulkSubscribeImmediate);
                let task = tokio::spawn(gather(consumer, settings, immediate, queue));
                (Arc::new(gatherer), Some(AbortOnDropHandle::new(task)))
            }
        };
        let subscription = loaded
            .broker
            .subscribe(request, handler)
            .await
            .map_err(|error| StartError::Other(error.to_string()))?;
        Ok(Active {
            _stop: subscription.stop.clone().drop_guard(),
            subscription,
            closing,
            abort: abort.drop_guard(),
            batches,
        })
    }
}

impl Active {
    /// Resolves when the broker's consumer has ended by itself, as when its component is closed.
    pub(super) async fn ended(&mut self) {
        // A panicked consumer has ended as well.
        let _ = (&mut self.subscription.stopped).await;
    }

    /// Takes no more messages and waits for those in hand, up to the drain time; what is left then goes back to the
    /// broker.
    pub(super) async fn close(mut self) {
        self.closing.cancel();
        self.subscription.stop.cancel();
        if tokio::time::timeout(DRAIN, self.ended()).await.is_err() {
            drop(self.abort);
            // Handlers return at once now.
            let _ = (&mut self.subscription.stopped).await;
        }
        drop(self.batches);
    }
}
