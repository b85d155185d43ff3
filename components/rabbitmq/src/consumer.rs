//! One subscription: its queue, its channel, and the calls of its handler.

use std::sync::Arc;
use std::time::Duration;

use amqprs::channel::{
    BasicAckArguments, BasicCancelArguments, BasicConsumeArguments, BasicNackArguments, BasicQosArguments,
    Channel, ConsumerMessage, QueueBindArguments, QueueDeclareArguments,
};
use amqprs::{BasicProperties, FieldValue};
use bytes::Bytes;
use outrigger_components_api::pubsub::{HandlerError, MessageHandler, NewMessage, SubscribeRequest};
use outrigger_components_api::{ComponentError, RequestMetadata};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::link::{Link, Live, TellingChannel};
use crate::pubsub::exchange;
use crate::settings::{Options, put, short};

/// Before a message that nobody could take goes back to the queue, which hands it out at once.
pub(crate) const UNDELIVERED_PAUSE: Duration = Duration::from_secs(1);

/// Tries to establish a subscription before its caller is told that it failed.
const FIRST_TRIES: u32 = 3;

/// Consumes one topic.
pub(crate) struct Consumer {
    options: Arc<Options>,
    link: Arc<Link>,
    topic: String,
    queue: String,
    routing_keys: Vec<String>,
    metadata: RequestMetadata,
    handler: Arc<dyn MessageHandler>,
}

/// Why consuming ended.
enum End {
    Stopped,
    Lost(String),
}

type Ready = Option<oneshot::Sender<Result<(), String>>>;

impl Consumer {
    /// Checks the request.
    ///
    /// # Errors
    /// Names what the broker would not take.
    pub(crate) fn new(
        options: Arc<Options>,
        link: Arc<Link>,
        request: &SubscribeRequest,
        handler: Arc<dyn MessageHandler>,
    ) -> Result<Self, ComponentError> {
        let queue = match request.metadata.get("queueName").filter(|name| !name.is_empty()) {
            Some(name) => name.clone(),
            None => format!("{}-{}", options.consumer_id, request.topic),
        };
        let keys = request.metadata.get("routingKey").map_or("", String::as_str);
        short("the topic", &request.topic)
            // Its dead letter queue has a longer name.
            .and_then(|()| short("the queue's name", &format!("dlq-{queue}")))
            .and_then(|()| keys.split(',').try_for_each(|key| short("routingKey", key)))
            .map_err(|error| ComponentError(format!("rabbitmq pub/sub: {error}")))?;
        Ok(Self {
            topic: request.topic.clone(),
            routing_keys: keys.split(',').map(str::to_owned).collect(),
            metadata: request.metadata.clone(),
            options,
            link,
            queue,
            handler,
        })
    }

