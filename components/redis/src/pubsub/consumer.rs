//! A subscription at work: one loop reads what is new, another claims what somebody left behind.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrigger_components_api::pubsub::{HandlerError, MessageHandler};
use redis::RedisError;
use redis::streams::StreamId;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Options;
use super::entry;
use super::group::{Group, after};
use crate::link::{Backoff, Connection};

/// Pauses between tries while Redis is away.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// What an answer may take beyond the time a read blocks.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub(super) struct Consumer {
    pub(super) component: String,
    pub(super) group: Group,
    pub(super) options: Arc<Options>,
    /// Shared by all subscriptions of the component.
    pub(super) permits: Arc<Semaphore>,
    pub(super) handler: Arc<dyn MessageHandler>,
    pub(super) stop: CancellationToken,
    /// Entries read or claimed here whose handling has not ended: not to be claimed from ourselves.
    pub(super) in_hand: Arc<Mutex<HashSet<String>>>,
}

/// Handlers at work.
type Calls = JoinSet<()>;

impl Consumer {
    /// Consumes until told to stop; ends when all handlers have ended.
    pub(super) async fn run(self) {
        tokio::join!(self.read_loop(), self.claim_loop());
        debug!(component = %self.component, topic = %self.group.stream, "subscription ended");
    }

