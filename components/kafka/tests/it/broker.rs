//! `pubsub.kafka`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use outrigger_components_api::bindings::{InputBinding, OutputBinding};
use outrigger_components_api::pubsub::{
    BulkEntry, BulkPublishRequest, HandlerError, PubSub, PubSubFeature, SubscribeRequest,
};
use outrigger_components_api::testing::Recorder;
use outrigger_components_api::testing::bindings::{
    Events, Input, Output, create, output_suite, queue_suite, request,
};
use outrigger_components_api::testing::pubsub::{Order, Traits, suite, text, topic};
use outrigger_components_kafka::{Kafka, KafkaBinding};

use crate::server::Server;

/// One server for all: it takes long to start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_keeps_every_promise() {
    let server = Server::start().await;
    let large = [("maxMessageBytes", "3000000")];
    let broker = Kafka::connect(&server.context(&large)).await.unwrap();
    let traits = Traits {
        topics: &["plain", "a.b-c_d", "UPPER"],
        // The broker takes no more.
        largest: 900_000,
        ..Traits::all("topic-", Order::Free, &[PubSubFeature::BulkPublish])
    };
    suite(Arc::new(broker), traits).await;

    keys_keep_their_order_and_tell_where_they_are(&server).await;
    bulk_publishing_reports_every_entry(&server).await;
    what_failed_is_tried_again_in_its_place(&server).await;
    a_batch_is_in_hand_at_once(&server).await;
    a_partition_goes_on_after_the_handler_was_closed(&server).await;
    what_was_not_handled_comes_to_the_next_member(&server).await;
    members_of_a_group_share_the_partitions(&server).await;
    headers_are_escaped_and_excluded_as_the_settings_say(&server).await;
    every_compression_is_read(&server).await;
    passwords_are_checked(&server).await;
    a_slow_app_bounds_what_is_read(&server).await;
    the_binding_carries_records_both_ways(&server).await;
    the_binding_keeps_every_promise(&server).await;
}

async fn the_binding_keeps_every_promise(server: &Server) {
    let settings = [
        ("topics", "suite"),
        ("publishTopic", "suite"),
        ("initialOffset", "oldest"),
        ("consumeRetryEnabled", "true"),
        ("backOffDuration", "100ms"),
        ("maxMessageBytes", "3000000"),
    ];
    let connect = async || Arc::new(KafkaBinding::connect(&server.context(&settings)).await.unwrap());
    let writer = connect().await;
    let input = Input {
        // The broker takes no more.
        largest: 900_000,
        redelivers: true,
        given_up_after: &[20, 1000].map(Duration::from_millis),
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
        largest: 900_000,
        takes_bytes: true,
        ends_with_close: true,
    };
    output_suite(writer, output, async |data| seen.came(data).await).await;
    reading.close().await;
}

async fn the_binding_carries_records_both_ways(server: &Server) {
    let settings = [
        ("topics", "in1,in2"),
        ("publishTopic", "in2"),
        ("initialOffset", "oldest"),
    ];
    let binding = KafkaBinding::connect(&server.context(&settings)).await.unwrap();
    let seen = Events::failing_first(0);
    let subscription = binding.read(seen.clone()).await.unwrap();
    binding
        .invoke(request("create", "hello", [("partitionKey", "k")]))
        .await
        .unwrap();
    let events = seen.wait(1).await;
    assert_eq!(events[0].data.as_deref(), Some(&b"hello"[..]));
    assert_eq!(events[0].metadata["__key"], "k");
    assert_eq!(events[0].metadata["__topic"], "in2");
    subscription.close().await;
    let binding = KafkaBinding::connect(&server.context(&[])).await.unwrap();
    let error = binding.invoke(request("create", "x", [])).await.unwrap_err();
    assert!(error.text.contains("publishTopic"), "{error}");
}

