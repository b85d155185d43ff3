//! `pubsub.rabbitmq`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use outrigger_components_api::bindings::{BindingEvent, BindingHandler, InputBinding, OutputBinding};
use outrigger_components_api::pubsub::{HandlerError, PubSub, PubSubFeature, SubscribeRequest};
use outrigger_components_api::testing::bindings::{
    Events, Input, Output, create, output_suite, queue_suite, request,
};
use outrigger_components_api::testing::pubsub::{Order, Traits, suite, text, topic};
use outrigger_components_api::testing::{Recorder, soon};
use outrigger_components_rabbitmq::{RabbitBinding, RabbitMq};

use crate::server::Server;

fn traits(prefix: &'static str, order: Order) -> Traits {
    Traits {
        carries_metadata: false,
        ..Traits::all(prefix, order, &[PubSubFeature::MessageTtl])
    }
}

fn with(topic: &str, pairs: &[(&str, &str)]) -> SubscribeRequest {
    SubscribeRequest {
        topic: topic.to_owned(),
        metadata: pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..Default::default()
    }
}

/// One server for all: it takes long to start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_keeps_every_promise() {
    let server = Server::start().await;
    let broker = RabbitMq::connect(&server.context(&[])).await.unwrap();
    suite(Arc::new(broker), traits("free-", Order::Free)).await;
    let single = [("concurrencyMode", "single"), ("prefetchCount", "5")];
    let broker = RabbitMq::connect(&server.context(&single)).await.unwrap();
    suite(Arc::new(broker), traits("kept-", Order::Kept)).await;

    what_failed_goes_where_the_settings_say(&server).await;
    properties_and_lifetimes_are_those_of_the_message(&server).await;
    routing_keys_choose_the_queue(&server).await;
    exchanges_and_queues_look_as_those_of_dapr(&server).await;
    what_cannot_be_is_refused(&server).await;
    prefetch_bounds_the_calls_at_a_time(&server).await;
    the_binding_keeps_every_promise(&server).await;
    the_binding_carries_messages_both_ways(&server).await;
    the_binding_handles_one_message_after_the_other(&server).await;
    a_binding_whose_queue_was_deleted_declares_it_again(&server).await;
}

