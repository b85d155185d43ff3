//! Reads and writes of the engine, gathered into batches.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::Pulse;
use crate::engine::{Effect, SaveTicket, StreamId};
use crate::store::batch::Sharing;
use crate::store::{Applied, KeyValue, Store, StoreError, Txn};

/// Batches under way at a time, of either kind.
const UNDER_WAY: usize = 4;
/// Keys read at a time.
const FETCH: usize = 256;
/// Batches that are read ahead at a time, besides those that are due.
const AHEAD: usize = 2;

/// What became of something.
#[derive(Debug)]
pub(super) enum Done {
    Saved(Vec<(SaveTicket, Applied)>),
    Fetched(Vec<(StreamId, u64, Result<Option<KeyValue>, ()>)>),
    LookedAhead(Vec<(SaveTicket, Option<KeyValue>)>),
    Refreshed(SaveTicket, Option<KeyValue>, Option<KeyValue>),
    /// Something failed and is in the queue again.
    Again,
}

enum Finished {
    Saved(Vec<(SaveTicket, Txn)>, Result<Vec<Applied>, StoreError>),
    Fetched(
        Vec<(StreamId, u64, Bytes)>,
        Result<Vec<Option<KeyValue>>, StoreError>,
    ),
    LookedAhead(
        Vec<(SaveTicket, Bytes)>,
        Result<Vec<Option<KeyValue>>, StoreError>,
    ),
    Refreshed(SaveTicket, [Bytes; 2], Result<Vec<Option<KeyValue>>, StoreError>),
}

type Work = Pin<Box<dyn Future<Output = Finished> + Send>>;

/// Queues and what is under way. The queues are bounded by the number of jobs: each is in one of them at most once.
pub(super) struct Batches {
    store: Arc<dyn Store>,
    pulse: Arc<Pulse>,
    saves: VecDeque<(SaveTicket, Txn)>,
    saving: usize,
    fetches: VecDeque<(StreamId, u64, Bytes)>,
    fetching: usize,
    looks: VecDeque<(SaveTicket, Bytes)>,
    looking: usize,
    refreshes: VecDeque<(SaveTicket, [Bytes; 2])>,
    refreshing: usize,
    work: FuturesUnordered<Work>,
}

impl std::fmt::Debug for Batches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batches")
            .field("saves", &self.saves.len())
            .field("fetches", &self.fetches.len())
            .finish_non_exhaustive()
    }
}

impl Batches {
    pub(super) fn new(store: Arc<dyn Store>, pulse: Arc<Pulse>) -> Self {
        Self {
            store,
            pulse,
            saves: VecDeque::new(),
            saving: 0,
            fetches: VecDeque::new(),
            fetching: 0,
            looks: VecDeque::new(),
            looking: 0,
            refreshes: VecDeque::new(),
            refreshing: 0,
            work: FuturesUnordered::new(),
        }
    }

    pub(super) fn add(&mut self, effect: Effect) {
        match effect {
            Effect::Save { ticket, txn } => self.saves.push_back((ticket, txn)),
            Effect::Fetch { stream, id, key } => self.fetches.push_back((stream, id, key)),
            Effect::LookAhead { ticket, key } => self.looks.push_back((ticket, key)),
            Effect::Refresh { ticket, keys } => self.refreshes.push_back((ticket, keys)),
            Effect::Deliver { .. } => {}
        }
    }

