//! The publish/subscribe building block (contract `pubsub`).
//!
//! [`PubSubService`] publishes for both edges and keeps the app's subscriptions: declared by resources, asked from
//! the app ([`PubSubService::run`]), or opened as streams ([`PubSubService::open_stream`]).
//!
//! ```text
//! edge -> Target::publish -> CloudEvent -> scopes, policy -> broker
//! broker -> Consumer (-> Gatherer, for batches) -> event, rules -> policy -> Subscriber: app or stream
//! ```

mod active;
pub mod bulk;
pub mod deliver;
pub mod errors;
pub mod outbox;
mod programmatic;
pub mod publish;
mod routes;
mod run;
pub mod scopes;
pub mod stream;
pub mod subscription;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use outrigger_components_api::pubsub::{BulkEntry, NewMessage, PubSub, PublishRequest};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Identity;
use crate::app::AppChannel;
use crate::components::{ComponentStore, LoadedPubSub};
use crate::metadata::SubscriptionMetadata;
use crate::policy::ComponentPolicies;
use crate::sidecar::Tracing;

pub use publish::{BulkError, Entry, PublishTrace, Target};
pub use subscription::SubscriptionSpec;

/// How long the dead letter topic may take to accept a message.
const DEAD_LETTER_TIMEOUT: Duration = Duration::from_secs(30);

/// Publishing and subscriptions of one sidecar. Cheap to clone.
#[derive(Clone)]
pub struct PubSubService {
    inner: Arc<Inner>,
}

/// What the service is made of.
#[derive(Clone)]
pub struct PubSubDeps {
    /// The brokers.
    pub components: Arc<ComponentStore>,
    /// What wraps publishing and delivery.
    pub policies: Arc<ComponentPolicies>,
    /// Who we are.
    pub identity: Identity,
    /// The subscriber; `None` without an app port.
    pub app: Option<Arc<AppChannel>>,
    /// Spans of deliveries.
    pub tracing: Tracing,
    /// `--disable-init-endpoints subscribe`: the app is not asked for its subscriptions.
    pub ask_app: bool,
}

struct Inner {
    components: Arc<ComponentStore>,
    policies: Arc<ComponentPolicies>,
    identity: Identity,
    app: Option<Arc<AppChannel>>,
    tracing: Tracing,
    ask_app: bool,
    /// From resources.
    declared: watch::Sender<Arc<Vec<SubscriptionSpec>>>,
    /// From the app, once it has been asked.
    programmatic: watch::Sender<Arc<Vec<SubscriptionSpec>>>,
    /// Counts changes of the components.
    changes: watch::Sender<u64>,
    streams: Mutex<Streams>,
    /// Ends the streams.
    closing: CancellationToken,
    /// Cancelled when all subscriptions that could start at once have started.
    settled: CancellationToken,
}

/// Open streams by number.
#[derive(Default)]
struct Streams {
    next: u64,
    open: BTreeMap<u64, SubscriptionMetadata>,
}

impl PubSubService {
    /// The service without subscriptions; [`Self::run`] starts them.
    pub fn new(deps: PubSubDeps) -> Self {
        let PubSubDeps {
            components,
            policies,
            identity,
            app,
            tracing,
            ask_app,
        } = deps;
        Self {
            inner: Arc::new(Inner {
                components,
                policies,
                identity,
                app,
                tracing,
                ask_app,
                declared: watch::Sender::default(),
                programmatic: watch::Sender::default(),
                changes: watch::Sender::default(),
                streams: Mutex::default(),
                closing: CancellationToken::new(),
                settled: CancellationToken::new(),
            }),
        }
    }

    /// Sets the subscriptions from resources; running ones are started and stopped accordingly.
    pub fn set_declared(&self, subscriptions: Vec<SubscriptionSpec>) {
        self.inner.declared.send_replace(Arc::new(subscriptions));
    }

    /// Pub/sub components came or went: subscriptions that wait for one try at once.
    pub fn components_changed(&self) {
        self.inner
            .changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// What the metadata API lists.
    pub fn subscriptions_metadata(&self) -> Vec<SubscriptionMetadata> {
        let mut list: Vec<SubscriptionMetadata> = self
            .inner
            .wanted()
            .iter()
            .map(SubscriptionSpec::to_metadata)
            .collect();
        list.extend(self.inner.streams().open.values().cloned());
        list
    }
}

impl Inner {
    fn find(&self, pubsub: &str) -> Option<LoadedPubSub> {
        self.components.snapshot().pubsub.get(pubsub).cloned()
    }

    /// The component of this name, to be compared with [`Self::is_current`].
    fn broker(&self, pubsub: &str) -> Option<Weak<dyn PubSub>> {
        let loaded = self.components.snapshot();
        loaded
            .pubsub
            .get(pubsub)
            .map(|loaded| Arc::downgrade(&loaded.broker))
    }

    /// Whether that is still the component of this name.
    fn is_current(&self, pubsub: &str, broker: Option<&Weak<dyn PubSub>>) -> bool {
        match (self.broker(pubsub), broker) {
            (Some(now), Some(then)) => now.ptr_eq(then),
            (None, None) => true,
            _ => false,
        }
    }

    /// All subscriptions of the app but streams.
    fn wanted(&self) -> Vec<SubscriptionSpec> {
        subscription::merge(&self.declared.borrow(), &self.programmatic.borrow())
    }

    fn streams(&self) -> std::sync::MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes a message that could not be delivered.
    ///
    /// # Errors
    /// For the log; the message must be kept.
    async fn dead_letter(&self, pubsub: &str, topic: &str, message: &NewMessage) -> Result<(), String> {
        let Some(loaded) = self.find(pubsub) else {
            return Err(format!("pubsub {pubsub} is not found"));
        };
        let request = PublishRequest {
            topic: topic.to_owned(),
            data: message.data.clone(),
            metadata: message.metadata.clone(),
            content_type: message.content_type.clone(),
        };
        let publish = self.publish(pubsub, &loaded, request);
        match tokio::time::timeout(DEAD_LETTER_TIMEOUT, publish).await {
            Ok(published) => published.map_err(|error| error.message),
            Err(_) => Err(format!("no answer within {DEAD_LETTER_TIMEOUT:?}")),
        }
    }

    /// Publishes messages that could not be delivered; ids of those that must be kept.
    async fn dead_letters(&self, pubsub: &str, topic: &str, entries: Vec<BulkEntry>) -> BTreeSet<String> {
        let all: BTreeSet<String> = entries.iter().map(|entry| entry.entry_id.clone()).collect();
        let Some(loaded) = self.find(pubsub) else {
            return all;
        };
        let publish = self.publish_bulk(pubsub, &loaded, bulk::letters_request(topic, entries));
        let result = tokio::time::timeout(DEAD_LETTER_TIMEOUT, publish).await;
        let (text, failed) = match result {
            Ok(Ok(Ok(()))) => return BTreeSet::new(),
            Ok(Ok(Err(failed))) => {
                let text = failed.first().map(|entry| entry.error.to_string());
                (
                    text.unwrap_or_default(),
                    failed.into_iter().map(|entry| entry.entry_id).collect(),
                )
            }
            Ok(Err(error)) => (error.message, all),
            Err(_) => (format!("no answer within {DEAD_LETTER_TIMEOUT:?}"), all),
        };
        tracing::error!(target: "dapr.runtime", "error sending messages to dead letter topic {topic}: {text}");
        failed
    }
}

/// A fresh id of an event.
fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}