    async fn read_loop(&self) {
        let mut calls = Calls::new();
        let mut connection = None;
        let mut pauses = None;
        while !self.stop.is_cancelled() {
            let read = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                read = self.read(&mut connection) => read,
            };
            match read {
                Ok(entries) => {
                    if pauses.take().is_some() {
                        info!(component = %self.component, topic = %self.group.stream, "reading from redis again");
                    }
                    self.hand_out(entries, &mut calls).await;
                }
                Err(error) => {
                    connection = None;
                    self.read_failed(&error, &mut pauses).await;
                }
            }
            while calls.try_join_next().is_some() {}
        }
        // The socket first: what Redis hands to a closed one stays pending.
        drop(connection);
        finish(calls).await;
    }

    async fn read(&self, connection: &mut Option<Connection>) -> Result<Vec<StreamId>, RedisError> {
        let connection = match connection {
            Some(connection) => connection,
            None => {
                let limit = self.options.block + GRACE;
                connection.insert(self.group.link.connect(Some(limit)).await?)
            }
        };
        self.group
            .read_new(connection, self.options.queue_depth, self.options.block)
            .await
    }

    /// Says so once, restores what is missing, and waits a while.
    async fn read_failed(&self, error: &RedisError, pauses: &mut Option<Backoff>) {
        let topic = &self.group.stream;
        if error.code() == Some("NOGROUP") {
            warn!(component = %self.component, %topic, "consumer group is gone: redis lost data, or somebody removed it; creating it again");
            if self.group.create().await.is_ok() {
                return;
            }
        }
        if pauses.is_none() {
            warn!(component = %self.component, %topic, %error, "reading from redis failed; trying again until it works");
        } else {
            debug!(component = %self.component, %topic, %error, "reading from redis failed again");
        }
        let pause = pauses
            .get_or_insert_with(|| Backoff::new(FIRST_PAUSE, LONGEST_PAUSE))
            .next();
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    /// Starts a handler for each entry as permits allow, in order. What is left when told to stop is released.
    async fn hand_out(&self, entries: Vec<StreamId>, calls: &mut Calls) {
        self.lock().extend(entries.iter().map(|entry| entry.id.clone()));
        let mut entries = entries.into_iter();
        while let Some(entry) = entries.next() {
            let permit = tokio::select! {
                biased;
                () = self.stop.cancelled() => None,
                permit = self.permits.clone().acquire_owned() => permit.ok(),
            };
            let Some(permit) = permit else {
                let rest = std::iter::once(entry).chain(entries).map(|entry| entry.id);
                self.release(rest.collect()).await;
                return;
            };
            let consumer = self.clone();
            calls.spawn(async move {
                consumer.handle(entry).await;
                drop(permit);
            });
        }
    }

    async fn handle(&self, entry: StreamId) {
        let topic = &self.group.stream;
        let id = entry.id.clone();
        let message = entry::message(topic, &entry);
        drop(entry);
        let started = Instant::now();
        let ack = match self.handler.handle(message).await {
            Ok(()) => true,
            // Somebody else may have it by now, and does not know how this one ended.
            Err(HandlerError::Failed(error))
                if self.options.redelivers() && started.elapsed() >= self.options.processing_timeout =>
            {
                warn!(component = %self.component, %topic, %id, %error, "message failed after its processing timeout; it will be delivered again");
                false
            }
            // The policy around the app has given up: Go acknowledges as well.
            Err(HandlerError::Failed(error)) => {
                warn!(component = %self.component, %topic, %id, %error, "message dropped: its handler failed");
                true
            }
            Err(HandlerError::Undelivered(error)) => {
                warn!(component = %self.component, %topic, %id, %error, "message not delivered; it will be again");
                false
            }
            Err(HandlerError::Closed) => {
                self.release(vec![id.clone()]).await;
                false
            }
        };
        if ack && let Err(error) = self.group.ack(&id).await {
            warn!(component = %self.component, %topic, %id, %error, "message not acknowledged; it will be delivered again");
        }
        self.lock().remove(&id);
    }

    /// Lets others have entries at once that nobody handled. Without it they come after the processing timeout.
    async fn release(&self, ids: Vec<String>) {
        if ids.is_empty() {
            return;
        }
        if self.options.redelivers()
            && let Err(error) = self.group.release(self.options.processing_timeout, &ids).await
        {
            debug!(component = %self.component, topic = %self.group.stream, %error, "messages not released; they come later");
        }
        let mut in_hand = self.lock();
        for id in &ids {
            in_hand.remove(id);
        }
    }

    async fn claim_loop(&self) {
        if !self.options.redelivers() {
            return;
        }
        let mut calls = Calls::new();
        loop {
            if let Err(error) = self.claim_left_behind(&mut calls).await {
                debug!(component = %self.component, topic = %self.group.stream, %error, "pending messages not looked for");
            }
            while calls.try_join_next().is_some() {}
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(self.options.redeliver_interval) => {}
            }
        }
        finish(calls).await;
    }

    /// Goes through the whole pending list, a page at a time.
    async fn claim_left_behind(&self, calls: &mut Calls) -> Result<(), RedisError> {
        let mut from = "-".to_owned();
        loop {
            let pending = self.group.pending(&from, self.options.queue_depth);
            let Some(page) = self.stop.run_until_cancelled(pending).await.transpose()? else {
                return Ok(());
            };
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            from = after(last);
            let is_last = page.len() < self.options.queue_depth;
            let ids: Vec<String> = {
                let in_hand = self.lock();
                page.into_iter()
                    .filter(|(id, idle)| *idle >= self.options.processing_timeout && !in_hand.contains(id))
                    .map(|(id, _)| id)
                    .collect()
            };
            if !ids.is_empty() {
                self.claim(ids, calls).await?;
            }
            if is_last {
                return Ok(());
            }
        }
    }

    async fn claim(&self, ids: Vec<String>, calls: &mut Calls) -> Result<(), RedisError> {
        let claim = self.group.claim(self.options.processing_timeout, &ids);
        let Some(entries) = self.stop.run_until_cancelled(claim).await.transpose()? else {
            return Ok(());
        };
        let got: HashSet<&str> = entries.iter().map(|entry| entry.id.as_str()).collect();
        let missing: Vec<&String> = ids.iter().filter(|id| !got.contains(id.as_str())).collect();
        // Not claimed: another replica was faster, or the entry was trimmed while it was pending. The latter
        // would be pending for ever.
        for id in missing {
            if !self.group.exists(id).await? {
                self.group.ack(id).await?;
            }
        }
        debug!(component = %self.component, topic = %self.group.stream, messages = entries.len(), "claimed messages left behind");
        self.hand_out(entries, calls).await;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for all handlers.
async fn finish(mut calls: Calls) {
    while let Some(ended) = calls.join_next().await {
        if let Err(error) = ended {
            warn!(%error, "a message handler broke");
        }
    }
}
