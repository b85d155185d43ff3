use std::time::Duration;

use outrigger_components_api::pubsub::HandlerError;

use super::fakes::{FakeSubscriber, World, retries, settle, spec};
use crate::pubsub::SubscriptionSpec;
use crate::pubsub::deliver::EntryStatus::{Drop, Retry, Success};
use crate::pubsub::subscription::BulkSettings;

fn bulk(max_messages: usize) -> SubscriptionSpec {
    SubscriptionSpec {
        bulk: Some(BulkSettings {
            max_messages: Some(max_messages),
            max_wait: Some(Duration::from_secs(1)),
        }),
        ..spec()
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_sent_when_it_is_full_or_its_first_entry_has_waited_long_enough() {
    let world = World::new().await;
    let subscriber = FakeSubscriber::of_batches([vec![Success; 3]]);
    let _active = world.start(bulk(3), &subscriber).await;
    let started = tokio::time::Instant::now();
    let waiting: Vec<_> = (0..5).map(|_| world.broker.send("t", "{}")).collect();
    for done in waiting {
        assert_eq!(done.await.unwrap(), Ok(()));
    }
    assert_eq!(*subscriber.batches.lock().unwrap(), [3, 2]);
    assert_eq!(started.elapsed(), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn what_a_subscription_leaves_open_is_as_its_component_has_it() {
    let world = World::new().await;
    let subscriber = FakeSubscriber::of_batches([vec![Success; 2]]);
    let open = SubscriptionSpec {
        bulk: Some(BulkSettings {
            max_messages: None,
            max_wait: None,
        }),
        ..spec()
    };
    let _active = world.start(open, &subscriber).await;
    assert_eq!(*world.broker.in_hand.lock().unwrap(), [2]);
    let started = tokio::time::Instant::now();
    let waiting: Vec<_> = (0..3).map(|_| world.broker.send("t", "{}")).collect();
    for done in waiting {
        assert_eq!(done.await.unwrap(), Ok(()));
    }
    assert_eq!(*subscriber.batches.lock().unwrap(), [2, 1]);
    assert_eq!(started.elapsed(), Duration::from_secs(7));
}

#[tokio::test(start_paused = true)]
async fn only_entries_that_failed_are_sent_again_and_each_gets_its_own_result() {
    let world = World::with(retries(1), &[], None).await;
    let subscriber = FakeSubscriber::of_batches([vec![Success, Retry, Drop, Retry], vec![Retry, Success]]);
    let _active = world.start(bulk(4), &subscriber).await;
    let waiting: Vec<_> = (0..4).map(|_| world.broker.send("t", "{}")).collect();
    let mut results = Vec::new();
    for done in waiting {
        results.push(done.await.unwrap());
    }
    assert_eq!(*subscriber.batches.lock().unwrap(), [4, 2]);
    let failed: Vec<usize> = (0..4).filter(|index| results[*index].is_err()).collect();
    assert_eq!(failed, [1], "{results:?}");
}

#[tokio::test(start_paused = true)]
async fn dropped_and_failed_entries_go_to_the_dead_letter_topic() {
    let world = World::new().await;
    let subscriber = FakeSubscriber::of_batches([vec![Success, Retry, Drop]]);
    let with_dead_letter = SubscriptionSpec {
        dead_letter: Some("dead".into()),
        ..bulk(4)
    };
    let _active = world.start(with_dead_letter, &subscriber).await;
    // The fourth one is no event at all.
    let waiting: Vec<_> = ["{}", "{}", "{}", "?"]
        .map(|data| world.broker.send("t", data))
        .into();
    for done in waiting {
        assert_eq!(done.await.unwrap(), Ok(()));
    }
    assert_eq!(world.broker.published_topics(), ["dead", "dead", "dead"]);
}

#[tokio::test(start_paused = true)]
async fn a_closing_subscription_sends_what_it_has_gathered_at_once() {
    let world = World::new().await;
    let subscriber = FakeSubscriber::of_batches([vec![Success; 9]]);
    let active = world.start(bulk(9), &subscriber).await;
    let waiting = world.broker.send("t", "{}");
    settle().await;
    let started = tokio::time::Instant::now();
    active.close().await;
    assert_eq!(waiting.await.unwrap(), Ok(()));
    assert_eq!(*subscriber.batches.lock().unwrap(), [1]);
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn entries_for_a_subscriber_that_is_gone_go_back_and_not_to_the_dead_letter_topic() {
    let world = World::with(retries(3), &[], None).await;
    let subscriber = FakeSubscriber::of_batches([vec![Success, Retry], vec![]]);
    let with_dead_letter = SubscriptionSpec {
        dead_letter: Some("dead".into()),
        ..bulk(2)
    };
    let _active = world.start(with_dead_letter, &subscriber).await;
    let waiting = [world.broker.send("t", "{}"), world.broker.send("t", "{}")];
    let [first, second] = waiting;
    assert_eq!(first.await.unwrap(), Ok(()));
    assert_eq!(second.await.unwrap(), Err(HandlerError::Closed));
    assert!(world.broker.published_topics().is_empty());
}
