//! Reads the queue, one message after the other.

use std::sync::Arc;
use std::time::Duration;

use amqprs::channel::{
    BasicAckArguments, BasicCancelArguments, BasicConsumeArguments, BasicNackArguments, BasicQosArguments,
    ConsumerMessage,
};
use amqprs::{BasicProperties, FieldValue};
use bytes::Bytes;
use outrigger_components_api::bindings::{BindingEvent, BindingHandler};
use outrigger_components_api::pubsub::HandlerError;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Queue;
use crate::consumer::UNDELIVERED_PAUSE;
use crate::link::{Link, Live, TellingChannel};

/// What Go's `url.QueryEscape` leaves as it is, besides letters and digits; a blank becomes `+`.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b' ');

/// What the broker hands out on a channel.
struct Consumer {
    telling: TellingChannel,
    tag: String,
    messages: mpsc::UnboundedReceiver<ConsumerMessage>,
}

/// Reads the queue.
pub(super) struct Reader {
    pub(super) link: Arc<Link>,
    pub(super) queue: Arc<Queue>,
    pub(super) handler: Arc<dyn BindingHandler>,
}

impl Reader {
    /// Until told to stop; tells whether the first try succeeded.
    pub(super) async fn run(self, stop: CancellationToken, ready: oneshot::Sender<Result<(), String>>) {
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