async fn the_binding_keeps_every_promise(server: &Server) {
    let settings = [("queueName", "suite")];
    let connect = async || Arc::new(RabbitBinding::connect(&server.context(&settings)).await.unwrap());
    let writer = connect().await;
    let input = Input {
        largest: 5 << 20,
        redelivers: true,
        given_up_after: &[0, 1, 2, 5, 10, 20, 50].map(Duration::from_millis),
    };
    queue_suite(connect().await, input, async |data| {
        writer.invoke(create(data)).await.unwrap();
    })
    .await;
    let seen = Events::answering("");
    let reading = connect().await.read(seen.clone()).await.unwrap();
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

async fn the_binding_carries_messages_both_ways(server: &Server) {
    let settings = [("queueName", "jobs"), ("durable", "true"), ("maxPriority", "300")];
    let binding = RabbitBinding::connect(&server.context(&settings)).await.unwrap();
    let mut request = request("create", "hello", [("a b", "c d/ü"), ("priority", "3")]);
    binding.invoke(request.clone()).await.unwrap();
    let seen = Events::failing_first(1);
    let subscription = binding.read(seen.clone()).await.unwrap();
    let events = seen.wait(2).await;
    for event in &events {
        assert_eq!(
            event.data.as_deref(),
            Some(&b"hello"[..]),
            "refused, it comes again"
        );
        assert_eq!(event.metadata["a+b"], "c+d%2F%C3%BC");
    }
    for priority in ["-5", "300"] {
        request.metadata.insert("priority".into(), priority.into());
        binding.invoke(request.clone()).await.unwrap();
    }
    seen.wait(4).await;
    subscription.close().await;
    request.metadata.insert("priority".into(), "high".into());
    let error = binding.invoke(request).await.unwrap_err();
    assert!(error.text.contains("invalid priority"), "{error}");
    let error = RabbitBinding::connect(&server.context(&[])).await.unwrap_err();
    assert!(error.0.contains("queueName"), "{error}");
    // The queue is there with other arguments.
    let error = RabbitBinding::connect(&server.context(&[("queueName", "jobs")]))
        .await
        .unwrap_err();
    assert!(error.0.contains("PRECONDITION_FAILED"), "{error}");
}

/// Takes the longer, the earlier a message comes.
struct Slower(Mutex<Vec<String>>);

#[async_trait]
impl BindingHandler for Slower {
    async fn handle(&self, event: BindingEvent) -> Result<Option<Bytes>, HandlerError> {
        let text = String::from_utf8(event.data.unwrap().to_vec()).unwrap();
        tokio::time::sleep(Duration::from_millis(100 - 10 * text.parse::<u64>().unwrap())).await;
        self.0.lock().unwrap().push(text);
        Ok(None)
    }
}

async fn the_binding_handles_one_message_after_the_other(server: &Server) {
    let settings = [("queueName", "ordered")];
    let binding = RabbitBinding::connect(&server.context(&settings)).await.unwrap();
    let sent: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    for text in &sent {
        binding.invoke(request("create", text, [])).await.unwrap();
    }
    let handler = Arc::new(Slower(Mutex::default()));
    let subscription = binding.read(handler.clone()).await.unwrap();
    soon("all messages", async {
        while handler.0.lock().unwrap().len() < sent.len() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(*handler.0.lock().unwrap(), sent);
    subscription.close().await;
}

async fn a_binding_whose_queue_was_deleted_declares_it_again(server: &Server) {
    let settings = [("queueName", "deleted")];
    let binding = RabbitBinding::connect(&server.context(&settings)).await.unwrap();
    binding.invoke(request("create", "1", [])).await.unwrap();
    let seen = Events::answering("");
    let subscription = binding.read(seen.clone()).await.unwrap();
    seen.wait(1).await;
    // Both ends notice: the writer by the message that comes back, the reader by the broker's word.
    server.control(&["delete_queue", "deleted"]);
    binding.invoke(request("create", "2", [])).await.unwrap();
    let events = seen.wait(2).await;
    assert_eq!(events[1].data.as_deref(), Some(&b"2"[..]));
    subscription.close().await;
}

async fn what_failed_goes_where_the_settings_say(server: &Server) {
    // Dropped.
    let broker = RabbitMq::connect(&server.context(&[])).await.unwrap();
    let seen = Recorder::failing_first(1, HandlerError::Failed("no".into()));
    let subscription = broker.subscribe(topic("dropped"), seen.clone()).await.unwrap();
    broker.publish(text("dropped", "1")).await.unwrap();
    broker.publish(text("dropped", "2")).await.unwrap();
    seen.wait(2).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(seen.texts().len(), 2);
    // Nobody decided: it comes again.
    subscription.close().await;
    let seen = Recorder::failing_first(1, HandlerError::Undelivered("gone".into()));
    let subscription = broker.subscribe(topic("again"), seen.clone()).await.unwrap();
    broker.publish(text("again", "1")).await.unwrap();
    assert_eq!(seen.wait(2).await, ["1", "1"]);
    subscription.close().await;
    // Back to the queue.
    let broker = RabbitMq::connect(&server.context(&[("requeueInFailure", "true")]))
        .await
        .unwrap();
    let seen = Recorder::failing_first(2, HandlerError::Failed("no".into()));
    let subscription = broker.subscribe(topic("requeued"), seen.clone()).await.unwrap();
    broker.publish(text("requeued", "1")).await.unwrap();
    assert_eq!(seen.wait(3).await, ["1", "1", "1"]);
    subscription.close().await;
    // To the dead letter queue, where another app finds it.
    let settings = [("enableDeadLetter", "true"), ("deletedWhenUnused", "false")];
    let broker = RabbitMq::connect(&server.context(&settings)).await.unwrap();
    let seen = Recorder::failing_first(1, HandlerError::Failed("no".into()));
    let subscription = broker.subscribe(topic("dead"), seen.clone()).await.unwrap();
    broker.publish(text("dead", "1")).await.unwrap();
    seen.wait(1).await;
    soon("the dead letter", async {
        while !server
            .control(&["list_queues", "name", "messages"])
            .contains("dlq-app1-dead\t1")
        {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    subscription.close().await;
}

async fn properties_and_lifetimes_are_those_of_the_message(server: &Server) {
    let settings = [
        ("publishMessagePropertiesToMetadata", "true"),
        ("deletedWhenUnused", "false"),
    ];
    let broker = RabbitMq::connect(&server.context(&settings)).await.unwrap();
    // The queue has to be there before what waits in it.
    let first = Recorder::new();
    let subscription = broker.subscribe(topic("props"), first.clone()).await.unwrap();
    subscription.close().await;
    let mut request = text("props", "short");
    request.metadata = Some([("ttlInSeconds".to_owned(), "1".to_owned())].into());
    broker.publish(request.clone()).await.unwrap();
    request.data = "long".into();
    request.metadata = Some(
        [
            ("ttl", "60s"),
            ("MessageID", "m1"),
            ("correlationID", "c1"),
            ("type", "t1"),
            ("contentType", "application/json"),
            ("priority", "7"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into(),
    );
    broker.publish(request).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let seen = Recorder::new();
    let subscription = broker.subscribe(topic("props"), seen.clone()).await.unwrap();
    assert_eq!(seen.wait(1).await, ["long"], "the other one has expired");
    let expected: BTreeMap<String, String> = [
        ("metadata.messageid", "m1"),
        ("metadata.correlationid", "c1"),
        ("metadata.type", "t1"),
        ("metadata.contenttype", "application/json"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    assert_eq!(*seen.messages()[0].metadata(), expected);
    subscription.close().await;
    assert!(first.texts().is_empty());
}

async fn routing_keys_choose_the_queue(server: &Server) {
    let broker = RabbitMq::connect(&server.context(&[("exchangeKind", "topic")]))
        .await
        .unwrap();
    let seen = Recorder::new();
    let request = with("routed", &[("routingKey", "a.*,b.#"), ("queueName", "my-queue")]);
    let subscription = broker.subscribe(request, seen.clone()).await.unwrap();
    for key in ["a.x", "c.x", "b.x.y"] {
        let mut request = text("routed", key);
        request.metadata = Some([("routingKey".to_owned(), key.to_owned())].into());
        broker.publish(request).await.unwrap();
    }
    let mut got = seen.wait(2).await;
    got.sort();
    assert_eq!(got, ["a.x", "b.x.y"]);
    assert!(server.control(&["list_queues", "name"]).contains("my-queue"));
    subscription.close().await;
}

async fn exchanges_and_queues_look_as_those_of_dapr(server: &Server) {
    let settings = [
        ("maxLen", "10"),
        ("maxLenBytes", "1000"),
        ("enableDeadLetter", "true"),
    ];
    let broker = RabbitMq::connect(&server.context(&settings)).await.unwrap();
    let request = with(
        "look",
        &[
            ("queueType", "classic"),
            ("maxPriority", "300"),
            ("singleActiveConsumer", "true"),
        ],
    );
    let subscription = broker.subscribe(request, Recorder::new()).await.unwrap();
    let exchanges = server.control(&["list_exchanges", "name", "type", "durable", "auto_delete"]);
    assert!(exchanges.contains("look\tfanout\ttrue\ttrue"), "{exchanges}");
    assert!(
        exchanges.contains("dlx-app1-look\tfanout\ttrue\ttrue"),
        "{exchanges}"
    );
    let queues = server.control(&["list_queues", "name", "durable", "auto_delete", "arguments"]);
    let line = |name: &str| {
        let found = queues.lines().find(|line| line.starts_with(name));
        found.unwrap_or_else(|| panic!("{name} in {queues}")).to_owned()
    };
    let own = line("app1-look");
    for part in [
        "x-dead-letter-exchange\",\"dlx-app1-look",
        "x-max-length\",10",
        "x-max-length-bytes\",1000",
        "x-max-priority\",255",
        "x-queue-type\",\"classic",
        "x-single-active-consumer\",true",
    ] {
        assert!(own.contains(part), "{part} in {own}");
    }
    assert!(
        line("dlq-app1-look").contains("x-queue-mode\",\"lazy"),
        "{queues}"
    );
    subscription.close().await;
}

async fn what_cannot_be_is_refused(server: &Server) {
    let broker = RabbitMq::connect(&server.context(&[])).await.unwrap();
    let long = "x".repeat(300);
    let error = broker.publish(text(&long, "1")).await.unwrap_err();
    assert!(error.0.contains("the topic is longer than 255 bytes"), "{error}");
    let error = broker.subscribe(topic(&long), Recorder::new()).await.unwrap_err();
    assert!(error.0.contains("longer than 255 bytes"), "{error}");
    let error = broker
        .subscribe(with("t", &[("queueType", "odd")]), Recorder::new())
        .await
        .unwrap_err();
    assert!(error.0.contains("invalid queueType odd"), "{error}");
    // The exchange is there with another kind.
    let keeps = broker.subscribe(topic("kind"), Recorder::new()).await.unwrap();
    let other = RabbitMq::connect(&server.context(&[("exchangeKind", "direct")]))
        .await
        .unwrap();
    let refused = other.subscribe(topic("kind"), Recorder::new()).await;
    assert!(refused.is_err());
    keeps.close().await;
    broker.close().await;
    let error = broker.publish(text("t", "1")).await.unwrap_err();
    assert!(error.0.contains("component is closed"), "{error}");
}

async fn prefetch_bounds_the_calls_at_a_time(server: &Server) {
    let broker = RabbitMq::connect(&server.context(&[("prefetchCount", "3")]))
        .await
        .unwrap();
    let seen = Recorder::blocked();
    let subscription = broker.subscribe(topic("bound"), seen.clone()).await.unwrap();
    for n in 0..10 {
        broker.publish(text("bound", &n.to_string())).await.unwrap();
    }
    seen.wait(3).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(seen.most_at_once(), 3);
    seen.release();
    seen.wait(10).await;
    subscription.close().await;
}
