use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use outrigger_components_api::pubsub::HandlerError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::fakes::{FakeSubscriber, World, settle, spec};
use crate::metadata::SubscriptionKind;
use crate::pubsub::SubscriptionSpec;
use crate::pubsub::deliver::{Outcome, Subscriber};
use crate::pubsub::stream::{StreamError, StreamRequest};

fn on(topic: &str) -> SubscriptionSpec {
    SubscriptionSpec {
        topic: topic.into(),
        ..spec()
    }
}

/// Keeps the declared subscriptions until the token is cancelled.
fn keep(world: &World, healthy: watch::Receiver<bool>) -> (CancellationToken, tokio::task::JoinHandle<()>) {
    let shutdown = CancellationToken::new();
    let (inner, stop) = (world.service.inner.clone(), shutdown.clone());
    let subscriber: Arc<dyn Subscriber> = FakeSubscriber::new([Outcome::Done]);
    let task = tokio::spawn(async move { inner.keep_all(subscriber, healthy, &stop).await });
    (shutdown, task)
}

#[tokio::test(start_paused = true)]
async fn subscriptions_run_while_the_app_is_healthy_and_follow_what_is_declared() {
    let world = World::new().await;
    world.service.set_declared(vec![on("a"), on("b")]);
    let (state, healthy) = watch::channel(false);
    let (shutdown, task) = keep(&world, healthy);
    settle().await;
    assert!(world.broker.topics().is_empty());
    state.send_replace(true);
    settle().await;
    assert_eq!(world.broker.topics(), ["a", "b"]);
    world.service.set_declared(vec![on("b"), on("c")]);
    settle().await;
    assert_eq!(world.broker.topics(), ["b", "c"]);
    assert_eq!(world.service.subscriptions_metadata().len(), 2);
    state.send_replace(false);
    settle().await;
    assert!(world.broker.topics().is_empty());
    state.send_replace(true);
    settle().await;
    assert_eq!(world.broker.topics(), ["b", "c"]);
    shutdown.cancel();
    task.await.unwrap();
    assert!(world.broker.topics().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_failed_start_is_tried_again_until_it_works() {
    let world = World::new().await;
    world.broker.refusals.store(5, Ordering::SeqCst);
    world.service.set_declared(vec![on("a")]);
    let (_state, healthy) = watch::channel(true);
    let (_shutdown, _task) = keep(&world, healthy);
    world.service.settled().await;
    assert!(
        world.broker.topics().is_empty(),
        "one try is enough to be settled"
    );
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(world.broker.topics(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_starts_when_its_component_comes() {
    let world = World::new().await;
    world.components.remove("ps").await;
    world.service.set_declared(vec![on("a")]);
    let (_state, healthy) = watch::channel(true);
    let (_shutdown, _task) = keep(&world, healthy);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(world.broker.topics().is_empty());
    world.load(&[]).await;
    world.service.components_changed();
    settle().await;
    assert_eq!(world.broker.topics(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn topics_that_are_not_allowed_are_not_subscribed() {
    let world = World::with(serde_json::json!({}), &[("allowedTopics", "b")], None).await;
    world.service.set_declared(vec![on("a"), on("b")]);
    let (_state, healthy) = watch::channel(true);
    let (_shutdown, _task) = keep(&world, healthy);
    settle().await;
    assert_eq!(world.broker.topics(), ["b"]);
}

fn stream_of(topic: &str) -> StreamRequest {
    StreamRequest {
        pubsub: "ps".into(),
        topic: topic.into(),
        ..StreamRequest::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_answers_by_event_id_and_gives_back_what_it_has_not_answered() {
    let world = World::new().await;
    let mut stream = world.service.open_stream(stream_of("t")).await.ok().unwrap();
    assert_eq!(
        world.service.subscriptions_metadata()[0].kind,
        SubscriptionKind::Streaming
    );
    let first = world.broker.send("t", r#"{"id":"1"}"#);
    assert_eq!(stream.next().await.unwrap().id, "1");
    let second = world.broker.send("t", r#"{"id":"2"}"#);
    assert_eq!(stream.next().await.unwrap().id, "2");
    stream.answer("2", 0);
    stream.answer("unknown", 0);
    assert_eq!(second.await.unwrap(), Ok(()));
    stream.close().await;
    assert_eq!(first.await.unwrap(), Err(HandlerError::Closed));
    assert!(world.service.subscriptions_metadata().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_dropped_gives_everything_back() {
    let world = World::new().await;
    let stream = world.service.open_stream(stream_of("t")).await.ok().unwrap();
    let waiting = world.broker.send("t", r#"{"id":"1"}"#);
    settle().await;
    drop(stream);
    assert_eq!(waiting.await.unwrap(), Err(HandlerError::Closed));
    assert!(world.broker.topics().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stream_waits_for_a_component_that_is_closed_before_it_is_made_anew() {
    let world = World::new().await;
    let mut stream = world.service.open_stream(stream_of("t")).await.ok().unwrap();
    let replacing = world.components.replacing("ps");
    world.components.remove("ps").await;
    world.service.components_changed();
    let nothing = tokio::time::timeout(Duration::from_secs(60), stream.next()).await;
    assert!(nothing.is_err(), "the stream goes on");
    assert!(world.broker.topics().is_empty(), "nothing is read meanwhile");
    world.load(&[]).await;
    drop(replacing);
    world.service.components_changed();
    let mut sent = None;
    let send = async {
        settle().await;
        sent = Some(world.broker.send("t", r#"{"id":"1"}"#));
    };
    let (event, ()) = tokio::join!(stream.next(), send);
    assert_eq!(event.unwrap().id, "1");
    stream.answer("1", 0);
    assert_eq!(sent.unwrap().await.unwrap(), Ok(()));
    // Gone for good it is the end of the stream.
    world.components.remove("ps").await;
    world.service.components_changed();
    assert!(stream.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_a_topic_that_is_not_allowed_says_so() {
    let world = World::with(serde_json::json!({}), &[("allowedTopics", "b")], None).await;
    let error = world.service.open_stream(stream_of("t")).await.err().unwrap();
    let text =
        "failed to create subscription for ps: subscription to topic 't' on pubsub 'ps' is not allowed";
    assert_eq!(error, StreamError::Text(text.into()));
}
