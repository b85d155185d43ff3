//! `bindings.kafka`: records in and out.

use std::sync::Arc;

use async_trait::async_trait;
use outrigger_components_api::bindings::{
    BindingEvent, BindingHandler, InputBinding, InvokeError, InvokeRequest, InvokeResponse, Operation,
    OutputBinding,
};
use outrigger_components_api::metadata::Decoder;
use outrigger_components_api::pubsub::{
    HandlerError, MessageHandler, NewMessage, PubSub, PublishRequest, SubscribeRequest, Subscription,
};
use outrigger_components_api::{ComponentError, InitContext, InitError};
use tokio_util::sync::CancellationToken;

use crate::pubsub::Kafka;

/// Both directions of the binding; each is an instance of its own.
#[derive(Debug)]
pub struct KafkaBinding {
    kafka: Kafka,
    topics: Vec<String>,
    publish_topic: String,
    shutdown: CancellationToken,
    tasks: tokio_util::task::TaskTracker,
}

impl KafkaBinding {
    /// Connects. Settings: those of `pubsub.kafka`, `topics`, `publishTopic`; failed records are not tried again
    /// unless `consumeRetryEnabled` says so.
    ///
    /// # Errors
    /// Names the wrong setting, or why the brokers cannot be used.
    pub async fn connect(context: &InitContext) -> Result<Self, InitError> {
        let decoder = Decoder::new(&context.properties)?;
        let topics = decoder.text(&["topics"]).filter(|text| !text.is_empty());
        let topics = topics.map(|text| text.split(',').map(str::to_owned).collect());
        let publish_topic = decoder.text(&["publishTopic"]).unwrap_or_default().to_owned();
        Ok(Self {
            kafka: Kafka::connect_with(context, false).await?,
            topics: topics.unwrap_or_default(),
            publish_topic,
            shutdown: context.shutdown.clone(),
            tasks: context.tasks.clone(),
        })
    }
}

#[async_trait]
impl OutputBinding for KafkaBinding {
    fn operations(&self) -> &[Operation] {
        const OPERATIONS: [Operation; 1] = [Operation::Borrowed("create")];
        &OPERATIONS
    }

    async fn invoke(&self, request: InvokeRequest) -> Result<Option<InvokeResponse>, InvokeError> {
        if self.publish_topic.is_empty() {
            return Err(InvokeError::new("kafka error: missing 'publishTopic' attribute"));
        }
        self.kafka
            .publish(PublishRequest {
                topic: self.publish_topic.clone(),
                data: request.data,
                metadata: Some(request.metadata),
                content_type: None,
            })
            .await?;
        Ok(None)
    }

    async fn close(&self) {
        PubSub::close(&self.kafka).await;
    }
}

#[async_trait]
impl InputBinding for KafkaBinding {
    async fn read(&self, handler: Arc<dyn BindingHandler>) -> Result<Subscription, ComponentError> {
        let mut parts = Vec::new();
        // Who gives up waiting does not want to read either.
        let mut unwanted = Vec::new();
        for topic in &self.topics {
            let request = SubscribeRequest {
                topic: topic.clone(),
                ..Default::default()
            };
            let part = self
                .kafka
                .subscribe(request, Arc::new(Adapter(handler.clone())))
                .await;
            match part {
                Ok(part) => {
                    unwanted.push(part.stop.clone().drop_guard());
                    parts.push(part);
                }
                Err(error) => {
                    for part in parts {
                        part.close().await;
                    }
                    return Err(error);
                }
            }
        }
        for guard in unwanted {
            guard.disarm();
        }
        let stop = self.shutdown.child_token();
        let ended = stop.clone();
        let stopped = self.tasks.spawn(async move {
            ended.cancelled().await;
            for part in &parts {
                part.stop.cancel();
            }
            for part in parts {
                part.close().await;
            }
        });
        Ok(Subscription { stop, stopped })
    }

    async fn close(&self) {
        PubSub::close(&self.kafka).await;
    }
}

/// A record as a binding's event.
struct Adapter(Arc<dyn BindingHandler>);

#[async_trait]
impl MessageHandler for Adapter {
    async fn handle(&self, message: NewMessage) -> Result<(), HandlerError> {
        let event = BindingEvent {
            data: Some(message.data),
            metadata: message.metadata.unwrap_or_default(),
        };
        self.0.handle(event).await.map(|_| ())
    }
}
