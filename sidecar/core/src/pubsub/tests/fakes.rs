use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use outrigger_components_api::ComponentError;
use outrigger_components_api::metadata::Properties;
use outrigger_components_api::pubsub::{
    BatchDefaults, HandlerError, MessageHandler, NewMessage, PubSub, PubSubFeature, PublishRequest,
    SubscribeRequest, Subscription,
};
use outrigger_resiliency::Resiliency;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Identity;
use crate::components::{Component, ComponentStore, Instance, LoadedPubSub};
use crate::policy::ComponentPolicies;
use crate::pubsub::bulk::Batch;
use crate::pubsub::deliver::{BatchOutcome, Delivery, Outcome, Subscriber};
use crate::pubsub::scopes::TopicScopes;
use crate::pubsub::subscription::{SubscriptionSpec, catch_all};
use crate::pubsub::{PubSubDeps, PubSubService};
use crate::sidecar::Tracing;
use crate::spans::Spans;

/// Topic, handler, and whether it is to stop.
type Subscribed = (String, Arc<dyn MessageHandler>, CancellationToken);

/// Keeps what is published; hands over what a test sends.
#[derive(Default)]
pub(super) struct FakeBroker {
    pub(super) published: Mutex<Vec<PublishRequest>>,
    /// Topics whose publishing fails.
    pub(super) broken: Mutex<Vec<String>>,
    /// Starts of subscriptions that are still to fail.
    pub(super) refusals: AtomicUsize,
    /// Messages that each subscription wants to have in hand together.
    pub(super) in_hand: Mutex<Vec<usize>>,
    handlers: Mutex<Vec<Subscribed>>,
    calls: TaskTracker,
}

impl FakeBroker {
    /// Topics that are subscribed to now.
    pub(super) fn topics(&self) -> Vec<String> {
        let handlers = self.handlers.lock().unwrap();
        let mut topics: Vec<String> = handlers
            .iter()
            .filter(|(_, _, stop)| !stop.is_cancelled())
            .map(|(topic, _, _)| topic.clone())
            .collect();
        topics.sort();
        topics
    }

    /// Hands a message over in a task, whether or not the subscription is being stopped.
    pub(super) fn send(&self, topic: &str, data: &str) -> tokio::task::JoinHandle<Result<(), HandlerError>> {
        let handler = self
            .handlers
            .lock()
            .unwrap()
            .iter()
            .rfind(|(known, _, _)| known == topic)
            .map(|(_, handler, _)| handler.clone())
            .unwrap();
        let message = NewMessage {
            topic: topic.to_owned(),
            data: Bytes::copy_from_slice(data.as_bytes()),
            ..NewMessage::default()
        };
        self.calls.spawn(async move { handler.handle(message).await })
    }

    pub(super) fn published_topics(&self) -> Vec<String> {
        self.published
            .lock()
            .unwrap()
            .iter()
            .map(|message| message.topic.clone())
            .collect()
    }
}

#[async_trait]
impl PubSub for FakeBroker {
    fn features(&self) -> &[PubSubFeature] {
        &[]
    }

    fn batch_defaults(&self) -> BatchDefaults {
        BatchDefaults {
            max_messages: 2,
            max_wait: Duration::from_secs(7),
        }
    }

    async fn publish(&self, request: PublishRequest) -> Result<(), ComponentError> {
        if self.broken.lock().unwrap().contains(&request.topic) {
            return Err(ComponentError::new("broken"));
        }
        self.published.lock().unwrap().push(request);
        Ok(())
    }

    async fn subscribe(
        &self,
        request: SubscribeRequest,
        handler: Arc<dyn MessageHandler>,
    ) -> Result<Subscription, ComponentError> {
        let refused = self
            .refusals
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if refused.is_ok() {
            return Err(ComponentError::new("not yet"));
        }
        let stop = CancellationToken::new();
        self.in_hand.lock().unwrap().push(request.batch);
        self.handlers
            .lock()
            .unwrap()
            .push((request.topic, handler, stop.clone()));
        let (calls, stopping) = (self.calls.clone(), stop.clone());
        let stopped = tokio::spawn(async move {
            stopping.cancelled().await;
            calls.close();
            calls.wait().await;
            calls.reopen();
        });
        Ok(Subscription { stop, stopped })
    }
}

/// Answers as told, in turn; the last answer stays. Each answer needs a permit.
pub(super) struct FakeSubscriber {
    answers: Mutex<VecDeque<Outcome>>,
    batch_answers: Mutex<VecDeque<Vec<crate::pubsub::deliver::EntryStatus>>>,
    pub(super) deliveries: Mutex<Vec<String>>,
    pub(super) batches: Mutex<Vec<usize>>,
    pub(super) gate: Semaphore,
}

impl FakeSubscriber {
    pub(super) fn new(answers: impl IntoIterator<Item = Outcome>) -> Arc<Self> {
        Arc::new(Self {
            answers: Mutex::new(answers.into_iter().collect()),
            batch_answers: Mutex::default(),
            deliveries: Mutex::default(),
            batches: Mutex::default(),
            gate: Semaphore::new(1000),
        })
    }

