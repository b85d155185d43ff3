//! Hands the records of one partition to the handler, in their order: one at a time, or as many as a batch may have.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use krafka::ConsumerRecord;
use outrigger_components_api::pubsub::{HandlerError, MessageHandler, NewMessage};
use regex::Regex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::metadata;
use crate::settings::Retry;

/// Before a record that nobody could take is tried again where failed ones are not.
const UNDELIVERED_PAUSE: Duration = Duration::from_secs(1);

/// A topic and one of its partitions.
pub(crate) type Place = (Arc<str>, i32);

/// The next offset of each partition of which everything before was handled.
pub(crate) type Marks = Arc<Mutex<BTreeMap<Place, i64>>>;

/// What a worker needs to know.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) handler: Arc<dyn MessageHandler>,
    /// Records that the handler may have in hand at once.
    pub(crate) at_once: usize,
    pub(crate) escape_headers: bool,
    pub(crate) exclude_headers: Option<Regex>,
    pub(crate) retry: Option<Retry>,
    pub(crate) marks: Marks,
}

/// How a record ended.
enum Fate {
    Handled,
    /// Given up: not marked, but a later mark skips it.
    Skipped,
    /// Not handled; it comes again to whoever reads the partition next.
    Left,
}

impl Job {
    /// Works until the queue ends or the partition is taken away.
    pub(crate) async fn run(self, mut queue: mpsc::Receiver<ConsumerRecord>, stop: CancellationToken) {
        // They end in any order and are marked in theirs.
        let mut in_hand = FuturesOrdered::new();
        let (mut ending, mut left) = (false, false);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled(), if !ending => ending = true,
                Some((record, fate)) = in_hand.next() => match fate {
                    Fate::Handled if !left => self.mark(&record),
                    // What follows it comes again with it.
                    Fate::Left => left = true,
                    Fate::Handled | Fate::Skipped => {}
                },
                record = queue.recv(), if !ending && in_hand.len() < self.at_once => match record {
                    Some(record) => in_hand.push_back(self.handle(record, &stop)),
                    None => ending = true,
                },
                else => return,
            }
        }
    }

    fn mark(&self, record: &ConsumerRecord) {
        let place = (record.topic.clone(), record.partition);
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.insert(place, record.offset + 1);
    }

    async fn handle(&self, record: ConsumerRecord, stop: &CancellationToken) -> (ConsumerRecord, Fate) {
        let fate = self.fate(&record, stop).await;
        (record, fate)
    }

    async fn fate(&self, record: &ConsumerRecord, stop: &CancellationToken) -> Fate {
        let mut tries = 0;
        let mut pause = self.retry.map_or(UNDELIVERED_PAUSE, |retry| retry.first);
        loop {
            let message = NewMessage {
                topic: record.topic.to_string(),
                data: record.value.clone().unwrap_or(Bytes::from_static(b"null")),
                metadata: Some(metadata::of_record(
                    record,
                    self.escape_headers,
                    self.exclude_headers.as_ref(),
                )),
                content_type: None,
            };
            let failure = match self.handler.handle(message).await {
                Ok(()) => return Fate::Handled,
                Err(failure) => failure,
            };
            let place = format!("{}/{}/{}", record.topic, record.partition, record.offset);
            match (&failure, self.retry) {
                // Who closes the subscription stops this as well; an app that is not well may become so before that.
                (HandlerError::Closed | HandlerError::Undelivered(_), _) => {}
                (HandlerError::Failed(_), None) => {
                    error!(%place, error = %failure, "error processing Kafka message");
                    return Fate::Skipped;
                }
                (HandlerError::Failed(_), Some(retry)) => {
                    if retry.limit.is_some_and(|limit| tries >= limit) {
                        error!(%place, error = %failure, "too many failed attempts at processing Kafka message");
                        return Fate::Skipped;
                    }
                }
            }
            tries += 1;
            warn!(%place, error = %failure, ?pause, "error processing Kafka message; trying again");
            tokio::select! {
                () = stop.cancelled() => return Fate::Left,
                () = tokio::time::sleep(pause) => {}
            }
            if let Some(retry) = self.retry.filter(|retry| retry.grows) {
                pause = (pause * 2).min(retry.most);
            }
        }
    }
}
