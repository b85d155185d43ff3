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
use outrigger_components_api::pubsub::Subscription;
use outrigger_components_api::{ComponentError, InitContext, InitError, RequestMetadata};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::link::{Link, Live, Message, TellingChannel};
use crate::settings::{Connection, put, short};

/// Unacknowledged messages at the same time if `prefetchCount` sets no bound.
const UNBOUNDED_PREFETCH: u16 = 1000;
const PUBLISH_TRIES: u32 = 3;
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
        let flag = |name: &str| decoder.boolean(&[name]).unwrap_or(false);
        let (durable, delete_when_unused, exclusive) =
            (flag("durable"), flag("deleteWhenUnused"), flag("exclusive"));
        let prefetch = decoder.unsigned(&["prefetchCount"], 65_535).unwrap_or(0);
        let max_priority = decoder
            .unsigned(&["maxPriority"], u64::MAX)
            .filter(|priority| *priority > 0)
            .map(|priority| u8::try_from(priority).unwrap_or(u8::MAX));
        decoder.finish()?;
        if name.is_empty() {
            return Err(InitError::new("rabbitMQ error: missing queueName"));
        }
        short("queueName", &name).map_err(InitError)?;
        let properties: RequestMetadata = context
            .properties
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let ttl =
            request::ttl(&properties).map_err(|error| InitError(format!("failed to parse TTL: {error}")))?;
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
        let declared = async {
            let live = binding.link.live().await?;
            let channel = live.channel().await?;
            binding.queue.declare(&channel).await?;
            channel.close().await;
            Ok::<(), String>(())
        };
        declared
            .await
            .map_err(|error| InitError(format!("rabbitMQ error: {error}")))?;
        Ok(binding)
    }
}

impl Queue {
    async fn declare(&self, channel: &TellingChannel) -> Result<(), String> {
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
        channel.tell(channel.channel.queue_declare(declare).await)?;
        Ok(())
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
            let priority: u64 = priority
                .parse()
                .map_err(|_| format!("invalid priority {priority:?}: it must be a number"))?;
            properties.with_priority(u8::try_from(priority).unwrap_or(u8::MAX));
        }
        Ok(Message {
            exchange: String::new(),
            routing_key: self.name.clone(),
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
            let sent = async { self.link.live().await?.publish(message).await };
            match sent.await {
                Ok(()) => return Ok(None),
                Err(error) if tries >= PUBLISH_TRIES || self.shutdown.is_cancelled() => {
                    return Err(InvokeError::new(format!("failed to publish message: {error}")));
                }
                Err(_) => tokio::time::sleep(self.link.pause()).await,
            }
        }
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
        let stopped = self.tasks.spawn(Arc::new(reader).run(stop.clone(), ready));
        let subscription = Subscription { stop, stopped };
        match established.await {
            Ok(Ok(())) => Ok(subscription),
            result => {
                subscription.close().await;
                let error = match result {
                    Ok(Err(error)) => error,
                    _ => "component is closed".to_owned(),
                };
                Err(ComponentError(format!("rabbitMQ error: {error}")))
            }
        }
    }

    async fn close(&self) {
        self.link.close().await;
    }
}

/// Reads the queue.
struct Reader {
    link: Arc<Link>,
    queue: Arc<Queue>,
    handler: Arc<dyn BindingHandler>,
}

impl Reader {
    async fn run(self: Arc<Self>, stop: CancellationToken, ready: oneshot::Sender<Result<(), String>>) {
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
                Ok((channel, messages)) => {
                    if let Some(ready) = ready.take() {
                        let _ = ready.send(Ok(()));
                    }
                    self.clone().consume(&live, channel, messages, &stop).await;
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

    async fn prepare(
        &self,
        live: &Arc<Live>,
    ) -> Result<(TellingChannel, mpsc::UnboundedReceiver<ConsumerMessage>), String> {
        let telling = live.channel().await?;
        self.queue.declare(&telling).await?;
        // Bounds the queue of the client as well.
        let qos = BasicQosArguments::new(0, self.queue.prefetch, false);
        telling.tell(telling.channel.basic_qos(qos).await)?;
        let mut consume = BasicConsumeArguments::new(&self.queue.name, "");
        consume.manual_ack(true);
        let (_, messages) = telling.tell(telling.channel.basic_consume_rx(consume).await)?;
        Ok((telling, messages))
    }

    async fn consume(
        self: Arc<Self>,
        live: &Arc<Live>,
        telling: TellingChannel,
        mut messages: mpsc::UnboundedReceiver<ConsumerMessage>,
        stop: &CancellationToken,
    ) {
        let mut running = JoinSet::new();
        loop {
            let message = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = live.dead.cancelled() => break,
                Some(_) = running.join_next(), if !running.is_empty() => continue,
                message = messages.recv() => message,
            };
            let Some(message) = message else { break };
            running.spawn(self.clone().take(telling.channel.clone(), message));
        }
        if !live.dead.is_cancelled() {
            let cancel = telling.channel.basic_cancel(BasicCancelArguments::new(""));
            let _ = tokio::time::timeout(Duration::from_millis(500), cancel).await;
        }
        while running.join_next().await.is_some() {}
        telling.close().await;
    }

    async fn take(self: Arc<Self>, channel: amqprs::channel::Channel, message: ConsumerMessage) {
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
                FieldValue::S(text) => {
                    let name = utf8_percent_encode(name.as_ref(), ESCAPED).to_string();
                    Some((name.replace(' ', "+"), text.to_string()))
                }
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