    /// Consumes until told to stop; a lost connection is made anew. Tells whether the first try succeeded.
    pub(crate) async fn run(self, stop: CancellationToken, ready: oneshot::Sender<Result<(), String>>) {
        let consumer = Arc::new(self);
        let mut ready = Some(ready);
        let mut tries = 0;
        // They outlive connections: one that takes long, or is tried again and again, holds up no reconnection.
        let mut running = JoinSet::new();
        loop {
            tries += 1;
            match consumer.clone().consume(&stop, &mut ready, &mut running).await {
                End::Stopped => break,
                End::Lost(error) => {
                    // Another's last queue may take the exchange with it between its declaration and our binding.
                    if let Some(ready) = ready.take_if(|_| tries >= FIRST_TRIES) {
                        let _ = ready.send(Err(error));
                        return;
                    }
                    let wait = consumer.link.pause();
                    warn!(queue = %consumer.queue, %error, ?wait, "subscription lost; connecting again");
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(wait) => {}
                    }
                }
            }
        }
        while running.join_next().await.is_some() {}
    }

    async fn consume(
        self: Arc<Self>,
        stop: &CancellationToken,
        ready: &mut Ready,
        running: &mut JoinSet<()>,
    ) -> End {
        let setup = async {
            let live = self.link.live().await?;
            let (channel, messages) = tokio::select! {
                prepared = self.prepare(&live) => prepared?,
                () = live.dead.cancelled() => return Err("the connection was lost".to_owned()),
            };
            Ok((live, channel, messages))
        };
        let (live, telling, mut messages) = tokio::select! {
            () = stop.cancelled() => return End::Stopped,
            result = setup => match result {
                Ok(prepared) => prepared,
                Err(error) => return End::Lost(error),
            },
        };
        if let Some(ready) = ready.take() {
            let _ = ready.send(Ok(()));
        }
        let channel = telling.channel.clone();
        // What is acknowledged before it is handled the broker does not count.
        let most = if self.options.single {
            1
        } else {
            usize::from(self.options.prefetch).max(1)
        };
        let end = loop {
            let message = tokio::select! {
                biased;
                () = stop.cancelled() => break End::Stopped,
                () = live.dead.cancelled() => break End::Lost("the connection was lost".to_owned()),
                Some(_) = running.join_next(), if !running.is_empty() => continue,
                message = messages.recv(), if running.len() < most => message,
            };
            let Some(message) = message else {
                break End::Lost("the broker cancelled the consumer".to_owned());
            };
            running.spawn(self.clone().take(channel.clone(), message, stop.clone()));
        };
        if matches!(end, End::Stopped) && !live.dead.is_cancelled() {
            let cancel = channel.basic_cancel(BasicCancelArguments::new(&self.queue));
            let _ = tokio::time::timeout(Duration::from_secs(2), cancel).await;
        }
        if matches!(end, End::Stopped) {
            // Their answers go over this channel.
            while running.join_next().await.is_some() {}
        }
        // What was read and not handled goes back to the queue with the channel.
        telling.close().await;
        end
    }

    async fn take(self: Arc<Self>, channel: Channel, message: ConsumerMessage, stop: CancellationToken) {
        let Some(tag) = message.deliver.as_ref().map(amqprs::Deliver::delivery_tag) else {
            return;
        };
        let ack = || channel.basic_ack(BasicAckArguments::new(tag, false));
        if self.options.auto_ack && ack().await.is_err() {
            return;
        }
        let metadata = match (&message.basic_properties, self.options.properties_to_metadata) {
            (Some(properties), true) => describe(properties),
            _ => RequestMetadata::new(),
        };
        let content_type = message
            .basic_properties
            .as_ref()
            .and_then(BasicProperties::content_type)
            .filter(|_| self.options.properties_to_metadata)
            .cloned();
        let result = self
            .handler
            .handle(NewMessage {
                topic: self.topic.clone(),
                data: Bytes::from(message.content.unwrap_or_default()),
                metadata: Some(metadata),
                content_type,
            })
            .await;
        if self.options.auto_ack {
            return;
        }
        let answered = match result {
            Ok(()) => ack().await,
            Err(error) => {
                let requeue = match &error {
                    HandlerError::Failed(_) => self.options.requeue_in_failure,
                    HandlerError::Closed => true,
                    HandlerError::Undelivered(_) => {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            () = tokio::time::sleep(UNDELIVERED_PAUSE) => {}
                        }
                        true
                    }
                };
                debug!(queue = %self.queue, %error, requeue, "message not handled");
                channel
                    .basic_nack(BasicNackArguments::new(tag, false, requeue))
                    .await
            }
        };
        if let Err(error) = answered {
            // The broker hands it out again.
            debug!(queue = %self.queue, %error, "message not acknowledged");
        }
    }

    /// Exchange, queue, binding and consumer, on a channel of their own.
    async fn prepare(
        &self,
        live: &Arc<Live>,
    ) -> Result<(TellingChannel, mpsc::UnboundedReceiver<ConsumerMessage>), String> {
        let options = &self.options;
        let telling = live.channel().await?;
        let channel = &telling.channel;
        // Always: it may have been deleted with its last queue.
        telling.declare(exchange(options, &self.topic, None)).await?;
        let mut arguments = options.queue_arguments();
        if options.enable_dead_letter {
            let dead_exchange = format!("dlx-{}", self.queue);
            let dead_queue = format!("dlq-{}", self.queue);
            telling
                .declare(exchange(options, &dead_exchange, Some("fanout")))
                .await?;
            let mut lazy = options.queue_arguments();
            put(&mut lazy, "x-queue-mode", FieldValue::from("lazy"));
            let mut declare = QueueDeclareArguments::new(&dead_queue);
            declare
                .durable(true)
                .auto_delete(options.delete_when_unused)
                .arguments(lazy);
            telling.tell(channel.queue_declare(declare).await)?;
            let bind = QueueBindArguments::new(&dead_queue, &dead_exchange, "");
            telling.tell(channel.queue_bind(bind).await)?;
            put(
                &mut arguments,
                "x-dead-letter-exchange",
                FieldValue::from(dead_exchange),
            );
        }
        self.special_arguments(&mut arguments)?;
        let mut declare = QueueDeclareArguments::new(&self.queue);
        declare
            .durable(options.durable)
            .auto_delete(options.delete_when_unused)
            .arguments(arguments);
        telling.tell(channel.queue_declare(declare).await)?;
        let qos = BasicQosArguments::new(0, options.prefetch, false);
        telling.tell(channel.basic_qos(qos).await)?;
        for key in &self.routing_keys {
            let bind = QueueBindArguments::new(&self.queue, &self.topic, key);
            telling.tell(channel.queue_bind(bind).await)?;
        }
        let mut consume = BasicConsumeArguments::new(&self.queue, &self.queue);
        consume.manual_ack(true);
        let (_, messages) = telling.tell(channel.basic_consume_rx(consume).await)?;
        Ok((telling, messages))
    }

    /// What the subscription asks of its queue.
    fn special_arguments(&self, arguments: &mut amqprs::FieldTable) -> Result<(), String> {
        match self.metadata.get("queueType").map(String::as_str) {
            // Said in any case: the virtual host may have another default.
            None | Some("") => put(arguments, "x-queue-type", FieldValue::from("classic")),
            Some(kind @ ("classic" | "quorum")) => put(arguments, "x-queue-type", FieldValue::from(kind)),
            Some(other) => return Err(format!("invalid queueType {other}: use classic or quorum")),
        }
        for (name, argument, most) in [
            ("maxPriority", "x-max-priority", 255),
            ("maxLen", "x-max-length", i64::MAX),
            ("maxLenBytes", "x-max-length-bytes", i64::MAX),
        ] {
            if let Some(text) = self.metadata.get(name).filter(|text| !text.is_empty()) {
                let value: i64 = text
                    .parse()
                    .map_err(|_| format!("invalid {name} {text:?}: it must be a number"))?;
                put(arguments, argument, FieldValue::l(value.clamp(0, most)));
            }
        }
        let single = self.metadata.get("singleActiveConsumer");
        if single.is_some_and(|text| outrigger_components_api::metadata::is_truthy(text)) {
            put(arguments, "x-single-active-consumer", FieldValue::t(true));
        }
        Ok(())
    }
}

/// A message's properties as metadata.
fn describe(properties: &BasicProperties) -> RequestMetadata {
    let mut metadata = RequestMetadata::new();
    for (name, value) in [
        ("messageid", properties.message_id()),
        ("correlationid", properties.correlation_id()),
        ("type", properties.message_type()),
        ("contenttype", properties.content_type()),
    ] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            metadata.insert(format!("metadata.{name}"), value.clone());
        }
    }
    for (name, value) in properties
        .headers()
        .into_iter()
        .flat_map(|table| table.as_ref().iter())
    {
        let value = match value {
            FieldValue::S(text) => text.to_string(),
            other => other.to_string(),
        };
        metadata.insert(format!("metadata.{name}"), value);
    }
    metadata
}
