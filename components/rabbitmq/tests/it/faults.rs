//! The broker dies, hangs and comes back under load.

use std::sync::Arc;
use std::time::Duration;

use outrigger_components_api::bindings::{InputBinding, OutputBinding};
use outrigger_components_api::pubsub::PubSub as _;
use outrigger_components_api::testing::bindings::{Events, request};
use outrigger_components_api::testing::faults::no_acknowledged_event_is_lost;
use outrigger_components_api::testing::pubsub::{Recorder, text, topic};
use outrigger_components_rabbitmq::{RabbitBinding, RabbitMq};
use rustix::process::Signal;

use crate::server::Server;

/// What keeps messages over a restart of the broker.
const LASTING: [(&str, &str); 3] = [
    ("deletedWhenUnused", "false"),
    ("deliveryMode", "2"),
    ("durable", "true"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_killed_restarted_and_paused_loses_no_acknowledged_event() {
    let mut server = Server::start().await;
    let broker = Arc::new(RabbitMq::connect(&server.context(&LASTING)).await.unwrap());
    let outcome = no_acknowledged_event_is_lost(broker.clone(), "killed", async {
        server.kill();
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.start_again().await;
    })
    .await;
    assert!(outcome.acknowledged > 100, "{outcome:?}");
    let outcome = no_acknowledged_event_is_lost(broker, "paused", async {
        server.signal(Signal::STOP);
        tokio::time::sleep(Duration::from_secs(3)).await;
        server.signal(Signal::CONT);
    })
    .await;
    assert!(outcome.acknowledged > 100, "{outcome:?}");
}

/// As under a policy that tries one event for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_never_ends_holds_up_no_reconnection() {
    let mut server = Server::start().await;
    let broker = RabbitMq::connect(&server.context(&LASTING)).await.unwrap();
    let seen = Recorder::blocked();
    let subscription = broker.subscribe(topic("stuck"), seen.clone()).await.unwrap();
    broker.publish(text("stuck", "poison")).await.unwrap();
    seen.wait(1).await;
    server.kill();
    server.start_again().await;
    broker.publish(text("stuck", "next")).await.unwrap();
    seen.wait_until("what came after the restart", |came| {
        came.iter().any(|data| data == "next")
    })
    .await;
    seen.release();
    subscription.close().await;
}

/// A queue that is not durable goes with the broker, and the broker confirms what goes to no queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binding_on_a_broker_that_forgot_its_queue_loses_no_acknowledged_message() {
    let mut server = Server::start().await;
    let settings = [("queueName", "forgotten")];
    let binding = RabbitBinding::connect(&server.context(&settings)).await.unwrap();
    binding.invoke(request("create", "before", [])).await.unwrap();
    server.kill();
    server.start_again().await;
    for n in 0..5 {
        let text = n.to_string();
        binding.invoke(request("create", &text, [])).await.unwrap();
    }
    let seen = Events::answering("");
    let reading = binding.read(seen.clone()).await.unwrap();
    let events = seen.wait(5).await;
    let texts: Vec<_> = events.iter().map(|event| event.data.clone().unwrap()).collect();
    assert_eq!(texts, ["0", "1", "2", "3", "4"]);
    // The reader gets over it too.
    server.kill();
    server.start_again().await;
    binding.invoke(request("create", "again", [])).await.unwrap();
    assert_eq!(seen.wait(6).await[5].data.as_deref(), Some(&b"again"[..]));
    reading.close().await;
}
