//! The publishing channel of a connection, and what the broker says of the messages on it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use amqprs::callbacks::ChannelCallback;
use amqprs::channel::{BasicPublishArguments, Channel};
use amqprs::{Ack, BasicProperties, Cancel, CloseChannel, Nack, Return};
use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Message;

/// Who waits for a message's confirmation.
pub(super) struct Waiting {
    pub(super) mandatory: bool,
    pub(super) confirmed: oneshot::Sender<Confirmed>,
}

/// What the broker says of a message.
pub(super) enum Confirmed {
    Kept,
    Refused,
    Returned,
}

/// Messages on their way, by number.
pub(super) type Pending = Arc<Mutex<BTreeMap<u64, Waiting>>>;

/// The publishing channel. The broker counts messages, so one at a time is numbered and sent.
pub(super) struct Publishing {
    channel: Channel,
    /// Of the last message that was sent. Held while one is on its way to the library's queue, which keeps the order.
    number: tokio::sync::Mutex<u64>,
    pending: Pending,
    dead: CancellationToken,
}

impl Publishing {
    pub(super) fn new(channel: Channel, pending: Pending, dead: CancellationToken) -> Self {
        Self {
            channel,
            number: tokio::sync::Mutex::new(0),
            pending,
            dead,
        }
    }

    /// Sends a message; who waits for it is told, or learns by the loss of the other end that nobody will tell.
    pub(super) async fn send(&self, message: Message, waiting: Waiting) {
        let mut arguments = BasicPublishArguments::new(&message.exchange, &message.routing_key);
        arguments.mandatory(message.mandatory);
        let mut number = self.number.lock().await;
        let next = *number + 1;
        // In the place of one that was given up here.
        lock(&self.pending).insert(next, waiting);
        // The library queues the whole message in one step: given up before it, nothing was sent, and the number is free.
        let sent = self
            .channel
            .basic_publish(message.properties, message.body, arguments)
            .await;
        match sent {
            Ok(()) => *number = next,
            Err(_) => self.dead.cancel(),
        }
        // Nobody confirms any more, and those who waited before have been told.
        if self.dead.is_cancelled() {
            lock(&self.pending).remove(&next);
        }
    }
}

/// Tells those who wait when the channel is of no use any more, by the loss of the other end.
pub(super) async fn give_up(dead: CancellationToken, pending: Pending) {
    dead.cancelled().await;
    lock(&pending).clear();
}

fn lock(pending: &Pending) -> std::sync::MutexGuard<'_, BTreeMap<u64, Waiting>> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hands the broker's confirmations to those who wait for them.
pub(super) struct Confirmations {
    pub(super) pending: Pending,
    pub(super) dead: CancellationToken,
}

impl Confirmations {
    fn settle(&self, tag: u64, multiple: bool, outcome: fn() -> Confirmed) {
        let mut pending = lock(&self.pending);
        if multiple {
            let later = pending.split_off(&(tag + 1));
            for (_, waiting) in std::mem::replace(&mut *pending, later) {
                let _ = waiting.confirmed.send(outcome());
            }
        } else if let Some(waiting) = pending.remove(&tag) {
            let _ = waiting.confirmed.send(outcome());
        }
    }

    /// A message without a queue comes back before it is confirmed, but without its number. So all are given back that it
    /// may be: who publishes them again does so once too often rather than once too seldom.
    fn give_back(&self) {
        let mut pending = lock(&self.pending);
        let returned: Vec<_> = pending.extract_if(.., |_, waiting| waiting.mandatory).collect();
        for (_, waiting) in returned {
            let _ = waiting.confirmed.send(Confirmed::Returned);
        }
    }
}

#[async_trait]
impl ChannelCallback for Confirmations {
    async fn close(&mut self, _: &Channel, close: CloseChannel) -> Result<(), amqprs::error::Error> {
        debug!(%close, "RabbitMQ closed the publishing channel");
        self.dead.cancel();
        Ok(())
    }

    async fn cancel(&mut self, _: &Channel, _: Cancel) -> Result<(), amqprs::error::Error> {
        Ok(())
    }

    async fn flow(&mut self, _: &Channel, _: bool) -> Result<bool, amqprs::error::Error> {
        Ok(true)
    }

    async fn publish_ack(&mut self, _: &Channel, ack: Ack) {
        self.settle(ack.delivery_tag(), ack.mutiple(), || Confirmed::Kept);
    }

    async fn publish_nack(&mut self, _: &Channel, nack: Nack) {
        self.settle(nack.delivery_tag(), nack.multiple(), || Confirmed::Refused);
    }

    async fn publish_return(&mut self, _: &Channel, returned: Return, _: BasicProperties, _: Vec<u8>) {
        debug!(%returned, "RabbitMQ has no queue for a message");
        self.give_back();
    }
}
