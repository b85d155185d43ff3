//! Messages that were gathered: read, sorted by route, delivered, and what remains sent to the dead letter topic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use outrigger_cloudevents::{Event, content_type};
use outrigger_components_api::RequestMetadata;
use outrigger_components_api::pubsub::{BulkEntry, BulkPublishRequest, HandlerError, NewMessage};
use outrigger_gojson::Value;
use outrigger_resiliency::Failure;

use super::{Batch, BatchEntry, Content};
use crate::metrics::IngressStatus;
use crate::pubsub::deliver::{BatchOutcome, Consumer, EntryStatus, Refusal};

/// What has become of the gathered messages so far, by place; `None` = not decided.
type Results = Vec<Option<Result<(), HandlerError>>>;

impl Consumer {
    /// Delivers messages that were gathered; one result for each, in order.
    pub(in crate::pubsub) async fn process_batch(
        &self,
        messages: Vec<NewMessage>,
    ) -> Vec<Result<(), HandlerError>> {
        let mut results: Results = messages.iter().map(|_| None).collect();
        let mut letters = Vec::new();
        for batch in self.sort(messages, &mut results, &mut letters) {
            let undone = self.deliver_batch(&batch).await;
            self.settle(&batch, undone, &mut results, &mut letters);
        }
        self.send_letters(letters, &mut results).await;
        results
            .into_iter()
            .map(|result| result.unwrap_or(Ok(())))
            .collect()
    }

    /// Reads the messages and sorts them by route.
    fn sort(
        &self,
        messages: Vec<NewMessage>,
        results: &mut Results,
        letters: &mut Vec<Letter>,
    ) -> Vec<Batch> {
        let mut batches: BTreeMap<(String, String), Batch> = BTreeMap::new();
        for (origin, message) in messages.into_iter().enumerate() {
            let topic = self.own_topic(&message.topic);
            let mut entry = match self.bulk_entry(message, origin) {
                Ok(entry) => entry,
                Err(unreadable) => {
                    let (text, entry) = *unreadable;
                    tracing::error!(target: "dapr.runtime", "error deserializing one of the messages in bulk cloud event in pubsub {} and topic {topic}: {text}", self.spec.pubsub);
                    letters.push(Letter::of(entry, Some(Refusal::new(text))));
                    continue;
                }
            };
            let (found, trace) = match &mut entry.content {
                Content::Raw(data) => {
                    let text = Value::from(outrigger_gojson::lossy(data));
                    (self.routes.find(|rule| rule.matches(&text)), None)
                }
                Content::Event(event) if event.is_expired(Timestamp::now()) => {
                    tracing::warn!(target: "dapr.runtime", "dropping expired pub/sub event {} of topic {topic}", event.id());
                    letters.push(Letter::of(entry, None));
                    continue;
                }
                Content::Event(event) => (
                    self.routes.find(|rule| rule.matches_event(event)),
                    self.span(event),
                ),
            };
            match found {
                Ok(Some(path)) => {
                    let batch = batches
                        .entry((topic.clone(), path.to_owned()))
                        .or_insert_with(|| self.batch(topic, path));
                    if batch.trace.is_none() {
                        batch.trace = trace;
                    }
                    batch.entries.push(entry);
                }
                Ok(None) => {
                    tracing::debug!(target: "dapr.runtime", "no matching route for an event of topic {topic}; skipping");
                    if let Some(result) = results.get_mut(origin) {
                        *result = Some(Ok(()));
                    }
                    letters.push(Letter::of(entry, None));
                }
                Err(text) => {
                    tracing::error!(target: "dapr.runtime", "error finding matching route for an event of topic {topic}: {text}");
                    letters.push(Letter::of(entry, Some(Refusal::new(text))));
                }
            }
        }
        batches.into_values().collect()
    }

    fn batch(&self, topic: String, path: &str) -> Batch {
        Batch {
            path: path.to_owned(),
            topic,
            pubsub: self.spec.pubsub.clone(),
            metadata: [("pubsubName".to_owned(), self.spec.pubsub.clone())].into(),
            entries: Vec::new(),
            trace: None,
        }
    }

