//! `bindings.rabbitmq`: one queue, through the default exchange.

use std::sync::Arc;
use std::time::Duration;

use amqprs::channel::{
    BasicAckArguments, BasicCancelArguments, BasicConsumeArguments, BasicNackArguments, BasicQosArguments,
    ConsumerMessage, QueueDeclareArguments,
};
use amqprs::{BasicProperties, FieldTable, FieldValue};
use async_trait::async_trait;
use bytes::Bytes;
use outrigger_components_api::bindings::{
    BindingEvent, BindingHandler, InputBinding, InvokeError, InvokeRequest, InvokeResponse, Operation,
    OutputBinding,
};
use outrigger_components_api::metadata::{Decoder, request};
use outrigger_components_api::pubsub::{HandlerError, Subscription};
use outrigger_components_api::{ComponentError, InitContext, InitError};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::consumer::UNDELIVERED_PAUSE;
use crate::link::{Declaration, Link, Live, Message, NotPublished, TellingChannel};
use crate::settings::{Connection, put, short};

/// Unacknowledged messages at the same time if `prefetchCount` sets no bound.
const UNBOUNDED_PREFETCH: u16 = 1000;
const PUBLISH_TRIES: u32 = 3;
/// How often, and how quickly, an exclusive queue is asked for that somebody else still has.
const LOCKED_TRIES: u32 = 10;
const LOCKED_PAUSE: Duration = Duration::from_millis(200);
/// What Go's `url.QueryEscape` leaves as it is, besides letters and digits; a blank becomes `+`.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b' ');

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
}

impl RabbitBinding {
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

/// What the broker hands out on a channel.
struct Consumer {
    telling: TellingChannel,
    tag: String,
    messages: mpsc::UnboundedReceiver<ConsumerMessage>,
}

/// Reads the queue.
struct Reader {
    link: Arc<Link>,
    queue: Arc<Queue>,
    handler: Arc<dyn BindingHandler>,
}

impl Reader {
    async fn run(self, stop: CancellationToken, ready: oneshot::Sender<Result<(), String>>) {
        let mut ready = Some(ready);
        loop {
            let live = match self.link.live().await {
                Ok(live) => live,
                Err(error) => {
                    if !self.lost(error, &mut ready, &stop).await {
                        return;
                    }
                    continue;
                }
            };
            let prepared = tokio::select! {
                () = stop.cancelled() => return,
                () = live.dead.cancelled() => Err("the connection was lost".to_owned()),
                prepared = self.prepare(&live) => prepared,
            };
            let error = match prepared {
                Err(error) => error,
                Ok(consumer) => {
                    if let Some(ready) = ready.take() {
                        let _ = ready.send(Ok(()));
                    }
                    self.consume(&live, consumer, &stop).await;
                    "the connection was lost".to_owned()
                }
            };
            if stop.is_cancelled() || !self.lost(error, &mut ready, &stop).await {
                return;
            }
        }
    }

    /// Whether to try again, after a pause.
    async fn lost(
        &self,
        error: String,
        ready: &mut Option<oneshot::Sender<Result<(), String>>>,
        stop: &CancellationToken,
    ) -> bool {
        if let Some(ready) = ready.take() {
            let _ = ready.send(Err(error));
            return false;
        }
        warn!(queue = %self.queue.name, %error, "reading from RabbitMQ interrupted; connecting again");
        tokio::select! {
            () = stop.cancelled() => false,
            () = tokio::time::sleep(self.link.pause()) => true,
        }
    }

    async fn prepare(&self, live: &Arc<Live>) -> Result<Consumer, String> {
        let telling = live.channel().await?;
        // Always: it may have been deleted on this very connection.
        telling.declare(self.queue.declaration()).await?;
        // Bounds the queue of the client as well.
        let qos = BasicQosArguments::new(0, self.queue.prefetch, false);
        telling.tell(telling.channel.basic_qos(qos).await)?;
        let mut consume = BasicConsumeArguments::new(&self.queue.name, "");
        consume.manual_ack(true);
        let (tag, messages) = telling.tell(telling.channel.basic_consume_rx(consume).await)?;
        Ok(Consumer {
            telling,
            tag,
            messages,
        })
    }

    /// One message after the other: they come in the order of the queue.
    async fn consume(&self, live: &Arc<Live>, mut consumer: Consumer, stop: &CancellationToken) {
        loop {
            let message = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = live.dead.cancelled() => break,
                message = consumer.messages.recv() => message,
            };
            let Some(message) = message else { break };
            self.take(&consumer.telling.channel, message, stop).await;
        }
        if !live.dead.is_cancelled() {
            let cancel = BasicCancelArguments::new(&consumer.tag);
            let cancel = consumer.telling.channel.basic_cancel(cancel);
            let _ = tokio::time::timeout(Duration::from_millis(500), cancel).await;
        }
        // What was read and not handled goes back to the queue with the channel.
        consumer.telling.close().await;
    }

    async fn take(
        &self,
        channel: &amqprs::channel::Channel,
        message: ConsumerMessage,
        stop: &CancellationToken,
    ) {
        let Some(tag) = message.deliver.as_ref().map(amqprs::Deliver::delivery_tag) else {
            return;
        };
        let headers = message
            .basic_properties
            .as_ref()
            .and_then(BasicProperties::headers);
        let metadata = headers
            .into_iter()
            .flat_map(|table| table.as_ref().iter())
            .filter_map(|(name, value)| match value {
                FieldValue::S(text) => Some((query_escape(name.as_ref()), query_escape(text.as_ref()))),
                _ => None,
            })
            .collect();
        let event = BindingEvent {
            data: Some(Bytes::from(message.content.unwrap_or_default())),
            metadata,
        };
        let answered = match self.handler.handle(event).await {
            Ok(_) => channel.basic_ack(BasicAckArguments::new(tag, false)).await,
            Err(error) => {
                debug!(queue = %self.queue.name, %error, "message goes back to the queue");
                if !matches!(error, HandlerError::Failed(_)) {
                    // Nobody could take it, and the broker hands it out again at once.
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = tokio::time::sleep(UNDELIVERED_PAUSE) => {}
                    }
                }
                channel
                    .basic_nack(BasicNackArguments::new(tag, false, true))
                    .await
            }
        };
        if let Err(error) = answered {
            debug!(queue = %self.queue.name, %error, "message not acknowledged");
        }
    }
}

/// As Go's `url.QueryEscape` writes it: Dapr's metadata are to be headers of HTTP.
fn query_escape(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string().replace(' ', "+")
}
