//! `pubsub.rabbitmq`: a topic is an exchange, an app's subscription a queue bound to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use amqprs::BasicProperties;
use amqprs::channel::ExchangeDeclareArguments;
use async_trait::async_trait;
use outrigger_components_api::metadata::request;
use outrigger_components_api::pubsub::{
    MessageHandler, PubSub, PubSubFeature, PublishRequest, SubscribeRequest, Subscription,
};
use outrigger_components_api::{ComponentError, InitContext, InitError};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::consumer::Consumer;
use crate::link::{Declaration, Link, Message};
use crate::settings::{Options, short};

const PUBLISH_TRIES: u32 = 3;

/// A RabbitMQ broker.
#[derive(Debug)]
pub struct RabbitMq {
    options: Arc<Options>,
    publishing: Arc<Link>,
    consuming: Arc<Link>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl RabbitMq {
    /// Reads the settings and tries to connect. A broker that is not there is no error: it may be restarting, and
    /// is tried again with the first call.
    ///
    /// # Errors
    /// Names the wrong setting.
    pub async fn connect(context: &InitContext) -> Result<Self, InitError> {
        let options = Options::decode(context)?;
        let broker = Self {
            publishing: Arc::new(Link::new(context, options.connection.clone())?),
            consuming: Arc::new(Link::new(context, options.connection.clone())?),
            options: Arc::new(options),
            shutdown: context.shutdown.clone(),
            tasks: context.tasks.clone(),
        };
        if let Err(error) = broker.publishing.live().await {
            warn!(component = %context.name, %error, "RabbitMQ is not there yet; it is tried again when needed");
        }
        Ok(broker)
    }

    async fn try_publish(&self, message: Message) -> Result<(), String> {
        let live = self.publishing.live().await?;
        let declaration = || exchange(&self.options, &message.exchange, None);
        live.declare(&message.exchange, declaration).await?;
        live.publish(message).await.map_err(|error| error.to_string())
    }

    fn message(&self, request: &PublishRequest) -> Result<Message, String> {
        let none = BTreeMap::new();
        let metadata = request.metadata.as_ref().unwrap_or(&none);
        let text = |name: &str| request::get(metadata, name).filter(|text| !text.is_empty());
        let mut properties = BasicProperties::default();
        let content_type = text("contentType").unwrap_or("text/plain");
        let routing_key = metadata.get("routingKey").map_or("", String::as_str);
        short("the topic", &request.topic)?;
        short("routingKey", routing_key)?;
        short("contentType", content_type)?;
        properties.with_content_type(content_type);
        for name in ["messageID", "correlationID", "type"] {
            let Some(value) = text(name) else { continue };
            short(name, value)?;
            match name {
                "messageID" => properties.with_message_id(value),
                "correlationID" => properties.with_correlation_id(value),
                _ => properties.with_message_type(value),
            };
        }
        if self.options.delivery_mode > 0 {
            properties.with_delivery_mode(self.options.delivery_mode);
        }
        if let Some(priority) = text("priority").and_then(|text| text.parse::<u64>().ok()) {
            properties.with_priority(u8::try_from(priority).unwrap_or(u8::MAX));
        }
        let ttl = match request::ttl(metadata) {
            Ok(ttl) => ttl.or(self.options.default_ttl),
            Err(error) => {
                warn!(topic = %request.topic, %error, "time to live ignored");
                self.options.default_ttl
            }
        };
        if let Some(ttl) = ttl {
            properties.with_expiration(&ttl.as_millis().to_string());
        }
        Ok(Message {
            exchange: request.topic.clone(),
            routing_key: routing_key.to_owned(),
            mandatory: false,
            properties,
            body: request.data.to_vec(),
        })
    }
}

/// How an exchange is to be.
pub(crate) fn exchange(options: &Options, name: &str, kind: Option<&str>) -> Declaration {
    let mut arguments = ExchangeDeclareArguments::new(name, kind.unwrap_or(&options.exchange_kind));
    arguments
        // That of dead letters always, as Dapr's.
        .durable(options.durable || kind.is_some())
        .auto_delete(options.delete_when_unused);
    Declaration::Exchange(arguments)
}

#[async_trait]
impl PubSub for RabbitMq {
    fn features(&self) -> &[PubSubFeature] {
        &[PubSubFeature::MessageTtl]
    }

    async fn publish(&self, request: PublishRequest) -> Result<(), ComponentError> {
        let failed = |error: String| ComponentError(format!("rabbitmq pub/sub: {error}"));
        let mut tries = 0;
        loop {
            tries += 1;
            let message = self.message(&request).map_err(failed)?;
            match self.try_publish(message).await {
                Ok(()) => return Ok(()),
                Err(error) if tries >= PUBLISH_TRIES || self.shutdown.is_cancelled() => {
                    return Err(failed(format!("publishing to {}: {error}", request.topic)));
                }
                Err(error) => {
                    let wait = self.publishing.pause();
                    warn!(topic = %request.topic, %error, ?wait, "publishing is tried again");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    async fn subscribe(
        &self,
        request: SubscribeRequest,
        handler: Arc<dyn MessageHandler>,
    ) -> Result<Subscription, ComponentError> {
        if self.options.consumer_id.is_empty() {
            return Err(ComponentError::new("consumerID is required for subscriptions"));
        }
        let consumer = Consumer::new(self.options.clone(), self.consuming.clone(), &request, handler)?;
        let stop = self.shutdown.child_token();
        let (ready, established) = oneshot::channel();
        let stopped = self.tasks.spawn(consumer.run(stop.clone(), ready));
        let subscription = Subscription { stop, stopped };
        subscription.established(established).await.map_err(|error| {
            let topic = &request.topic;
            ComponentError(format!(
                "rabbitmq pub/sub: failed to subscribe to {topic}: {error}"
            ))
        })
    }

    async fn ping(&self) -> Result<(), ComponentError> {
        let live = self.publishing.live().await.map_err(ComponentError)?;
        live.channel().await.map_err(ComponentError)?;
        Ok(())
    }

    async fn close(&self) {
        self.publishing.close().await;
        self.consuming.close().await;
    }
}