    /// Starts what there is room for.
    pub(super) fn start(&mut self) {
        while self.saving < UNDER_WAY && !self.saves.is_empty() {
            let batch = self.next_saves();
            self.saving += 1;
            self.pulse.writing();
            let store = self.store.clone();
            self.work.push(Box::pin(async move {
                let txns = batch.iter().map(|(_, txn)| txn.clone()).collect();
                let result = store.apply(txns).await;
                if result.is_err() {
                    pause().await;
                }
                Finished::Saved(batch, result)
            }));
        }
        while self.fetching < UNDER_WAY && !self.fetches.is_empty() {
            let count = self.fetches.len().min(FETCH);
            let batch: Vec<_> = self.fetches.drain(..count).collect();
            self.fetching += 1;
            let store = self.store.clone();
            self.work.push(Box::pin(async move {
                let result = store
                    .get(batch.iter().map(|(_, _, key)| key.clone()).collect())
                    .await;
                Finished::Fetched(batch, result)
            }));
        }
        while self.looking < AHEAD && !self.looks.is_empty() {
            let count = self.looks.len().min(FETCH);
            let batch: Vec<_> = self.looks.drain(..count).collect();
            self.looking += 1;
            let store = self.store.clone();
            self.work.push(Box::pin(async move {
                let result = store
                    .get(batch.iter().map(|(_, key)| key.clone()).collect())
                    .await;
                Finished::LookedAhead(batch, result)
            }));
        }
        while self.refreshing < UNDER_WAY
            && let Some((ticket, keys)) = self.refreshes.pop_front()
        {
            self.refreshing += 1;
            let store = self.store.clone();
            self.work.push(Box::pin(async move {
                let result = store.get(keys.to_vec()).await;
                if result.is_err() {
                    pause().await;
                }
                Finished::Refreshed(ticket, keys, result)
            }));
        }
    }

    fn next_saves(&mut self) -> Vec<(SaveTicket, Txn)> {
        let mut sharing = Sharing::new(self.store.batch());
        let mut batch = Vec::new();
        while let Some((_, txn)) = self.saves.front()
            && sharing.admits(txn)
        {
            batch.extend(self.saves.pop_front());
        }
        batch
    }

    /// The next thing that is done; never if nothing is under way.
    pub(super) async fn next(&mut self) -> Option<Done> {
        match self.work.next().await? {
            Finished::Saved(batch, result) => {
                self.saving -= 1;
                self.pulse.wrote(result.is_ok(), self.saving);
                match result {
                    Ok(applied) => Some(Done::Saved(
                        batch.into_iter().map(|(ticket, _)| ticket).zip(applied).collect(),
                    )),
                    Err(error) => {
                        tracing::warn!(
                            "outcomes of {} triggers are not written yet: {error}",
                            batch.len()
                        );
                        self.saves.extend(batch);
                        Some(Done::Again)
                    }
                }
            }
            Finished::Fetched(batch, result) => {
                self.fetching -= 1;
                let found: Vec<Result<Option<KeyValue>, ()>> = match result {
                    Ok(found) => found.into_iter().map(Ok).collect(),
                    Err(error) => {
                        tracing::warn!("{} jobs that are due cannot be read yet: {error}", batch.len());
                        batch.iter().map(|_| Err(())).collect()
                    }
                };
                Some(Done::Fetched(
                    batch
                        .into_iter()
                        .zip(found)
                        .map(|((stream, id, _), found)| (stream, id, found))
                        .collect(),
                ))
            }
            Finished::LookedAhead(batch, result) => {
                self.looking -= 1;
                let found = result.unwrap_or_else(|error| {
                    tracing::debug!("{} jobs are not read ahead: {error}", batch.len());
                    vec![None; batch.len()]
                });
                let tickets = batch.into_iter().map(|(ticket, _)| ticket);
                Some(Done::LookedAhead(tickets.zip(found).collect()))
            }
            Finished::Refreshed(ticket, keys, result) => {
                self.refreshing -= 1;
                match result {
                    Ok(found) => {
                        let mut found = found.into_iter();
                        let (job, counter) = (found.next().flatten(), found.next().flatten());
                        Some(Done::Refreshed(ticket, job, counter))
                    }
                    Err(error) => {
                        tracing::warn!("a job that changed cannot be read yet: {error}");
                        self.refreshes.push_back((ticket, keys));
                        Some(Done::Again)
                    }
                }
            }
        }
    }
}

/// Before something is tried again.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(rand::random_range(200..600))).await;
}