async fn keys_keep_their_order_and_tell_where_they_are(server: &Server) {
    let broker = Kafka::connect(&server.context(&[])).await.unwrap();
    let seen = Recorder::new();
    let subscription = broker.subscribe(topic("keys"), seen.clone()).await.unwrap();
    for n in 0..60 {
        let mut request = text("keys", &n.to_string());
        request.metadata = Some([("partitionKey".to_owned(), format!("key{}", n % 5))].into());
        broker.publish(request).await.unwrap();
    }
    seen.wait(60).await;
    let mut by_key: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    let mut partition_of: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for message in seen.messages() {
        let metadata = message.metadata();
        let key = metadata["__key"].clone();
        assert_eq!(metadata["__topic"], "keys");
        assert_eq!(metadata["partitionKey"], key, "all metadata travels as headers");
        metadata["__offset"].parse::<u64>().unwrap();
        assert_eq!(metadata["__timestamp"].len(), 13);
        partition_of
            .entry(key.clone())
            .or_default()
            .insert(metadata["__partition"].clone());
        let number = String::from_utf8_lossy(&message.data).parse().unwrap();
        by_key.entry(key).or_default().push(number);
    }
    for (key, numbers) in by_key {
        assert!(numbers.is_sorted(), "{key}: {numbers:?}");
        assert_eq!(partition_of[&key].len(), 1);
    }
    // A partition by its number.
    let mut request = text("keys", "here");
    request.metadata = Some([("partitionNumber".to_owned(), "2".to_owned())].into());
    broker.publish(request).await.unwrap();
    seen.wait(61).await;
    assert_eq!(seen.messages()[60].metadata()["__partition"], "2");
    let mut request = text("keys", "nowhere");
    request.metadata = Some([("partitionNumber".to_owned(), "x".to_owned())].into());
    let error = broker.publish(request).await.unwrap_err();
    assert!(error.0.contains("partitionNumber"), "{error}");
    subscription.close().await;
}

async fn bulk_publishing_reports_every_entry(server: &Server) {
    let broker = Kafka::connect(&server.context(&[])).await.unwrap();
    let seen = Recorder::new();
    let subscription = broker.subscribe(topic("bulk"), seen.clone()).await.unwrap();
    let entry = |id: &str, metadata: Option<(&str, &str)>| BulkEntry {
        entry_id: id.to_owned(),
        data: id.to_owned().into(),
        content_type: "text/plain".to_owned(),
        metadata: metadata.map(|(key, value)| [(key.to_owned(), value.to_owned())].into()),
    };
    let request = BulkPublishRequest {
        topic: "bulk".to_owned(),
        entries: vec![
            entry("a", None),
            entry("b", Some(("own", "1"))),
            entry("c", Some(("partitionNumber", "99"))),
        ],
        metadata: [("shared".to_owned(), "x".to_owned())].into(),
    };
    let failed = broker.bulk_publish(request).await.unwrap_err();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].entry_id, "c");
    seen.wait(2).await;
    for message in seen.messages() {
        assert_eq!(message.metadata()["shared"], "x");
        let own = message.metadata().get("own").map(String::as_str);
        assert_eq!(own, (message.data == "b").then_some("1"));
    }
    subscription.close().await;
}

