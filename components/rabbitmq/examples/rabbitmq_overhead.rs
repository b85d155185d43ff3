//! What `pubsub.rabbitmq` costs over `amqprs`: `cargo xtask bench-components`.

// A failure ends the measurement.
#![allow(clippy::unwrap_used)]

#[path = "../tests/it/server.rs"]
#[allow(dead_code, reason = "shared with the tests, which use more of it")]
mod server;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use amqprs::callbacks::{ChannelCallback, DefaultConnectionCallback};
use amqprs::channel::{BasicPublishArguments, Channel, ConfirmSelectArguments, ExchangeDeclareArguments};
use amqprs::connection::{Connection, OpenConnectionArguments};
use amqprs::error::Error;
use amqprs::{Ack, BasicProperties, Cancel, CloseChannel, Nack, Return};
use async_trait::async_trait;
use outrigger_components_api::pubsub::PubSub as _;
use outrigger_components_api::testing::overhead::compare;
use outrigger_components_api::testing::pubsub::text;
use outrigger_components_rabbitmq::RabbitMq;
use tokio::sync::oneshot;

type Waiting = Arc<Mutex<BTreeMap<u64, oneshot::Sender<()>>>>;

/// Confirmations in the way that the library's documentation has in mind.
struct Confirmed(Waiting);

#[async_trait]
impl ChannelCallback for Confirmed {
    async fn close(&mut self, _: &Channel, _: CloseChannel) -> Result<(), Error> {
        Ok(())
    }
    async fn cancel(&mut self, _: &Channel, _: Cancel) -> Result<(), Error> {
        Ok(())
    }
    async fn flow(&mut self, _: &Channel, _: bool) -> Result<bool, Error> {
        Ok(true)
    }
    async fn publish_ack(&mut self, _: &Channel, ack: Ack) {
        let mut waiting = self.0.lock().unwrap();
        let from = if ack.mutiple() { 0 } else { ack.delivery_tag() };
        let tags: Vec<u64> = waiting
            .range(from..=ack.delivery_tag())
            .map(|(tag, _)| *tag)
            .collect();
        for tag in tags {
            let _ = waiting.remove(&tag).unwrap().send(());
        }
    }
    async fn publish_nack(&mut self, _: &Channel, _: Nack) {}
    async fn publish_return(&mut self, _: &Channel, _: Return, _: BasicProperties, _: Vec<u8>) {}
}

/// A channel that publishes with confirmations.
struct Plain {
    _connection: Connection,
    channel: tokio::sync::Mutex<(Channel, u64)>,
    waiting: Waiting,
}

impl Plain {
    async fn connect(server: &server::Server) -> Self {
        let port = server.url().rsplit_once(':').unwrap().1.parse().unwrap();
        let arguments = OpenConnectionArguments::new("127.0.0.1", port, "guest", "guest");
        let connection = Connection::open(&arguments).await.unwrap();
        connection
            .register_callback(DefaultConnectionCallback)
            .await
            .unwrap();
        let channel = connection.open_channel(None).await.unwrap();
        let waiting = Waiting::default();
        channel
            .register_callback(Confirmed(waiting.clone()))
            .await
            .unwrap();
        channel
            .confirm_select(ConfirmSelectArguments::default())
            .await
            .unwrap();
        channel
            .exchange_declare(ExchangeDeclareArguments::new("plain", "fanout"))
            .await
            .unwrap();
        Self {
            _connection: connection,
            channel: tokio::sync::Mutex::new((channel, 0)),
            waiting,
        }
    }

    async fn publish(&self, data: &str) {
        let (confirm, confirmed) = oneshot::channel();
        {
            let mut channel = self.channel.lock().await;
            channel.1 += 1;
            self.waiting.lock().unwrap().insert(channel.1, confirm);
            let mut properties = BasicProperties::default();
            properties.with_content_type("text/plain");
            let arguments = BasicPublishArguments::new("plain", "");
            channel
                .0
                .basic_publish(properties, data.as_bytes().to_vec(), arguments)
                .await
                .unwrap();
        }
        confirmed.await.unwrap();
    }
}

#[tokio::main(worker_threads = 1)]
async fn main() {
    let server = server::Server::start().await;
    let broker = Arc::new(RabbitMq::connect(&server.context(&[])).await.unwrap());
    let plain = Arc::new(Plain::connect(&server).await);
    let value = "x".repeat(1024);
    let data = value.clone();
    let theirs = move |_| {
        let (plain, data) = (plain.clone(), data.clone());
        async move { plain.publish(&data).await }
    };
    let ours = move |_| {
        let (broker, value) = (broker.clone(), value.clone());
        async move {
            broker.publish(text("ours", &value)).await.unwrap();
        }
    };
    compare("pubsub.rabbitmq, publish", theirs, ours).await;
}
