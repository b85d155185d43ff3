//! `bindings.mqtt3`: messages in and out, one topic each.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outrigger_components_api::bindings::{
    BindingEvent, BindingHandler, InputBinding, InvokeError, InvokeRequest, InvokeResponse, Operation,
    OutputBinding,
};
use outrigger_components_api::metadata::Decoder;
use outrigger_components_api::pubsub::{
    HandlerError, MessageHandler, NewMessage, PubSub, PublishRequest, SubscribeRequest, Subscription,
};
use outrigger_components_api::{ComponentError, InitContext, InitError, RequestMetadata};

use crate::pubsub::Mqtt;

/// A binding's messages have this one, whatever `qos` says.
const QOS: u8 = 1;
const PUBLISH_TRIES: u32 = 4;
const PUBLISH_PAUSE: Duration = Duration::from_millis(200);
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// One direction of the binding; each has a connection of its own.
#[derive(Debug)]
pub struct MqttBinding {
    mqtt: Mqtt,
    topic: String,
    /// Tries after the first for a message the app has refused; `None` = until it takes it.
    retries: Option<u32>,
}

impl MqttBinding {
    /// Connects for reading, as client `<consumerID>-consumer`.
    ///
    /// # Errors
    /// Names the wrong setting, or why the broker cannot be used.
    pub async fn connect_input(context: &InitContext) -> Result<Self, InitError> {
        Self::connect(context, "consumer").await
    }

    /// Connects for writing, as client `<consumerID>-producer`.
    ///
    /// # Errors
    /// Names the wrong setting, or why the broker cannot be used.
    pub async fn connect_output(context: &InitContext) -> Result<Self, InitError> {
        Self::connect(context, "producer").await
    }

    async fn connect(context: &InitContext, role: &str) -> Result<Self, InitError> {
        let mut decoder = Decoder::new(&context.properties)?;
        let need = |name: &str| {
            let given = decoder.text(&[name]).filter(|text| !text.is_empty());
            given
                .map(str::to_owned)
                .ok_or_else(|| InitError(format!("missing {name}")))
        };
        let (topic, consumer_id) = (need("topic")?, need("consumerID")?);
        let retries = decoder
            .integer(&["backOffMaxRetries"])
            .unwrap_or(decoder.default_of("backOffMaxRetries", 0));
        decoder.finish()?;
        let mut own = context.clone();
        let pairs = context
            .properties
            .iter()
            .filter(|(name, _)| !["consumerid", "qos"].contains(&name.to_lowercase().as_str()))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .chain([("consumerID".to_owned(), format!("{consumer_id}-{role}"))]);
        own.properties = context.properties.replaced(pairs);
        Ok(Self {
            mqtt: Mqtt::connect_with(&own, Some(QOS)).await?,
            topic,
            retries: u32::try_from(retries).ok(),
        })
    }
}

#[async_trait]
impl OutputBinding for MqttBinding {
    fn operations(&self) -> &[Operation] {
        const OPERATIONS: [Operation; 1] = [Operation::Borrowed("create")];
        &OPERATIONS
    }

    async fn invoke(&self, request: InvokeRequest) -> Result<Option<InvokeResponse>, InvokeError> {
        let topic = request
            .metadata
            .get("topic")
            .filter(|topic| !topic.is_empty())
            .unwrap_or(&self.topic);
        let publish = PublishRequest {
            topic: topic.clone(),
            data: request.data,
            ..Default::default()
        };
        let mut tries = 0;
        loop {
            tries += 1;
            match self.mqtt.publish(publish.clone()).await {
                Ok(()) => return Ok(None),
                Err(error) if tries >= PUBLISH_TRIES => return Err(error.into()),
                Err(_) => tokio::time::sleep(PUBLISH_PAUSE).await,
            }
        }
    }

    fn excludes_another(&self) -> bool {
        self.mqtt.excludes_another()
    }

    async fn close(&self) {
        PubSub::close(&self.mqtt).await;
    }
}

#[async_trait]
impl InputBinding for MqttBinding {
    async fn read(&self, handler: Arc<dyn BindingHandler>) -> Result<Subscription, ComponentError> {
        let request = SubscribeRequest {
            topic: self.topic.clone(),
            ..Default::default()
        };
        let adapter = Adapter {
            handler,
            retries: self.retries,
        };
        self.mqtt.subscribe(request, Arc::new(adapter)).await
    }

    fn excludes_another(&self) -> bool {
        self.mqtt.excludes_another()
    }

    async fn close(&self) {
        PubSub::close(&self.mqtt).await;
    }
}

/// A message as a binding's event, tried again as the settings say.
struct Adapter {
    handler: Arc<dyn BindingHandler>,
    retries: Option<u32>,
}

#[async_trait]
impl MessageHandler for Adapter {
    async fn handle(&self, message: NewMessage) -> Result<(), HandlerError> {
        let mut tries = 0;
        loop {
            let event = BindingEvent {
                data: Some(message.data.clone()),
                metadata: RequestMetadata::from([("topic".to_owned(), message.topic.clone())]),
            };
            match self.handler.handle(event).await {
                Ok(_) => return Ok(()),
                Err(HandlerError::Failed(_)) if self.retries.is_none_or(|most| tries < most) => {
                    tries += 1;
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}
