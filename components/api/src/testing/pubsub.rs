//! What every broker must do.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use super::soon;
use crate::pubsub::{
    BulkEntry, BulkPublishRequest, HandlerError, MessageHandler, NewMessage, PubSub, PubSubFeature,
    PublishRequest, SubscribeRequest,
};

/// A handler that keeps what it gets, and answers as told.
#[derive(Debug)]
pub struct Recorder {
    messages: Mutex<Vec<NewMessage>>,
    count: watch::Sender<usize>,
    fail_first: usize,
    failure: HandlerError,
    open: watch::Sender<bool>,
    running: Mutex<(usize, usize)>,
}

impl Recorder {
    /// Accepts everything.
    pub fn new() -> Arc<Self> {
        Self::failing_first(0, HandlerError::Closed)
    }

    /// Refuses the first `n` calls.
    pub fn failing_first(n: usize, failure: HandlerError) -> Arc<Self> {
        Arc::new(Self {
            messages: Mutex::default(),
            count: watch::Sender::new(0),
            fail_first: n,
            failure,
            open: watch::Sender::new(true),
            running: Mutex::default(),
        })
    }

    /// Answers nothing until [`Recorder::release`].
    pub fn blocked() -> Arc<Self> {
        let recorder = Self::new();
        recorder.block();
        recorder
    }

    /// Holds calls from now on until [`Recorder::release`].
    pub fn block(&self) {
        self.open.send_replace(false);
    }

    /// Lets blocked and later calls end.
    pub fn release(&self) {
        self.open.send_replace(true);
    }

    /// What came, in the order in which calls began.
    pub fn messages(&self) -> Vec<NewMessage> {
        self.messages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The most calls that ran at the same time.
    pub fn most_at_once(&self) -> usize {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Calls that run now.
    pub fn running(&self) -> usize {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Waits until the payloads that came are as wanted.
    ///
    /// # Panics
    /// If they are not within 30 seconds.
    pub async fn wait_until(&self, what: &str, wanted: impl Fn(&[String]) -> bool) {
        let mut count = self.count.subscribe();
        let arrived = count.wait_for(|_| wanted(&self.texts()));
        let arrived = tokio::time::timeout(Duration::from_secs(30), arrived).await;
        assert!(
            matches!(arrived, Ok(Ok(_))),
            "{what}: not within 30 seconds; what came: {:?}",
            self.texts()
        );
    }

    /// Waits for `n` calls to have begun; their payloads as text.
    ///
    /// # Panics
    /// If fewer come within 30 seconds.
    pub async fn wait(&self, n: usize) -> Vec<String> {
        let mut count = self.count.subscribe();
        let arrived = soon("messages", count.wait_for(|count| *count >= n))
            .await
            .is_ok();
        assert!(arrived);
        self.texts()
    }

    /// Payloads as text.
    pub fn texts(&self) -> Vec<String> {
        self.messages()
            .iter()
            .map(|message| String::from_utf8_lossy(&message.data).into_owned())
            .collect()
    }

    fn enter(&self, step: isize) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.0 = running.0.saturating_add_signed(step);
        running.1 = running.1.max(running.0);
    }
}

#[async_trait]
impl MessageHandler for Recorder {
    async fn handle(&self, message: NewMessage) -> Result<(), HandlerError> {
        self.enter(1);
        let number = {
            let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
            messages.push(message);
            messages.len()
        };
        // Of two calls at once the later may get here first.
        self.count.send_modify(|count| *count = number.max(*count));
        let mut open = self.open.subscribe();
        // The sender lives in self, so waiting cannot fail.
        let _ = open.wait_for(|open| *open).await;
        self.enter(-1);
        if number <= self.fail_first {
            return Err(self.failure.clone());
        }
        Ok(())
    }
}

/// A subscription request for a topic without metadata.
pub fn topic(topic: &str) -> SubscribeRequest {
    SubscribeRequest {
        topic: topic.to_owned(),
        ..Default::default()
    }
}

/// A message without metadata.
pub fn text(topic: &str, data: &str) -> PublishRequest {
    PublishRequest {
        topic: topic.to_owned(),
        data: Bytes::copy_from_slice(data.as_bytes()),
        ..Default::default()
    }
}

/// Whether calls of the handler begin in the order of publishing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// One call after the other.
    Kept,
    /// Several workers, which may overtake each other.
    Free,
}

/// Where brokers differ by contract.
#[derive(Debug, Clone, Copy)]
pub struct Traits {
    /// What it says it can: no more, and no less.
    pub features: &'static [PubSubFeature],
    /// Put before every topic, so that runs do not meet.
    pub prefix: &'static str,
    /// Whether calls begin in the order of publishing.
    pub order: Order,
    /// Metadata travels with the message.
    pub carries_metadata: bool,
    /// An event that nobody has decided about comes again; elsewhere it is lost.
    pub redelivers: bool,
    /// Names that topics may have.
    pub topics: &'static [&'static str],
    /// Bytes of the largest payload that is tried.
    pub largest: usize,
}

