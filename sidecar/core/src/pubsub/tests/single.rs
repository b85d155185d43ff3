use std::time::Duration;

use outrigger_components_api::pubsub::HandlerError;
use outrigger_resources::subscription::Rule;

use super::fakes::{FakeSubscriber, World, retries, settle, spec};
use crate::pubsub::SubscriptionSpec;
use crate::pubsub::deliver::{Outcome, Refusal};

const EVENT: &str = r#"{"id":"1","type":"a","data":1}"#;

fn refused() -> Outcome {
    Outcome::Refused(Refusal::new("no"))
}

fn with_dead_letter() -> SubscriptionSpec {
    SubscriptionSpec {
        dead_letter: Some("dead".into()),
        ..spec()
    }
}

#[tokio::test(start_paused = true)]
async fn the_subscribers_word_decides_about_the_acknowledgement() {
    let world = World::new().await;
    let unreachable = Outcome::Refused(Refusal::undelivered("gone"));
    let subscriber = FakeSubscriber::new([
        Outcome::Done,
        Outcome::Dropped,
        refused(),
        unreachable,
        Outcome::Closed,
    ]);
    let _active = world.start(spec(), &subscriber).await;
    let mut results = Vec::new();
    for _ in 0..5 {
        results.push(world.broker.send("t", EVENT).await.unwrap());
    }
    let want = [
        Ok(()),
        Ok(()),
        Err(HandlerError::Failed("no".into())),
        Err(HandlerError::Undelivered("gone".into())),
        Err(HandlerError::Closed),
    ];
    assert_eq!(results, want);
}

#[tokio::test(start_paused = true)]
async fn what_the_policy_gives_up_goes_to_the_dead_letter_topic_as_it_came() {
    let world = World::with(retries(2), &[], None).await;
    let subscriber = FakeSubscriber::new([refused()]);
    let _active = world.start(with_dead_letter(), &subscriber).await;
    let started = tokio::time::Instant::now();
    assert_eq!(world.broker.send("t", EVENT).await.unwrap(), Ok(()));
    assert_eq!(subscriber.count(), 3);
    assert_eq!(started.elapsed().as_secs(), 2);
    let published = world.broker.published.lock().unwrap().clone();
    assert_eq!(published[0].topic, "dead");
    assert_eq!(published[0].data, EVENT);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_cannot_be_sent_keeps_the_event_at_the_broker() {
    let world = World::new().await;
    world.broker.broken.lock().unwrap().push("dead".into());
    let subscriber = FakeSubscriber::new([refused(), Outcome::Dropped]);
    let _active = world.start(with_dead_letter(), &subscriber).await;
    for _ in 0..2 {
        let result = world.broker.send("t", EVENT).await.unwrap();
        assert!(matches!(result, Err(HandlerError::Failed(_))), "{result:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn events_of_no_route_and_expired_ones_are_not_delivered() {
    let world = World::new().await;
    let subscriber = FakeSubscriber::new([Outcome::Done]);
    let rule = |condition: &str, path: &str| Rule {
        condition: condition.into(),
        path: path.into(),
    };
    let routed = SubscriptionSpec {
        rules: vec![rule("event.type == 'a'", "/a"), rule("event.data > 5", "/big")],
        ..spec()
    };
    let _active = world.start(routed, &subscriber).await;
    let old = r#"{"id":"1","type":"a","expiration":"2001-01-01T00:00:00Z"}"#;
    for event in [EVENT, r#"{"type":"b","data":6}"#, r#"{"type":"b","data":5}"#, old] {
        assert_eq!(world.broker.send("t", event).await.unwrap(), Ok(()), "{event}");
    }
    assert_eq!(*subscriber.deliveries.lock().unwrap(), ["/a", "/big"]);
    for undecided in [r#"{"type":"b","data":"x"}"#, "no event"] {
        let result = world.broker.send("t", undecided).await.unwrap();
        assert!(matches!(result, Err(HandlerError::Failed(_))), "{result:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_closing_subscription_ends_what_is_in_hand_and_takes_nothing_new() {
    let world = World::new().await;
    let subscriber = FakeSubscriber::new([Outcome::Done]);
    subscriber.gate.forget_permits(1000);
    let active = world.start(spec(), &subscriber).await;
    let in_hand = world.broker.send("t", EVENT);
    settle().await;
    let closing = tokio::spawn(active.close());
    settle().await;
    assert_eq!(
        world.broker.send("t", EVENT).await.unwrap(),
        Err(HandlerError::Closed)
    );
    assert!(!closing.is_finished());
    subscriber.gate.add_permits(1);
    assert_eq!(in_hand.await.unwrap(), Ok(()));
    closing.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_closing_subscription_does_not_wait_for_further_attempts() {
    let world = World::with(retries(-1), &[], None).await;
    let subscriber = FakeSubscriber::new([refused()]);
    let active = world.start(spec(), &subscriber).await;
    let in_hand = world.broker.send("t", EVENT);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let started = tokio::time::Instant::now();
    active.close().await;
    assert_eq!(in_hand.await.unwrap(), Err(HandlerError::Closed));
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(subscriber.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn after_the_drain_time_events_in_hand_go_back() {
    let world = World::new().await;
    let subscriber = FakeSubscriber::new([Outcome::Done]);
    subscriber.gate.forget_permits(1000);
    let active = world.start(spec(), &subscriber).await;
    let in_hand = world.broker.send("t", EVENT);
    settle().await;
    let started = tokio::time::Instant::now();
    active.close().await;
    assert_eq!(started.elapsed().as_secs(), 30);
    assert_eq!(in_hand.await.unwrap(), Err(HandlerError::Closed));
}
