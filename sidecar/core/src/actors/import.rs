//! Brings reminders that older versions of Dapr kept in the actor state store to the scheduler, in the background.
//!
//! Nothing is removed from the store, so an older version can go on with it. What was brought over stands in a record
//! beside each list (`<key of the list>||imported`), by registration: a reminder is brought over once in its life, also
//! if it has ended in the scheduler since, or somebody deleted it. A process that dies on the way has at most a few
//! dozen reminders not in the record; those are asked for again without overwriting, so they are there once.
//!
//! Sidecars of older versions may still run and add to the lists, so these are looked at again now and then.

mod old;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use outrigger_components_api::state::{
    GetRequest, GetResponse, SetRequest, StateError, StateOptions, StateStore, StateValue,
};
use outrigger_schedule::Timestamp;
use outrigger_sidecar_actors::reminders::{ReminderError, Reminders};
use outrigger_sidecar_actors::seams::ActorStores;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::scheduler::Interest;
use old::{OldReminder, Track};

const LOG: &str = "dapr.runtime.actors.reminders.import";
/// How often lists are looked at again.
const AGAIN: Duration = Duration::from_secs(600);
/// The pause after a failure; it doubles up to [`AGAIN`].
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Reminders between two writes of the record; more in long lists, whose records are long.
const STEP: usize = 64;
/// Calls to the scheduler at a time.
const CALLS: usize = 16;
/// Types of the house have no reminders in a store.
const INTERNAL: &str = "dapr.internal.";

/// See the module.
pub struct ReminderImport {
    /// Where reminders go.
    pub reminders: Arc<dyn Reminders>,
    /// Where they come from.
    pub stores: Arc<dyn ActorStores>,
}

/// What became of one look at a type's lists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Imported {
    /// Reminders that are in the scheduler now and were not before.
    pub made: usize,
    /// Reminders that were there already, or had nothing left to do.
    pub settled: usize,
    /// Reminders that the scheduler cannot keep; the log says which and why.
    pub refused: usize,
}

/// Why a look failed; it is repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ImportError(String);

#[derive(Deserialize, Default)]
struct Metadata {
    #[serde(default)]
    id: String,
    #[serde(rename = "actorRemindersMetadata", default)]
    reminders: Partitions,
}

#[derive(Deserialize, Default)]
struct Partitions {
    #[serde(rename = "partitionCount", default)]
    count: u32,
}

#[derive(Serialize, Deserialize, Default)]
struct Record {
    reminders: BTreeSet<String>,
}

