//! What the store tells: jobs and counters, at the start and as they change.

use outrigger_proto::scheduler::v1::JobMetadata;
use prost::Message as _;

use super::entry::{Entry, Slot, State};
use super::rules::{Failure, Span};
use super::{CACHE_AHEAD, Engine, Nanos, nanos};
use crate::job;
use crate::names;
use crate::store::{Event, Feed, KeyValue};
use crate::wire::stored::{self, job::Begin};

impl Engine {
    /// Takes in what the store tells. Keys that are neither jobs nor counters are passed over.
    pub fn feed(&mut self, feed: &Feed, now: Nanos) {
        self.now = self.now.max(now);
        match feed {
            Feed::Begin => {
                self.loading = true;
                let slots: Vec<Slot> = self.entries.slots().collect();
                for slot in slots {
                    self.entries.get_mut(slot).seen = false;
                }
            }
            Feed::Keys(keys) => {
                for key in keys {
                    self.put(key);
                }
            }
            Feed::Complete => {
                let gone: Vec<Slot> = self
                    .entries
                    .slots()
                    .filter(|slot| !self.entries.get(*slot).seen)
                    .collect();
                for slot in gone {
                    self.remove(slot);
                }
                self.loading = false;
            }
            Feed::Events(events) => {
                for event in events {
                    match event {
                        Event::Put(key) => self.put(key),
                        Event::Deleted { key, revision } => self.delete(key, *revision),
                    }
                }
            }
        }
    }

    fn put(&mut self, key: &KeyValue) {
        if key.key.starts_with(names::JOBS.as_bytes()) {
            self.put_job(key);
        } else if key.key.starts_with(names::COUNTERS.as_bytes()) {
            self.put_counter(key);
        }
    }

    pub(super) fn put_job(&mut self, key: &KeyValue) {
        let Some(name) = names::name_of(&key.key, names::JOBS) else {
            return;
        };
        let known = self.entries.find(name);
        if let Some(slot) = known {
            let entry = self.entries.get_mut(slot);
            entry.seen = true;
            if entry.job_revision >= key.mod_revision {
                return;
            }
        }
        let entry = match self.read_job(name, key) {
            Ok(entry) => entry,
            Err(why) => {
                // It stays in the store, for someone who can read it or delete it.
                tracing::error!("job {name:?} cannot be read and is not triggered: {why}");
                if let Some(slot) = known {
                    self.remove(slot);
                }
                return;
            }
        };
        let slot = match known {
            Some(slot) => self.replace(slot, entry),
            None => {
                self.routes.get_mut(entry.route).jobs += 1;
                self.entries.add(entry)
            }
        };
        self.schedule(slot);
        let entry = self.entries.get(slot);
        if entry.fire_at < self.now.saturating_add(CACHE_AHEAD) {
            self.keep(slot, &key.value);
        }
    }

    fn replace(&mut self, slot: Slot, mut new: Entry) -> Slot {
        self.forget(slot);
        let old = self.entries.get_mut(slot);
        new.generation = old.generation.wrapping_add(1);
        // The counter of the former version is still in the store, and will be overwritten.
        new.counter_revision = old.counter_revision;
        let (old_route, new_route) = (old.route, new.route);
        *old = new;
        self.routes.get_mut(new_route).jobs += 1;
        self.routes.get_mut(old_route).jobs -= 1;
        self.routes.release(old_route);
        slot
    }

    fn read_job(&mut self, name: &str, key: &KeyValue) -> Result<Entry, String> {
        let job = stored::Job::decode(&key.value[..]).map_err(|error| error.to_string())?;
        let metadata = names::unpack(job.job.as_ref().and_then(|job| job.metadata.as_ref()))
            .ok_or("its metadata is no JobMetadata")?;
        let (kind, route) = names::route(&metadata).map_err(|error| error.to_string())?;
        let rules = self
            .rules
            .get(&job, concurrency_key(&metadata))
            .map_err(|error| error.to_string())?;
        let (begin, begin_ticks) = match &job.begin {
            Some(Begin::Start(at)) => (nanos(job::time(at)), false),
            Some(Begin::DueTime(at)) => (nanos(job::time(at)), true),
            None => return Err("it has neither start nor due time".to_owned()),
        };
        Ok(Entry {
            name: name.into(),
            rules,
            partition: job.partition_id,
            span: Span {
                begin,
                begin_ticks,
                expiration: job
                    .expiration
                    .as_ref()
                    .map_or(Nanos::MAX, |at| nanos(job::time(at))),
            },
            last: Nanos::MIN,
            fire_at: Nanos::MAX,
            job_revision: key.mod_revision,
            counter_revision: 0,
            count: 0,
            attempts: 0,
            generation: 0,
            route: self.routes.find_or_add(kind, &route),
            late: 0,
            state: State::Asleep,
            seen: true,
        })
    }

    pub(super) fn put_counter(&mut self, key: &KeyValue) {
        let Some(slot) = names::name_of(&key.key, names::COUNTERS).and_then(|name| self.entries.find(name))
        else {
            return;
        };
        let Ok(counter) = stored::Counter::decode(&key.value[..]) else {
            tracing::error!(
                "the counter of job {:?} cannot be read",
                self.entries.get(slot).name
            );
            return;
        };
        let entry = self.entries.get_mut(slot);
        if entry.counter_revision >= key.mod_revision {
            return;
        }
        entry.counter_revision = key.mod_revision;
        if counter.job_partition_id != entry.partition {
            return; // it belongs to a former version of the job
        }
        if entry.state == State::Saving && (entry.count, entry.attempts) == (counter.count, counter.attempts)
        {
            return; // our own write, before its answer
        }
        entry.count = counter.count;
        entry.attempts = counter.attempts;
        entry.last = counter
            .last_trigger
            .as_ref()
            .map_or(Nanos::MIN, |at| nanos(job::time(at)));
        self.schedule(slot);
    }

    fn delete(&mut self, key: &[u8], revision: i64) {
        if let Some(slot) = names::name_of(key, names::JOBS).and_then(|name| self.entries.find(name)) {
            if self.entries.get(slot).job_revision < revision {
                self.remove(slot);
            }
        } else if let Some(slot) =
            names::name_of(key, names::COUNTERS).and_then(|name| self.entries.find(name))
        {
            let entry = self.entries.get_mut(slot);
            if entry.counter_revision < revision {
                entry.counter_revision = 0;
            }
        }
    }

    /// Finds a job's next tick. A job that has none any more is deleted.
    pub(super) fn schedule(&mut self, slot: Slot) {
        match self.entries.get(slot).tick() {
            Some(tick) => {
                let entry = self.entries.get_mut(slot);
                // What failed before, here or elsewhere, waits for its next try.
                entry.fire_at = match entry.rules.failure {
                    Failure::Retry { interval, .. } => {
                        tick.saturating_add(interval.saturating_mul(i64::from(entry.attempts)))
                    }
                    Failure::Drop => tick,
                };
                self.sleep(slot);
            }
            None => {
                self.entries.get_mut(slot).fire_at = Nanos::MAX;
                self.sleep(slot);
                if self.is_mine(slot) {
                    self.finish(slot);
                }
            }
        }
    }

    pub(super) fn is_mine(&self, slot: Slot) -> bool {
        let partition = self.entries.get(slot).partition;
        self.share.is_some_and(|share| share.has(partition))
    }
}

fn concurrency_key(metadata: &JobMetadata) -> Option<&str> {
    metadata.concurrency_key.as_deref().filter(|key| !key.is_empty())
}
