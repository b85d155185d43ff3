//! `pubsub.mqtt3`.

use std::sync::Arc;
use std::time::Duration;

use outrigger_components_api::bindings::{InputBinding, OutputBinding};
use outrigger_components_api::pubsub::{HandlerError, PubSub, PubSubFeature, SubscribeRequest};
use outrigger_components_api::testing::Recorder;
use outrigger_components_api::testing::bindings::{
    Events, Input, Output, create, output_suite, queue_suite, request,
};
use outrigger_components_api::testing::pubsub::{Order, Traits, suite, text, topic};
use outrigger_components_mqtt::{Mqtt, MqttBinding};

use crate::server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_keeps_every_promise_at_every_quality_of_service() {
    // A client cut off has to be gone before the next one is welcomed.
    for (qos, prefix) in [("1", "one-"), ("2", "two-")] {
        let server = Server::start().await;
        let broker = Mqtt::connect(&server.context(&[("qos", qos)])).await.unwrap();
        let traits = Traits {
            carries_metadata: false,
            ..Traits::all(prefix, Order::Free, &[PubSubFeature::SubscribeWildcards])
        };
        suite(Arc::new(broker), traits).await;
    }
}

#[tokio::test]
async fn wildcards_and_shared_subscriptions_find_their_handlers() {
    let server = Server::start().await;
    let broker = Mqtt::connect(&server.context(&[])).await.unwrap();
    let (levels, all, shared) = (Recorder::new(), Recorder::new(), Recorder::new());
    let subscriptions = [
        broker
            .subscribe(topic("home/+/light"), levels.clone())
            .await
            .unwrap(),
        broker.subscribe(topic("garden/#"), all.clone()).await.unwrap(),
        broker
            .subscribe(topic("$share/g/work/x"), shared.clone())
            .await
            .unwrap(),
    ];
    for name in [
        "home/a/light",
        "home/b/light",
        "home/a/b/light",
        "garden",
        "garden/a/b",
        "work/x",
    ] {
        broker.publish(text(name, name)).await.unwrap();
    }
    let mut got = levels.wait(2).await;
    got.sort();
    assert_eq!(got, ["home/a/light", "home/b/light"]);
    let mut got = all.wait(2).await;
    got.sort();
    assert_eq!(got, ["garden", "garden/a/b"]);
    assert_eq!(shared.wait(1).await, ["work/x"]);
    assert_eq!(shared.messages()[0].topic, "work/x");
    for subscription in subscriptions {
        subscription.close().await;
    }
}

