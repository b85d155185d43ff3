//! A message broker inside the process.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use outrigger_components_api::pubsub::{
    MessageHandler, NewMessage, PubSub, PubSubFeature, PublishRequest, SubscribeRequest, Subscription,
};
use outrigger_components_api::{ComponentError, InitContext};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

/// Messages that may wait for one subscription.
const QUEUE: usize = 1024;
/// Bytes that may wait for all subscriptions of a broker.
const BUDGET: usize = 64 << 20;
/// What a waiting message costs beyond its payload, about.
const OVERHEAD: usize = 256;
/// How long a publisher waits for room. Longer would hang an app that publishes from within a handler.
const PATIENCE: Duration = Duration::from_secs(5);

/// `pubsub.in-memory`: every subscription gets every message of its topic, one after the other, in the order of
/// publishing. A topic ending in `*` subscribes to all longer topics with that prefix. A message that its handler
/// refuses is logged and gone.
#[derive(Debug)]
pub struct MemoryPubSub {
    name: String,
    queues: Arc<Mutex<Vec<Queue>>>,
    budget: Arc<Semaphore>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

/// The sending end of one subscription.
#[derive(Debug, Clone)]
struct Queue {
    pattern: String,
    sender: mpsc::Sender<Queued>,
}

#[derive(Debug)]
struct Queued {
    message: NewMessage,
    /// Returned to the budget when the message has been handled.
    _room: Arc<OwnedSemaphorePermit>,
}

impl MemoryPubSub {
    /// An empty broker.
    pub fn new(context: &InitContext) -> Self {
        Self {
            name: context.name.clone(),
            queues: Arc::default(),
            budget: Arc::new(Semaphore::new(BUDGET)),
            shutdown: context.shutdown.clone(),
            tasks: context.tasks.clone(),
        }
    }

    fn check_open(&self) -> Result<(), ComponentError> {
        if self.shutdown.is_cancelled() {
            return Err(ComponentError::new("component is closed"));
        }
        Ok(())
    }

    fn full(topic: &str) -> ComponentError {
        ComponentError::new(format!(
            "the subscribers of topic {topic} do not keep up: no room in the in-memory broker for {} seconds",
            PATIENCE.as_secs()
        ))
    }
}

fn matches(pattern: &str, topic: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => pattern == topic || (topic.len() > prefix.len() && topic.starts_with(prefix)),
        None => pattern == topic,
    }
}

#[async_trait]
impl PubSub for MemoryPubSub {
    fn features(&self) -> &[PubSubFeature] {
        &[PubSubFeature::SubscribeWildcards]
    }

    async fn publish(&self, request: PublishRequest) -> Result<(), ComponentError> {
        self.check_open()?;
        let receivers: Vec<mpsc::Sender<Queued>> = {
            let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
            queues.retain(|queue| !queue.sender.is_closed());
            queues
                .iter()
                .filter(|queue| matches(&queue.pattern, &request.topic))
                .map(|queue| queue.sender.clone())
                .collect()
        };
        if receivers.is_empty() {
            return Ok(());
        }
        let cost = u32::try_from((request.data.len() + OVERHEAD).min(BUDGET)).unwrap_or(u32::MAX);
        let topic = request.topic.clone();
        let deliver = async {
            let room = self.budget.clone().acquire_many_owned(cost).await;
            let room = Arc::new(room.map_err(|_| ComponentError::new("component is closed"))?);
            let message = NewMessage {
                topic: request.topic,
                data: request.data,
                metadata: request.metadata,
                // Dapr's broker does not pass the content type on: it is not that of the envelope.
                content_type: None,
            };
            // All or none: room in every queue is reserved before the first one gets the message.
            let mut slots = Vec::with_capacity(receivers.len());
            for receiver in &receivers {
                // A subscription that ended in the meantime misses the message as if it had ended before.
                if let Ok(slot) = receiver.reserve().await {
                    slots.push(slot);
                }
            }
            for slot in slots {
                slot.send(Queued {
                    message: message.clone(),
                    _room: room.clone(),
                });
            }
            Ok(())
        };
        tokio::select! {
            delivered = tokio::time::timeout(PATIENCE, deliver) => {
                delivered.unwrap_or_else(|_| Err(Self::full(&topic)))
            }
            () = self.shutdown.cancelled() => Err(ComponentError::new("component is closed")),
        }
    }

