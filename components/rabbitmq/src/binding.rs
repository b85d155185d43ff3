//! `bindings.rabbitmq`: one queue, through the default exchange.

mod reader;

use std::sync::Arc;
use std::time::Duration;

use amqprs::channel::QueueDeclareArguments;
use amqprs::{BasicProperties, FieldTable, FieldValue};
use async_trait::async_trait;
use outrigger_components_api::bindings::{
    BindingHandler, InputBinding, InvokeError, InvokeRequest, InvokeResponse, Operation, OutputBinding,
};
use outrigger_components_api::metadata::{Decoder, request};
use outrigger_components_api::pubsub::Subscription;
use outrigger_components_api::{ComponentError, InitContext, InitError};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::reader::Reader;
use crate::link::{Declaration, Link, Live, Message, NotPublished};
use crate::settings::{Connection, put, short};

/// Unacknowledged messages at the same time if `prefetchCount` sets no bound.
const UNBOUNDED_PREFETCH: u16 = 1000;
const PUBLISH_TRIES: u32 = 3;
/// How often, and how quickly, an exclusive queue is asked for that somebody else still has.
const LOCKED_TRIES: u32 = 10;
const LOCKED_PAUSE: Duration = Duration::from_millis(200);
/// One direction of the binding.
#[derive(Debug)]
pub struct RabbitBinding {
    link: Arc<Link>,
    queue: Arc<Queue>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

/// How the queue is to be.
#[derive(Debug, Clone)]
struct Queue {
    name: String,
    durable: bool,
    delete_when_unused: bool,
    exclusive: bool,
    prefetch: u16,
    max_priority: Option<u8>,
    ttl: Option<Duration>,
}

impl RabbitBinding {
    /// Connects and declares the queue.
    ///
    /// # Errors
    /// Names the wrong setting, or why the broker cannot be used.
    pub async fn connect(context: &InitContext) -> Result<Self, InitError> {
        let mut decoder = Decoder::new(&context.properties)?;
        let connection = Connection::decode(&mut decoder, Duration::from_secs(5));
        let name = decoder.text(&["queueName"]).unwrap_or_default().to_owned();
        let flag = |name: &str| {
            let given = decoder.boolean(&[name]);
            given.unwrap_or(decoder.default_of(name, false))
        };
        let (durable, delete_when_unused, exclusive) =
            (flag("durable"), flag("deleteWhenUnused"), flag("exclusive"));
        let prefetch = decoder
            .unsigned(&["prefetchCount"], 65_535)
            .unwrap_or(decoder.default_of("prefetchCount", 0));
        let max_priority = decoder
            .unsigned(&["maxPriority"], u64::MAX)
            .filter(|priority| *priority > 0)
            .map(|priority| u8::try_from(priority).unwrap_or(u8::MAX));
        decoder.finish()?;
        if name.is_empty() {
            return Err(InitError::new("rabbitMQ error: missing queueName"));
        }
        short("queueName", &name).map_err(InitError)?;
        let ttl = request::component_ttl(&context.properties)
            .map_err(|error| InitError(format!("failed to parse TTL: {error}")))?;
        let binding = Self {
            link: Arc::new(Link::new(context, connection?)?),
            queue: Arc::new(Queue {
                name,
                durable,
                delete_when_unused,
                exclusive,
                prefetch: u16::try_from(prefetch)
                    .ok()
                    .filter(|count| *count > 0)
                    .unwrap_or(UNBOUNDED_PREFETCH),
                max_priority,
                ttl,
            }),
            shutdown: context.shutdown.clone(),
            tasks: context.tasks.clone(),
        };
        let mut tries = 0;
        loop {
            tries += 1;
            let declared = async { binding.queue.declare(&binding.link.live().await?).await };
            match declared.await {
                Ok(()) => return Ok(binding),
                // The connection of the one before is closed; its queue is gone a moment later.
                Err(error)
                    if binding.queue.exclusive
                        && tries < LOCKED_TRIES
                        && error.contains("RESOURCE_LOCKED") =>
                {
                    tokio::time::sleep(LOCKED_PAUSE).await;
                }
                Err(error) => return Err(InitError(format!("rabbitMQ error: {error}"))),
            }
        }
    }