async fn what_failed_is_tried_again_in_its_place(server: &Server) {
    let broker = Kafka::connect(&server.context(&[("backOffDuration", "100ms")]))
        .await
        .unwrap();
    let seen = Recorder::failing_first(2, HandlerError::Failed("no".into()));
    let subscription = broker.subscribe(topic("retry"), seen.clone()).await.unwrap();
    for data in ["1", "2"] {
        let mut request = text("retry", data);
        request.metadata = Some([("partitionNumber".to_owned(), "0".to_owned())].into());
        broker.publish(request).await.unwrap();
    }
    assert_eq!(seen.wait(4).await, ["1", "1", "1", "2"]);
    subscription.close().await;
    // Without retries it is skipped.
    let broker = Kafka::connect(&server.context(&[("consumeRetryEnabled", "false")]))
        .await
        .unwrap();
    let seen = Recorder::failing_first(1, HandlerError::Failed("no".into()));
    let subscription = broker.subscribe(topic("retry"), seen.clone()).await.unwrap();
    for data in ["3", "4"] {
        let mut request = text("retry", data);
        request.metadata = Some([("partitionNumber".to_owned(), "0".to_owned())].into());
        broker.publish(request).await.unwrap();
    }
    assert_eq!(seen.wait(2).await, ["3", "4"]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(seen.texts().len(), 2);
    subscription.close().await;
}

async fn what_was_not_handled_comes_to_the_next_member(server: &Server) {
    let broker = Kafka::connect(&server.context(&[])).await.unwrap();
    let seen = Recorder::failing_first(100, HandlerError::Undelivered("gone".into()));
    let subscription = broker.subscribe(topic("left"), seen.clone()).await.unwrap();
    for n in 0..5 {
        broker.publish(text("left", &n.to_string())).await.unwrap();
    }
    seen.wait(1).await;
    subscription.close().await;
    let next = Recorder::new();
    let subscription = broker.subscribe(topic("left"), next.clone()).await.unwrap();
    let mut got = next.wait(5).await;
    got.sort();
    assert_eq!(got, ["0", "1", "2", "3", "4"]);
    subscription.close().await;
    // Handled and committed: nothing comes again.
    let last = Recorder::new();
    let subscription = broker.subscribe(topic("left"), last.clone()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(last.texts().is_empty());
    subscription.close().await;
}

/// As for batches: so many at once, marked in their order whatever the order in which they end.
async fn a_batch_is_in_hand_at_once(server: &Server) {
    let broker = Kafka::connect(&server.context(&[])).await.unwrap();
    assert_eq!(broker.batch_defaults().max_messages, 80);
    let request = SubscribeRequest {
        batch: 4,
        ..topic("batch")
    };
    let seen = Recorder::blocked();
    let subscription = broker.subscribe(request.clone(), seen.clone()).await.unwrap();
    let publish = async |n: usize| {
        let mut request = text("batch", &n.to_string());
        request.metadata = Some([("partitionNumber".to_owned(), "0".to_owned())].into());
        broker.publish(request).await.unwrap();
    };
    for n in 0..6 {
        publish(n).await;
    }
    assert_eq!(seen.wait(4).await, ["0", "1", "2", "3"]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(seen.running(), 4);
    seen.release();
    assert_eq!(seen.wait(6).await[4..], ["4", "5"]);
    subscription.close().await;
    // The first of them is not handled, so all of them come again.
    let seen = Recorder::failing_first(1, HandlerError::Undelivered("gone".into()));
    let subscription = broker.subscribe(request.clone(), seen.clone()).await.unwrap();
    for n in 6..9 {
        publish(n).await;
    }
    assert_eq!(seen.wait(3).await, ["6", "7", "8"]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    subscription.close().await;
    let next = Recorder::new();
    let subscription = broker.subscribe(request, next.clone()).await.unwrap();
    assert_eq!(next.wait(3).await, ["6", "7", "8"]);
    subscription.close().await;
}

/// The app turns unwell and well again before the subscription is told of either.
async fn a_partition_goes_on_after_the_handler_was_closed(server: &Server) {
    let broker = Kafka::connect(&server.context(&[("backOffDuration", "100ms")]))
        .await
        .unwrap();
    let seen = Recorder::failing_first(2, HandlerError::Closed);
    let subscription = broker.subscribe(topic("flapping"), seen.clone()).await.unwrap();
    for data in ["1", "2"] {
        let mut request = text("flapping", data);
        request.metadata = Some([("partitionNumber".to_owned(), "0".to_owned())].into());
        broker.publish(request).await.unwrap();
    }
    assert_eq!(seen.wait(4).await, ["1", "1", "1", "2"]);
    subscription.close().await;
}

async fn members_of_a_group_share_the_partitions(server: &Server) {
    let one = Kafka::connect(&server.context(&[("initialOffset", "oldest")]))
        .await
        .unwrap();
    let two = Kafka::connect(&server.context(&[("initialOffset", "oldest")]))
        .await
        .unwrap();
    let seen = [Recorder::new(), Recorder::new()];
    let first = one.subscribe(topic("shared"), seen[0].clone()).await.unwrap();
    let second = two.subscribe(topic("shared"), seen[1].clone()).await.unwrap();
    for n in 0..30 {
        let mut request = text("shared", &n.to_string());
        request.metadata = Some([("partitionNumber".to_owned(), (n % 3).to_string())].into());
        one.publish(request).await.unwrap();
    }
    let all = async {
        loop {
            let got: BTreeSet<String> = seen.iter().flat_map(|seen| seen.texts()).collect();
            if got.len() == 30 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.unwrap();
    assert!(!seen[0].texts().is_empty() && !seen[1].texts().is_empty());
    // One leaves: the other takes over.
    first.close().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = seen[1].texts().len();
    for n in 30..33 {
        let mut request = text("shared", &n.to_string());
        request.metadata = Some([("partitionNumber".to_owned(), (n % 3).to_string())].into());
        one.publish(request).await.unwrap();
    }
    seen[1].wait(before + 3).await;
    second.close().await;
    // Another group reads from the beginning.
    let other = Kafka::connect(&server.context(&[("initialOffset", "oldest"), ("consumerGroup", "g2")]))
        .await
        .unwrap();
    let all = Recorder::new();
    let subscription = other.subscribe(topic("shared"), all.clone()).await.unwrap();
    all.wait(33).await;
    subscription.close().await;
}

async fn headers_are_escaped_and_excluded_as_the_settings_say(server: &Server) {
    let settings = [("escapeHeaders", "true"), ("excludeHeaderMetaRegex", "^secret")];
    let broker = Kafka::connect(&server.context(&settings)).await.unwrap();
    let seen = Recorder::new();
    let subscription = broker.subscribe(topic("headers"), seen.clone()).await.unwrap();
    let mut request = text("headers", "1");
    request.metadata = Some(
        [("a", "b c/d"), ("secretToken", "x"), ("__key", "k 1")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    );
    broker.publish(request.clone()).await.unwrap();
    seen.wait(1).await;
    let message = &seen.messages()[0];
    assert_eq!(message.metadata()["a"], "b+c%2Fd");
    assert_eq!(message.metadata().get("secretToken"), None);
    // From those who send it as well.
    let other = Kafka::connect(&server.context(&[])).await.unwrap();
    other.publish(request).await.unwrap();
    seen.wait(2).await;
    assert_eq!(seen.messages()[1].metadata()["a"], "b+c%2Fd");
    assert_eq!(seen.messages()[1].metadata().get("secretToken"), None);
    subscription.close().await;
}

async fn every_compression_is_read(server: &Server) {
    for compression in ["gzip", "snappy", "lz4"] {
        let settings = [("compression", compression), ("producerRequiredAcks", "local")];
        let broker = Kafka::connect(&server.context(&settings)).await.unwrap();
        let seen = Recorder::new();
        let subscription = broker.subscribe(topic(compression), seen.clone()).await.unwrap();
        broker
            .publish(text(compression, &"x".repeat(10_000)))
            .await
            .unwrap();
        assert_eq!(seen.wait(1).await[0].len(), 10_000);
        subscription.close().await;
    }
}

async fn passwords_are_checked(server: &Server) {
    let settings = |password: &'static str| {
        let address = server.sasl_address();
        let mut context = server.context(&[
            ("authType", "password"),
            ("saslUsername", "dapr"),
            ("saslPassword", password),
            ("disableTls", "true"),
            ("dialTimeout", "3s"),
        ]);
        context.properties = context
            .properties
            .iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .chain([("brokers".to_owned(), address)])
            .collect();
        context
    };
    let broker = Kafka::connect(&settings("secret")).await.unwrap();
    broker.publish(text("sasl", "1")).await.unwrap();
    let error = Kafka::connect(&settings("wrong")).await.unwrap_err();
    assert!(error.0.contains("kafka error: connecting to"), "{error}");
    assert!(!error.0.contains("wrong"), "{error}");
}

async fn a_slow_app_bounds_what_is_read(server: &Server) {
    let settings = [("channelBufferSize", "10"), ("initialOffset", "oldest")];
    let broker = Kafka::connect(&server.context(&settings)).await.unwrap();
    let seen = Recorder::blocked();
    for n in 0..500 {
        let mut request = text("slow", &n.to_string());
        request.metadata = Some([("partitionNumber".to_owned(), "0".to_owned())].into());
        broker.publish(request).await.unwrap();
    }
    let subscription = broker.subscribe(topic("slow"), seen.clone()).await.unwrap();
    seen.wait(1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    seen.release();
    let got = seen.wait(500).await;
    assert_eq!(got, (0..500).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(seen.most_at_once(), 1);
    subscription.close().await;
}