impl Traits {
    /// A broker with these capabilities that does everything else.
    pub const fn all(prefix: &'static str, order: Order, features: &'static [PubSubFeature]) -> Self {
        Self {
            features,
            prefix,
            order,
            carries_metadata: true,
            redelivers: true,
            topics: &[
                "plain",
                "with space",
                "a/b/c",
                "ünï",
                "a.b-c_d",
                "{braces}",
                "x:y",
            ],
            largest: 1 << 20,
        }
    }
}

/// Runs all checks; what a broker cannot do is checked as well.
///
/// # Panics
/// At the first broken promise.
pub async fn suite(broker: Arc<dyn PubSub>, traits: Traits) {
    let Traits { prefix, order, .. } = traits;
    broker.ping().await.unwrap();
    assert_eq!(broker.features(), traits.features);
    a_message_reaches_every_topic_name(&*broker, &traits).await;
    metadata_and_payload_arrive_unchanged(&*broker, &traits).await;
    every_message_of_a_publisher_arrives(&*broker, prefix, order).await;
    an_event_that_was_not_delivered_comes_again(&*broker, &traits).await;
    a_bulk_reports_every_entry(&*broker, &traits).await;
    calls_that_are_given_up_disturb_nobody(&*broker, prefix).await;
    nothing_comes_after_a_close(&*broker, prefix).await;
    a_close_waits_for_the_running_call(&*broker, prefix).await;
    publishing_while_subscriptions_come_and_go_never_hangs(broker, prefix).await;
}

async fn a_message_reaches_every_topic_name(broker: &dyn PubSub, traits: &Traits) {
    for name in traits.topics {
        let name = format!("{}{name}", traits.prefix);
        let seen = Recorder::new();
        let subscription = broker.subscribe(topic(&name), seen.clone()).await.unwrap();
        broker.publish(text(&name, "hello")).await.unwrap();
        assert_eq!(seen.wait(1).await, ["hello"], "{name}");
        assert_eq!(seen.messages()[0].topic, name);
        subscription.close().await;
    }
}

async fn metadata_and_payload_arrive_unchanged(broker: &dyn PubSub, traits: &Traits) {
    let name = format!("{}metadata", traits.prefix);
    let seen = Recorder::new();
    let subscription = broker.subscribe(topic(&name), seen.clone()).await.unwrap();
    let payloads: [Bytes; 3] = [
        Bytes::new(),
        (0..=255).collect::<Vec<u8>>().into(),
        vec![7; traits.largest].into(),
    ];
    for payload in &payloads {
        let mut request = text(&name, "");
        request.data = payload.clone();
        request.metadata = Some([("Key <é>".to_owned(), "\"v\"".to_owned())].into());
        broker.publish(request).await.unwrap();
    }
    seen.wait(payloads.len()).await;
    let mut got = seen.messages();
    got.sort_by_key(|message| message.data.len());
    for (message, payload) in got.iter().zip(&payloads) {
        assert!(message.data == *payload, "payload of {} bytes", payload.len());
        assert_eq!(
            message.metadata().get("Key <é>").map(String::as_str),
            traits.carries_metadata.then_some("\"v\"")
        );
    }
    subscription.close().await;
}

async fn every_message_of_a_publisher_arrives(broker: &dyn PubSub, prefix: &str, order: Order) {
    let name = format!("{prefix}order");
    let seen = Recorder::new();
    let subscription = broker.subscribe(topic(&name), seen.clone()).await.unwrap();
    let sent: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    for data in &sent {
        broker.publish(text(&name, data)).await.unwrap();
    }
    let mut got = seen.wait(sent.len()).await;
    if order == Order::Free {
        got.sort_by_key(|data| data.parse().unwrap_or(usize::MAX));
    }
    assert_eq!(got, sent);
    subscription.close().await;
}

async fn an_event_that_was_not_delivered_comes_again(broker: &dyn PubSub, traits: &Traits) {
    let name = format!("{}again", traits.prefix);
    let seen = Recorder::failing_first(1, HandlerError::Undelivered("nobody is there".into()));
    let subscription = broker.subscribe(topic(&name), seen.clone()).await.unwrap();
    broker.publish(text(&name, "1")).await.unwrap();
    seen.wait(1).await;
    if !traits.redelivers {
        // One that came again would come before the next one.
        broker.publish(text(&name, "2")).await.unwrap();
    }
    let came = if traits.redelivers { ["1", "1"] } else { ["1", "2"] };
    assert_eq!(seen.wait(2).await, came);
    subscription.close().await;
}