    async fn publish(&self, message: Message) -> Result<(), NotPublished> {
        let live = self.link.live().await.map_err(NotPublished::Failed)?;
        self.queue.declare(&live).await.map_err(NotPublished::Failed)?;
        let sent = live.publish(message).await;
        if matches!(sent, Err(NotPublished::NoQueue)) {
            // It was deleted, perhaps because it was not used any more.
            live.forget(&self.queue.name);
        }
        sent
    }
}

impl Queue {
    /// Makes sure that it is there; on one connection the broker is asked once.
    async fn declare(&self, live: &Arc<Live>) -> Result<(), String> {
        live.declare(&self.name, || self.declaration()).await
    }

    fn declaration(&self) -> Declaration {
        let mut arguments = FieldTable::new();
        if let Some(ttl) = self.ttl {
            let millis = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
            put(&mut arguments, "x-message-ttl", FieldValue::l(millis));
        }
        if let Some(priority) = self.max_priority {
            put(&mut arguments, "x-max-priority", FieldValue::B(priority));
        }
        let mut declare = QueueDeclareArguments::new(&self.name);
        declare
            .durable(self.durable)
            .auto_delete(self.delete_when_unused)
            .exclusive(self.exclusive)
            .arguments(arguments);
        Declaration::Queue(declare)
    }

    fn message(&self, request: &InvokeRequest) -> Result<Message, String> {
        let text = |name: &str| request::get(&request.metadata, name).filter(|text| !text.is_empty());
        let mut properties = BasicProperties::default();
        let content_type = text("contentType").unwrap_or("text/plain");
        short("contentType", content_type)?;
        properties.with_content_type(content_type).with_delivery_mode(2);
        for name in ["messageID", "correlationID", "type"] {
            let Some(value) = text(name) else { continue };
            short(name, value)?;
            match name {
                "messageID" => properties.with_message_id(value),
                "correlationID" => properties.with_correlation_id(value),
                _ => properties.with_message_type(value),
            };
        }
        let mut headers = FieldTable::new();
        for (name, value) in &request.metadata {
            short("the name of a metadata entry", name)?;
            put(&mut headers, name, FieldValue::from(value.clone()));
        }
        properties.with_headers(headers);
        if let Some(ttl) = request::ttl(&request.metadata).map_err(|error| error.to_string())? {
            properties.with_expiration(&ttl.as_millis().to_string());
        }
        if let Some(priority) = text("priority") {
            let priority: i64 = priority
                .parse()
                .map_err(|_| format!("invalid priority {priority:?}: it must be a number"))?;
            properties.with_priority(u8::try_from(priority.clamp(0, 255)).unwrap_or(u8::MAX));
        }
        Ok(Message {
            exchange: String::new(),
            routing_key: self.name.clone(),
            mandatory: true,
            properties,
            body: request.data.to_vec(),
        })
    }
}

#[async_trait]
impl OutputBinding for RabbitBinding {
    fn operations(&self) -> &[Operation] {
        const OPERATIONS: [Operation; 1] = [Operation::Borrowed("create")];
        &OPERATIONS
    }

    async fn invoke(&self, request: InvokeRequest) -> Result<Option<InvokeResponse>, InvokeError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let message = self.queue.message(&request).map_err(InvokeError::new)?;
            match self.publish(message).await {
                Ok(()) => return Ok(None),
                Err(error) if tries >= PUBLISH_TRIES || self.shutdown.is_cancelled() => {
                    return Err(InvokeError::new(format!("failed to publish message: {error}")));
                }
                Err(NotPublished::NoQueue) => {}
                Err(NotPublished::Failed(_)) => tokio::time::sleep(self.link.pause()).await,
            }
        }
    }

    fn excludes_another(&self) -> bool {
        self.queue.exclusive
    }

    async fn close(&self) {
        self.link.close().await;
    }
}

#[async_trait]
impl InputBinding for RabbitBinding {
    async fn read(&self, handler: Arc<dyn BindingHandler>) -> Result<Subscription, ComponentError> {
        let stop = self.shutdown.child_token();
        let (ready, established) = oneshot::channel();
        let reader = Reader {
            link: self.link.clone(),
            queue: self.queue.clone(),
            handler,
        };
        let stopped = self.tasks.spawn(reader.run(stop.clone(), ready));
        let subscription = Subscription { stop, stopped };
        subscription
            .established(established)
            .await
            .map_err(|error| ComponentError(format!("rabbitMQ error: {error}")))
    }

    fn excludes_another(&self) -> bool {
        self.queue.exclusive
    }

    async fn close(&self) {
        self.link.close().await;
    }
}