impl ReminderImport {
    /// Looks at the lists of every type that this sidecar hosts, until stopped.
    pub async fn run(self, mut interest: watch::Receiver<Interest>, stop: CancellationToken) {
        // When to look at a type, and the pause after the next failure.
        let mut plan: BTreeMap<String, (Instant, Duration)> = BTreeMap::new();
        loop {
            let hosted = interest.borrow_and_update().actor_types.clone();
            plan.retain(|actor_type, _| hosted.contains(actor_type));
            for actor_type in hosted.into_iter().filter(|name| !name.starts_with(INTERNAL)) {
                plan.entry(actor_type).or_insert((Instant::now(), AFTER_FAILURE));
            }
            let next = plan
                .iter()
                .min_by_key(|(_, (at, _))| *at)
                .map(|(name, (at, _))| (name.clone(), *at));
            let due = async {
                match &next {
                    Some((_, at)) => tokio::time::sleep_until(*at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                changed = interest.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    continue;
                }
                () = stop.cancelled() => return,
            }
            let Some((actor_type, _)) = next else { continue };
            let result = tokio::select! {
                result = self.import(&actor_type) => result,
                () = stop.cancelled() => return,
            };
            let (_, after_failure) = plan
                .get(&actor_type)
                .copied()
                .unwrap_or((Instant::now(), AFTER_FAILURE));
            let (pause, after_failure) = match result {
                Ok(imported) => {
                    if imported.made + imported.refused > 0 {
                        tracing::info!(target: LOG,
                            "reminders of actor type {actor_type:?} in the state store: {} are in the scheduler now, {} were settled before, {} cannot be kept",
                            imported.made, imported.settled, imported.refused);
                    }
                    (AGAIN, AFTER_FAILURE)
                }
                Err(error) => {
                    tracing::warn!(target: LOG, "reminders of actor type {actor_type:?} in the state store are not in the scheduler yet: {error}");
                    (after_failure, (after_failure * 2).min(AGAIN))
                }
            };
            plan.insert(actor_type, (Instant::now() + pause, after_failure));
        }
    }

    /// Brings over what the lists of a type have and the records have not.
    ///
    /// # Errors
    /// The store or the scheduler failed; what was brought over until then stays.
    pub async fn import(&self, actor_type: &str) -> Result<Imported, ImportError> {
        let mut all = Imported::default();
        let Some(found) = self.stores.actor_store() else {
            return Ok(all);
        };
        let store = found.store.as_ref();
        for key in lists(store, actor_type).await? {
            self.import_list(store, actor_type, &key, &mut all).await?;
        }
        Ok(all)
    }

    async fn import_list(
        &self,
        store: &dyn StateStore,
        actor_type: &str,
        key: &str,
        all: &mut Imported,
    ) -> Result<(), ImportError> {
        let Some(list) = get(store, key).await?.data.filter(|list| !list.is_empty()) else {
            return Ok(());
        };
        let list =
            old::read(&list).map_err(|error| ImportError(format!("{key:?} cannot be read: {error}")))?;
        let record_key = format!("{key}||imported");
        let (record, _) = read_record(store, &record_key).await?;
        let mut left = Vec::new();
        for reminder in list {
            match reminder {
                Ok(reminder) if record.reminders.contains(&fingerprint(&reminder)) => {}
                Ok(reminder) => left.push(reminder),
                Err(why) => {
                    all.refused += 1;
                    tracing::error!(target: LOG, "a reminder in {key:?} cannot be read and stays there: {why}");
                }
            }
        }
        let step = STEP.max(left.len() / 50);
        for part in left.chunks(step) {
            let tracks = part.iter().map(|reminder| GetRequest {
                key: [actor_type, &reminder.actor_id, &reminder.name].join("||"),
                ..GetRequest::default()
            });
            let tracks = store
                .bulk_get(tracks.collect(), CALLS)
                .await
                .map_err(|error| failed(key, &error))?;
            let mut calls = Vec::with_capacity(part.len());
            for (reminder, track) in part.iter().zip(tracks) {
                if let Some(error) = track.error {
                    return Err(ImportError(format!("{:?}: {error}", track.key)));
                }
                let track = Track::read(track.response.data.as_deref());
                calls.push(self.import_one(actor_type, reminder, track));
            }
            let outcomes: Vec<Result<Outcome, ImportError>> =
                stream::iter(calls).buffered(CALLS).collect().await;
            let mut done = BTreeSet::new();
            let mut failure = None;
            for (reminder, outcome) in part.iter().zip(outcomes) {
                match outcome {
                    Ok(Outcome::Made) => all.made += 1,
                    Ok(Outcome::Settled) => all.settled += 1,
                    Ok(Outcome::Refused) => {
                        all.refused += 1;
                        continue;
                    }
                    Err(error) => {
                        failure = Some(error);
                        continue;
                    }
                }
                done.insert(fingerprint(reminder));
            }
            note(store, &record_key, &done).await?;
            if let Some(error) = failure {
                return Err(error);
            }
        }
        Ok(())
    }

    async fn import_one(
        &self,
        actor_type: &str,
        reminder: &OldReminder,
        track: Track,
    ) -> Result<Outcome, ImportError> {
        let refuse = |why: &str| {
            tracing::error!(target: LOG, "reminder {:?} of actor {actor_type}||{} in the state store cannot be kept by the scheduler: {why}",
                reminder.name, reminder.actor_id);
            Ok(Outcome::Refused)
        };
        let new = match reminder.renew(actor_type, &track, Timestamp::now()) {
            Ok(Some(new)) => new,
            Ok(None) => return Ok(Outcome::Settled),
            Err(why) => return refuse(&why),
        };
        match self.reminders.create(new).await {
            Ok(()) => Ok(Outcome::Made),
            // By an attempt that was cut off, by another sidecar, or by the app itself, which knows better.
            Err(ReminderError::AlreadyExists(_)) => Ok(Outcome::Settled),
            Err(ReminderError::Status {
                code: outrigger_model::GrpcCode::Unknown,
                message,
            }) => refuse(&message),
            Err(error) => Err(ImportError(error.to_string())),
        }
    }
}

enum Outcome {
    Made,
    Settled,
    Refused,
}

fn failed(key: &str, error: &StateError) -> ImportError {
    ImportError(format!("the state store failed at {key:?}: {error}"))
}

async fn get(store: &dyn StateStore, key: &str) -> Result<GetResponse, ImportError> {
    let request = GetRequest {
        key: key.to_owned(),
        ..GetRequest::default()
    };
    store.get(request).await.map_err(|error| failed(key, &error))
}

/// The keys of a type's lists: one, or as many as its metadata says.
async fn lists(store: &dyn StateStore, actor_type: &str) -> Result<Vec<String>, ImportError> {
    /// More partitions than anybody would have; a number beyond is no metadata of reminders.
    const MOST: u32 = 100_000;
    let key = format!("actors||{actor_type}||metadata");
    let metadata = match get(store, &key).await?.data.filter(|data| !data.is_empty()) {
        Some(data) => serde_json::from_slice::<Metadata>(&data)
            .map_err(|error| ImportError(format!("{key:?} cannot be read: {error}")))?,
        None => Metadata::default(),
    };
    match metadata.reminders.count {
        0 => Ok(vec![format!("actors||{actor_type}")]),
        count if count > MOST => Err(ImportError(format!("{key:?} names {count} partitions"))),
        count => Ok((1..=count)
            .map(|number| format!("actors||{actor_type}||{}||reminders||{number}", metadata.id))
            .collect()),
    }
}

/// Tells one registration of a reminder from every other.
fn fingerprint(reminder: &OldReminder) -> String {
    let mut hash = Sha256::new();
    for part in [
        reminder.actor_id.as_bytes(),
        b"||",
        reminder.name.as_bytes(),
        b"||",
    ] {
        hash.update(part);
    }
    hash.update(reminder.registration().to_be_bytes());
    hash.finalize()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

async fn read_record(store: &dyn StateStore, key: &str) -> Result<(Record, Option<String>), ImportError> {
    let found = get(store, key).await?;
    let record = match found.data.filter(|data| !data.is_empty()) {
        Some(data) => serde_json::from_slice(&data).map_err(|error| {
            ImportError(format!(
                "{key:?} cannot be read: {error}; delete it to import anew"
            ))
        })?,
        None => Record::default(),
    };
    Ok((record, found.etag))
}

/// Adds to a record, to which other sidecars may add at the same time.
async fn note(store: &dyn StateStore, key: &str, done: &BTreeSet<String>) -> Result<(), ImportError> {
    for _ in 0..20 {
        let (mut record, etag) = read_record(store, key).await?;
        let before = record.reminders.len();
        record.reminders.extend(done.iter().cloned());
        if record.reminders.len() == before {
            return Ok(());
        }
        let text = serde_json::to_vec(&record).map_err(|error| ImportError(error.to_string()))?;
        let request = SetRequest {
            key: key.to_owned(),
            value: StateValue::Bytes(Bytes::from(text)),
            etag,
            metadata: outrigger_components_api::RequestMetadata::default(),
            options: StateOptions {
                concurrency: "first-write".to_owned(),
                consistency: "strong".to_owned(),
            },
            content_type: None,
        };
        match store.set(request).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_etag() => {
                tokio::time::sleep(Duration::from_millis(rand::random_range(5..50))).await;
            }
            Err(error) => return Err(failed(key, &error)),
        }
    }
    Err(ImportError(format!("{key:?} changes all the time")))
}
