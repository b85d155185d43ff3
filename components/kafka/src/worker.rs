//! Hands the records of one partition to the handler, in their order, one at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use krafka::ConsumerRecord;
use outrigger_components_api::pubsub::{HandlerError, MessageHandler, NewMessage};
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
    pub(crate) escape_headers: bool,
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
        loop {
            let record = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                record = queue.recv() => record,
            };
            let Some(record) = record else { return };
            match self.handle(&record, &stop).await {
                Fate::Handled => {
                    let place = (record.topic.clone(), record.partition);
                    let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
                    marks.insert(place, record.offset + 1);
                }
                Fate::Skipped => {}
                Fate::Left => return,
            }
        }
    }

    async fn handle(&self, record: &ConsumerRecord, stop: &CancellationToken) -> Fate {
        let mut tries = 0;
        let mut pause = self.retry.map_or(UNDELIVERED_PAUSE, |retry| retry.first);
        loop {
            let message = NewMessage {
                topic: record.topic.to_string(),
                data: record.value.clone().unwrap_or(Bytes::from_static(b"null")),
                metadata: Some(metadata::of_record(record, self.escape_headers)),
                content_type: None,
            };
            let failure = match self.handler.handle(message).await {
                Ok(()) => return Fate::Handled,
                Err(failure) => failure,
            };
            let place = format!("{}/{}/{}", record.topic, record.partition, record.offset);
            match (&failure, self.retry) {
                (HandlerError::Closed, _) => return Fate::Left,
                (HandlerError::Undelivered(_), _) => {}
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