    /// # Errors
    /// Why the message is no event, and the entry all the same.
    fn bulk_entry(
        &self,
        message: NewMessage,
        origin: usize,
    ) -> Result<BatchEntry, Box<(String, BatchEntry)>> {
        let read = if self.raw {
            Ok(Content::Raw(message.data.clone()))
        } else {
            Event::parse(&message.data)
                .map(|mut event| {
                    event.complete_trace(message.metadata());
                    Content::Event(event)
                })
                .map_err(|error| error.to_string())
        };
        let entry = |content, content_type| BatchEntry {
            id: crate::pubsub::new_id(),
            content,
            content_type,
            metadata: message.metadata.clone(),
            data: message.data.clone(),
            origin,
        };
        match read {
            Ok(content) => {
                // The event is JSON now, whatever the broker said of the published bytes.
                let content_type = match &content {
                    Content::Raw(_) => message.content_type.clone(),
                    Content::Event(_) => None,
                };
                Ok(entry(content, content_type))
            }
            Err(text) => {
                let raw = Content::Raw(message.data.clone());
                Err(Box::new((text, entry(raw, message.content_type.clone()))))
            }
        }
    }

    /// Delivers a batch under the component's inbound policy; entries that were not acknowledged are tried again.
    /// What is left undone in the end, by index.
    async fn deliver_batch(&self, batch: &Batch) -> Undone {
        let policy = self.inner.policies.pubsub_inbound(&self.spec.pubsub);
        let pending: Mutex<Undone> = Mutex::new(Undone::all(batch.entries.len()));
        let lock = || pending.lock().unwrap_or_else(PoisonError::into_inner);
        let attempt_runs = tokio::sync::Mutex::new(());
        let attempts = policy.run(
            |attempt| {
                let (lock, attempt_runs) = (&lock, &attempt_runs);
                async move {
                    let _running = attempt_runs.lock().await;
                    if attempt > 1 && self.closing.is_cancelled() {
                        lock().closed = true;
                        return Err(Failure::permanent(()));
                    }
                    let entries: Vec<usize> = lock().retry.keys().copied().collect();
                    let started = Instant::now();
                    let outcome = self.subscriber.deliver_batch(batch, &entries).await;
                    self.record_batch(batch, &outcome, started);
                    lock().take(batch, &outcome)
                }
            },
            |_| (),
        );
        let closed = tokio::select! {
            biased;
            _ = attempts => false,
            () = self.closed_between_attempts(&attempt_runs) => true,
        };
        let mut undone = pending.into_inner().unwrap_or_else(PoisonError::into_inner);
        undone.closed |= closed;
        undone
    }

    fn record_batch(&self, batch: &Batch, outcome: &BatchOutcome, started: Instant) {
        let metrics = self.inner.policies.metrics();
        metrics.bulk_delivered(&batch.topic, started.elapsed());
        let of = |wanted: EntryStatus| match outcome {
            BatchOutcome::Statuses(statuses) => statuses.iter().any(|(_, status)| *status == wanted),
            BatchOutcome::AllDropped => wanted == EntryStatus::Drop,
            BatchOutcome::Refused(_) => wanted == EntryStatus::Retry,
            BatchOutcome::Closed => false,
        };
        for (entry, status) in [
            (EntryStatus::Success, IngressStatus::Success),
            (EntryStatus::Retry, IngressStatus::Retry),
            (EntryStatus::Drop, IngressStatus::Drop),
        ] {
            if of(entry) {
                metrics.bulk_events(&batch.topic, status);
            }
        }
    }

    fn settle(&self, batch: &Batch, undone: Undone, results: &mut Results, letters: &mut Vec<Letter>) {
        for (index, entry) in batch.entries.iter().enumerate() {
            let Some(result) = results.get_mut(entry.origin) else {
                continue;
            };
            if undone.dropped.contains(&index) {
                letters.push(Letter::copy(entry, None));
            } else if let Some(refusal) = undone.retry.get(&index) {
                if undone.closed {
                    *result = Some(Err(HandlerError::Closed));
                } else {
                    letters.push(Letter::copy(entry, Some(refusal.clone())));
                }
            } else {
                *result = Some(Ok(()));
            }
        }
    }