async fn a_bulk_reports_every_entry(broker: &dyn PubSub, traits: &Traits) {
    let name = format!("{}bulk", traits.prefix);
    let seen = Recorder::new();
    let subscription = broker.subscribe(topic(&name), seen.clone()).await.unwrap();
    let numbers = (0..20).map(|n| n.to_string());
    let entries: Vec<BulkEntry> = numbers
        .map(|number| BulkEntry {
            entry_id: format!("id-{number}"),
            data: number.into(),
            content_type: "text/plain".into(),
            metadata: None,
        })
        .collect();
    let mut sent: Vec<_> = entries.iter().map(|entry| entry.data.clone()).collect();
    let ids: Vec<_> = entries.iter().map(|entry| entry.entry_id.clone()).collect();
    let request = BulkPublishRequest {
        topic: name,
        entries,
        ..Default::default()
    };
    let result = broker.bulk_publish(request).await;
    if traits.features.contains(&PubSubFeature::BulkPublish) {
        assert_eq!(result, Ok(()));
        seen.wait(sent.len()).await;
        let mut came: Vec<_> = seen.messages().into_iter().map(|message| message.data).collect();
        came.sort();
        sent.sort();
        assert_eq!(came, sent);
    } else {
        // The sidecar publishes one by one there.
        let failed = result.unwrap_err().into_iter().map(|entry| entry.entry_id);
        assert_eq!(failed.collect::<Vec<_>>(), ids);
    }
    subscription.close().await;
}

async fn calls_that_are_given_up_disturb_nobody(broker: &dyn PubSub, prefix: &str) {
    let name = format!("{prefix}given-up");
    let seen = Recorder::new();
    let subscription = broker.subscribe(topic(&name), seen.clone()).await.unwrap();
    let mut acknowledged = Vec::new();
    for n in 0..50_u32 {
        let data = n.to_string();
        // Some are given up before they begin, some at work, some not.
        let limit = Duration::from_micros(u64::from(n) * 40);
        let call = tokio::time::timeout(limit, broker.publish(text(&name, &data)));
        if call.await.is_ok_and(|published| published.is_ok()) {
            acknowledged.push(data);
        }
    }
    soon("a call after those", broker.publish(text(&name, "last")))
        .await
        .unwrap();
    acknowledged.push("last".to_owned());
    seen.wait_until("what was acknowledged", |came| {
        acknowledged.iter().all(|data| came.contains(data))
    })
    .await;
    subscription.close().await;
}

async fn nothing_comes_after_a_close(broker: &dyn PubSub, prefix: &str) {
    let name = format!("{prefix}closed");
    let seen = Recorder::new();
    let subscription = broker.subscribe(topic(&name), seen.clone()).await.unwrap();
    broker.publish(text(&name, "before")).await.unwrap();
    seen.wait(1).await;
    soon("the end of the subscription", subscription.close()).await;
    broker.publish(text(&name, "after")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(seen.texts(), ["before"]);
}

async fn a_close_waits_for_the_running_call(broker: &dyn PubSub, prefix: &str) {
    let name = format!("{prefix}running");
    let seen = Recorder::blocked();
    let subscription = broker.subscribe(topic(&name), seen.clone()).await.unwrap();
    broker.publish(text(&name, "1")).await.unwrap();
    seen.wait(1).await;
    let closing = subscription.close();
    tokio::pin!(closing);
    assert!(
        tokio::time::timeout(Duration::from_millis(100), &mut closing)
            .await
            .is_err(),
        "closed while the handler was running"
    );
    seen.release();
    soon("the end of the subscription", closing).await;
    assert_eq!(seen.running(), 0);
}

async fn publishing_while_subscriptions_come_and_go_never_hangs(broker: Arc<dyn PubSub>, prefix: &str) {
    let name = format!("{prefix}busy");
    let publisher = {
        let (broker, name) = (broker.clone(), name.clone());
        tokio::spawn(async move {
            for n in 0..200 {
                broker.publish(text(&name, &n.to_string())).await.unwrap();
            }
        })
    };
    for _ in 0..10 {
        let subscription = broker.subscribe(topic(&name), Recorder::new()).await.unwrap();
        tokio::task::yield_now().await;
        soon("the end of the subscription", subscription.close()).await;
    }
    soon("the publisher", publisher).await.unwrap();
}