    async fn subscribe(
        &self,
        request: SubscribeRequest,
        handler: Arc<dyn MessageHandler>,
    ) -> Result<Subscription, ComponentError> {
        self.check_open()?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let stop = self.shutdown.child_token();
        debug!(component = %self.name, topic = %request.topic, "subscribed");
        let consumer = consume(self.name.clone(), receiver, handler, stop.clone());
        self.queues
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Queue {
                pattern: request.topic,
                sender,
            });
        Ok(Subscription {
            stop,
            stopped: self.tasks.spawn(consumer),
        })
    }
}

/// Hands messages to the handler one at a time until told to stop. What still waits then is dropped, as the
/// broker keeps nothing.
async fn consume(
    component: String,
    mut receiver: mpsc::Receiver<Queued>,
    handler: Arc<dyn MessageHandler>,
    stop: CancellationToken,
) {
    loop {
        let queued = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            queued = receiver.recv() => queued,
        };
        let Some(Queued { message, _room }) = queued else {
            break;
        };
        let topic = message.topic.clone();
        if let Err(error) = handler.handle(message).await {
            warn!(%component, %topic, %error, "message dropped: its handler failed and an in-memory broker does not redeliver");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use outrigger_components_api::pubsub::HandlerError;
    use outrigger_components_api::testing::{Recorder, init_context};

    fn message(topic: &str, data: &str) -> PublishRequest {
        PublishRequest {
            topic: topic.into(),
            data: Bytes::copy_from_slice(data.as_bytes()),
            ..Default::default()
        }
    }

    fn topic(topic: &str) -> SubscribeRequest {
        SubscribeRequest {
            topic: topic.into(),
            ..Default::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wildcard_gets_longer_topics_only() {
        let broker = MemoryPubSub::new(&init_context("ps", []));
        let seen = Recorder::new();
        broker.subscribe(topic("wild*"), seen.clone()).await.unwrap();
        for name in ["wild", "wilder", "other", "wild/1"] {
            broker.publish(message(name, name)).await.unwrap();
        }
        assert_eq!(seen.wait(2).await, ["wilder", "wild/1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn metadata_of_the_publisher_reaches_the_handler() {
        let broker = MemoryPubSub::new(&init_context("ps", []));
        let seen = Recorder::new();
        broker.subscribe(topic("t"), seen.clone()).await.unwrap();
        let mut request = message("t", "x");
        request.metadata = Some([("foo".to_owned(), "bar".to_owned())].into());
        broker.publish(request).await.unwrap();
        seen.wait(1).await;
        assert_eq!(seen.messages()[0].metadata()["foo"], "bar");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_message_is_not_redelivered_and_the_next_one_comes() {
        let broker = MemoryPubSub::new(&init_context("ps", []));
        let seen = Recorder::failing_first(1, HandlerError::Failed("no".into()));
        broker.subscribe(topic("t"), seen.clone()).await.unwrap();
        broker.publish(message("t", "1")).await.unwrap();
        broker.publish(message("t", "2")).await.unwrap();
        assert_eq!(seen.wait(2).await, ["1", "2"]);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(seen.messages().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_subscriber_that_hangs_makes_publishing_fail_and_loses_nothing_accepted() {
        let broker = MemoryPubSub::new(&init_context("ps", []));
        let seen = Recorder::blocked();
        let subscription = broker.subscribe(topic("t"), seen.clone()).await.unwrap();
        let mut accepted = 0;
        let error = loop {
            match broker.publish(message("t", &accepted.to_string())).await {
                Ok(()) => accepted += 1,
                Err(error) => break error,
            }
            assert!(accepted < 10 * QUEUE, "the queue has no bound");
        };
        assert!(error.0.contains("do not keep up"), "{error}");
        seen.release();
        assert_eq!(seen.wait(accepted).await.len(), accepted);
        subscription.close().await;
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_wait_are_bounded_too() {
        let broker = MemoryPubSub::new(&init_context("ps", []));
        let seen = Recorder::blocked();
        broker.subscribe(topic("t"), seen.clone()).await.unwrap();
        let big = "x".repeat(BUDGET / 4);
        let mut accepted = 0;
        while broker.publish(message("t", &big)).await.is_ok() {
            accepted += 1;
        }
        assert!(accepted <= 4, "{accepted}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_component_says_so() {
        let context = init_context("ps", []);
        let broker = MemoryPubSub::new(&context);
        let seen = Recorder::new();
        let subscription = broker.subscribe(topic("t"), seen.clone()).await.unwrap();
        context.shutdown.cancel();
        subscription.stopped.await.unwrap();
        let error = broker.publish(message("t", "1")).await.unwrap_err();
        assert_eq!(error.0, "component is closed");
        assert!(broker.subscribe(topic("t"), seen).await.is_err());
    }
}
