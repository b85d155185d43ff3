//! What `pubsub.kafka` costs over `krafka`: `cargo xtask bench-components`.

// A failure ends the measurement.
#![allow(clippy::unwrap_used)]

#[path = "../tests/it/server.rs"]
#[allow(dead_code, reason = "shared with the tests, which use more of it")]
mod server;

use std::sync::Arc;
use std::time::Duration;

use krafka::Record;
use krafka::producer::Acks;
use outrigger_components_api::pubsub::PubSub as _;
use outrigger_components_api::testing::overhead::compare;
use outrigger_components_api::testing::pubsub::text;
use outrigger_components_kafka::Kafka;

#[tokio::main(worker_threads = 1)]
async fn main() {
    let server = server::Server::start().await;
    let broker = Arc::new(Kafka::connect(&server.context(&[])).await.unwrap());
    let kafka = krafka::Kafka::builder(server.address())
        .allow_auto_create_topics(true)
        .connect()
        .await
        .unwrap();
    let producer = kafka
        .producer()
        .acks(Acks::All)
        .idempotent(true)
        .linger(Duration::ZERO)
        .build()
        .await
        .unwrap();
    let producer = Arc::new(producer);
    let value = "x".repeat(1024);
    let data = value.clone();
    let plain = move |_| {
        let (producer, data) = (producer.clone(), data.clone());
        async move {
            let _ = producer.send(Record::new("plain", data)).await.unwrap();
        }
    };
    let ours = move |_| {
        let (broker, value) = (broker.clone(), value.clone());
        async move {
            broker.publish(text("ours", &value)).await.unwrap();
        }
    };
    compare("pubsub.kafka, publish", plain, ours).await;
}