#[tokio::test]
async fn retained_messages_say_so() {
    let server = Server::start().await;
    let broker = Mqtt::connect(&server.context(&[])).await.unwrap();
    let mut request = text("kept", "1");
    request.metadata = Some([("retain".to_owned(), "true".to_owned())].into());
    broker.publish(request.clone()).await.unwrap();
    let seen = Recorder::new();
    let subscription = broker.subscribe(topic("kept"), seen.clone()).await.unwrap();
    assert_eq!(seen.wait(1).await, ["1"]);
    assert_eq!(seen.messages()[0].metadata()["retained"], "true");
    broker.publish(text("kept", "2")).await.unwrap();
    seen.wait(2).await;
    assert_eq!(seen.messages()[1].metadata()["retained"], "false");
    request.metadata = Some([("retain".to_owned(), "maybe".to_owned())].into());
    let error = broker.publish(request).await.unwrap_err();
    assert_eq!(
        error.0,
        "mqtt invalid retain maybe, strconv.ParseBool: parsing \"maybe\": invalid syntax"
    );
    subscription.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_handled_comes_again() {
    let server = Server::start().await;
    let broker = Mqtt::connect(&server.context(&[])).await.unwrap();
    // Nobody decided: tried again at once.
    let seen = Recorder::failing_first(1, HandlerError::Undelivered("gone".into()));
    let subscription = broker.subscribe(topic("again"), seen.clone()).await.unwrap();
    broker.publish(text("again", "1")).await.unwrap();
    assert_eq!(seen.wait(2).await, ["1", "1"]);
    subscription.close().await;
    // The subscription closed: the next one gets it.
    let seen = Recorder::failing_first(3, HandlerError::Closed);
    let subscription = broker.subscribe(topic("closed"), seen.clone()).await.unwrap();
    for n in 0..3 {
        broker.publish(text("closed", &n.to_string())).await.unwrap();
    }
    seen.wait(3).await;
    subscription.close().await;
    // While nobody was there.
    broker.publish(text("closed", "3")).await.unwrap();
    let next = Recorder::new();
    let subscription = broker.subscribe(topic("closed"), next.clone()).await.unwrap();
    let mut got = next.wait(4).await;
    got.sort();
    assert_eq!(got, ["0", "1", "2", "3"]);
    subscription.close().await;
}

#[tokio::test]
async fn a_session_outlives_the_sidecar_unless_it_is_clean() {
    let server = Server::start().await;
    let publisher = Mqtt::connect(&server.context(&[("consumerID", "other")]))
        .await
        .unwrap();
    for (clean, expected) in [("false", 1), ("true", 0)] {
        let settings = [("consumerID", clean), ("cleanSession", clean)];
        let broker = Mqtt::connect(&server.context(&settings)).await.unwrap();
        let subscription = broker.subscribe(topic("session"), Recorder::new()).await.unwrap();
        subscription.close().await;
        broker.close().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        publisher.publish(text("session", "meanwhile")).await.unwrap();
        let broker = Mqtt::connect(&server.context(&settings)).await.unwrap();
        let seen = Recorder::new();
        let subscription = broker.subscribe(topic("session"), seen.clone()).await.unwrap();
        if expected > 0 {
            seen.wait(expected).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(seen.texts().len(), expected, "cleanSession: {clean}");
        subscription.close().await;
        broker.close().await;
    }
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let server = Server::start_with("allow_anonymous false\npassword_file /dev/null").await;
    let error = Mqtt::connect(&server.context(&[])).await.unwrap_err();
    assert_eq!(
        error.0,
        "failed to establish connection to broker: not authorized"
    );
    let url = format!("mqtt://u:hunter2@127.0.0.1:{}", server.port());
    let error = Mqtt::connect(&server.context(&[("url", &url)]))
        .await
        .unwrap_err();
    assert!(!error.0.contains("hunter2"), "{error}");
    let error = Mqtt::connect(&server.context(&[("url", "mqtt://127.0.0.1:1")]))
        .await
        .unwrap_err();
    assert!(
        error.0.starts_with("failed to establish connection to broker: "),
        "{error}"
    );

    let server = Server::start().await;
    let broker = Mqtt::connect(&server.context(&[])).await.unwrap();
    for name in ["", "a/+", "#"] {
        broker.publish(text(name, "1")).await.unwrap_err();
    }
    let refused = broker
        .subscribe(SubscribeRequest::default(), Recorder::new())
        .await;
    assert!(refused.is_err());
    broker.close().await;
    let error = broker.publish(text("t", "1")).await.unwrap_err();
    assert!(error.0.contains("component is closed"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_binding_keeps_every_promise() {
    let server = Server::start().await;
    let context = |name: &str| {
        let settings = [
            ("topic", "suite"),
            ("consumerID", name),
            ("backOffMaxRetries", "1"),
        ];
        server.context(&settings)
    };
    let writer = Arc::new(MqttBinding::connect_output(&context("writer")).await.unwrap());
    let reader = MqttBinding::connect_input(&context("one")).await.unwrap();
    let input = Input {
        largest: 5 << 20,
        redelivers: true,
        given_up_after: &[0, 1, 2, 5, 20].map(Duration::from_millis),
    };
    queue_suite(Arc::new(reader), input, async |data| {
        writer.invoke(create(data)).await.unwrap();
    })
    .await;
    let reader = MqttBinding::connect_input(&context("two")).await.unwrap();
    let seen = Events::failing_first(0);
    let reading = reader.read(seen.clone()).await.unwrap();
    let output = Output {
        operations: &["create"],
        write: &create,
        largest: 5 << 20,
        takes_bytes: true,
        ends_with_close: true,
    };
    output_suite(writer, output, async |data| seen.came(data).await).await;
    reading.close().await;
}

#[tokio::test]
async fn the_binding_carries_messages_both_ways() {
    let server = Server::start().await;
    let settings = [("topic", "jobs/#"), ("consumerID", "b")];
    let input = MqttBinding::connect_input(&server.context(&settings))
        .await
        .unwrap();
    let output = MqttBinding::connect_output(&server.context(&settings))
        .await
        .unwrap();
    let seen = Events::failing_first(0);
    let subscription = input.read(seen.clone()).await.unwrap();
    output
        .invoke(request("create", "hello", [("topic", "jobs/1")]))
        .await
        .unwrap();
    let events = seen.wait(1).await;
    assert_eq!(events[0].data.as_deref(), Some(&b"hello"[..]));
    assert_eq!(events[0].metadata["topic"], "jobs/1");
    subscription.close().await;
    let error = MqttBinding::connect_input(&server.context(&[]))
        .await
        .unwrap_err();
    assert_eq!(error.0, "missing topic");
}