    /// Sends what could not be delivered to the dead letter topic, if there is one.
    async fn send_letters(&self, letters: Vec<Letter>, results: &mut Results) {
        if letters.is_empty() {
            return;
        }
        let failed: BTreeSet<String> = match &self.spec.dead_letter {
            None => letters
                .iter()
                .filter(|letter| letter.refusal.is_some())
                .map(|letter| letter.entry.entry_id.clone())
                .collect(),
            Some(topic) => {
                let entries = letters.iter().map(|letter| letter.entry.clone()).collect();
                self.inner.dead_letters(&self.spec.pubsub, topic, entries).await
            }
        };
        for letter in letters {
            let result = if failed.contains(&letter.entry.entry_id) {
                let refusal = letter
                    .refusal
                    .unwrap_or_else(|| Refusal::new("the dead letter topic did not take the message"));
                Err(refusal.into_handler_error())
            } else {
                Ok(())
            };
            if let Some(slot) = results.get_mut(letter.origin) {
                *slot = Some(result);
            }
        }
    }
}

/// A message for the dead letter topic.
struct Letter {
    entry: BulkEntry,
    origin: usize,
    /// `None`: given up by the app, a rule or its age, so that no dead letter topic is no reason to keep it.
    refusal: Option<Refusal>,
}

impl Letter {
    fn of(entry: BatchEntry, refusal: Option<Refusal>) -> Self {
        Self::copy(&entry, refusal)
    }

    fn copy(entry: &BatchEntry, refusal: Option<Refusal>) -> Self {
        let default = match entry.content {
            Content::Event(_) => content_type::CLOUD_EVENT,
            Content::Raw(_) => content_type::OCTET_STREAM,
        };
        Self {
            origin: entry.origin,
            refusal,
            entry: BulkEntry {
                entry_id: entry.id.clone(),
                data: entry.data.clone(),
                content_type: entry.content_type.clone().unwrap_or_else(|| default.to_owned()),
                metadata: entry.metadata.clone(),
            },
        }
    }
}

/// Entries of a batch, by index, that nobody has acknowledged.
#[derive(Debug, Default)]
struct Undone {
    retry: BTreeMap<usize, Refusal>,
    dropped: BTreeSet<usize>,
    closed: bool,
}

impl Undone {
    fn all(count: usize) -> Self {
        let untried = Refusal::undelivered("the app was not asked");
        Self {
            retry: (0..count).map(|index| (index, untried.clone())).collect(),
            ..Self::default()
        }
    }

    /// Takes over what an attempt has brought.
    fn take(&mut self, batch: &Batch, outcome: &BatchOutcome) -> Result<(), Failure<()>> {
        let code = match outcome {
            BatchOutcome::AllDropped => {
                // Recorded: not even the dead letter topic gets them.
                self.retry.clear();
                return Ok(());
            }
            BatchOutcome::Closed => {
                self.closed = true;
                return Err(Failure::permanent(()));
            }
            BatchOutcome::Refused(refusal) => {
                for kept in self.retry.values_mut() {
                    *kept = refusal.clone();
                }
                refusal.code
            }
            BatchOutcome::Statuses(statuses) => {
                let unclear =
                    Refusal::new("RETRY required while processing bulk subscribe event for an entry");
                for kept in self.retry.values_mut() {
                    *kept = unclear.clone();
                }
                for (id, status) in statuses {
                    let found = batch.entries.iter().position(|entry| entry.id == *id);
                    let Some(index) = found.filter(|index| self.retry.contains_key(index)) else {
                        tracing::warn!(target: "dapr.runtime", "invalid entry id received from subscriber while processing bulk event: {id}");
                        continue;
                    };
                    match status {
                        EntryStatus::Success => drop(self.retry.remove(&index)),
                        EntryStatus::Drop => {
                            self.retry.remove(&index);
                            self.dropped.insert(index);
                        }
                        EntryStatus::Retry => {}
                    }
                }
                None
            }
        };
        if self.retry.is_empty() {
            return Ok(());
        }
        Err(Failure {
            code,
            ..Failure::new(())
        })
    }
}

/// The request that carries letters.
pub(in crate::pubsub) fn letters_request(topic: &str, entries: Vec<BulkEntry>) -> BulkPublishRequest {
    BulkPublishRequest {
        topic: topic.to_owned(),
        entries,
        metadata: RequestMetadata::new(),
    }
}