    /// Statuses of the entries in turn, for each batch; none at all = the subscriber is gone.
    pub(super) fn of_batches(
        answers: impl IntoIterator<Item = Vec<crate::pubsub::deliver::EntryStatus>>,
    ) -> Arc<Self> {
        let subscriber = Self::new([Outcome::Done]);
        *subscriber.batch_answers.lock().unwrap() = answers.into_iter().collect();
        subscriber
    }

    pub(super) fn count(&self) -> usize {
        self.deliveries.lock().unwrap().len()
    }
}

fn next<T: Clone>(answers: &Mutex<VecDeque<T>>) -> T {
    let mut answers = answers.lock().unwrap();
    if answers.len() > 1 {
        answers.pop_front().unwrap()
    } else {
        answers.front().cloned().unwrap()
    }
}

#[async_trait]
impl Subscriber for FakeSubscriber {
    async fn deliver(&self, delivery: &Delivery) -> Outcome {
        self.deliveries.lock().unwrap().push(delivery.path.clone());
        self.gate.acquire().await.unwrap().forget();
        next(&self.answers)
    }

    async fn deliver_batch(&self, batch: &Batch, entries: &[usize]) -> BatchOutcome {
        self.batches.lock().unwrap().push(entries.len());
        self.gate.acquire().await.unwrap().forget();
        let statuses = next(&self.batch_answers);
        if statuses.is_empty() {
            return BatchOutcome::Closed;
        }
        let ids = entries.iter().map(|index| batch.entries[*index].id.clone());
        BatchOutcome::Statuses(ids.zip(statuses).collect())
    }
}

/// A service with one broker named `ps`.
pub(super) struct World {
    pub(super) service: PubSubService,
    pub(super) broker: Arc<FakeBroker>,
    pub(super) components: Arc<ComponentStore>,
    prefix: Option<Arc<str>>,
}

impl World {
    /// Without policies and scopes.
    pub(super) async fn new() -> Self {
        Self::with(serde_json::json!({}), &[], None).await
    }

    /// With the `spec` of a Resiliency resource, metadata of the component, and a prefix of topics.
    pub(super) async fn with(
        resiliency: serde_json::Value,
        metadata: &[(&str, &str)],
        prefix: Option<&str>,
    ) -> Self {
        let resource: outrigger_resources::Resiliency =
            serde_json::from_value(serde_json::json!({"metadata": {"name": "r"}, "spec": resiliency}))
                .unwrap();
        let (policies, warnings) = Resiliency::new(&[resource], None);
        assert!(warnings.is_empty(), "{warnings:?}");
        let components = Arc::new(ComponentStore::default());
        let identity = Identity {
            app_id: "app1".into(),
            namespace: "default".into(),
            raw_namespace: "".into(),
            host_address: "127.0.0.1".into(),
            hostname: "host".into(),
        };
        let service = PubSubService::new(PubSubDeps {
            components: components.clone(),
            policies: Arc::new(ComponentPolicies::new(policies)),
            identity,
            app: None,
            tracing: Tracing::new(None, Spans::default()),
            ask_app: false,
        });
        let world = Self {
            service,
            broker: Arc::default(),
            components,
            prefix: prefix.map(Into::into),
        };
        world.load(metadata).await;
        world
    }

    /// Loads the component.
    pub(super) async fn load(&self, metadata: &[(&str, &str)]) {
        let properties: Properties = metadata
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let loaded = LoadedPubSub {
            broker: self.broker.clone(),
            scopes: Arc::new(TopicScopes::new(&properties, "app1")),
            topic_prefix: self.prefix.clone(),
        };
        self.components
            .insert(Component {
                name: "ps".into(),
                component_type: "pubsub.fake".into(),
                version: "v1".into(),
                capabilities: Vec::new(),
                instance: Instance::PubSub(loaded),
                source: Arc::default(),
                shutdown: CancellationToken::new(),
                tasks: TaskTracker::new(),
            })
            .await;
    }

    pub(super) async fn start(
        &self,
        spec: SubscriptionSpec,
        subscriber: &Arc<FakeSubscriber>,
    ) -> crate::pubsub::active::Active {
        let started = self.service.inner.start(Arc::new(spec), subscriber.clone()).await;
        started.map_err(|error| error.to_string()).unwrap()
    }
}

/// A subscription of `t` at `/t`.
pub(super) fn spec() -> SubscriptionSpec {
    SubscriptionSpec {
        pubsub: "ps".into(),
        topic: "t".into(),
        rules: vec![catch_all("/t")],
        ..SubscriptionSpec::default()
    }
}

/// An inbound policy of so many retries, a second apart.
pub(super) fn retries(count: i64) -> serde_json::Value {
    serde_json::json!({
        "policies": {"retries": {"r": {"policy": "constant", "duration": "1s", "maxRetries": count}}},
        "targets": {"components": {"ps": {"inbound": {"retry": "r"}}}}
    })
}

/// Lets all tasks run until they wait for each other or for time.
pub(super) async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}
