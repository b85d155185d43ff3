//! The engine: knows every job, says when one is due and who gets it, and what follows from the answer.
//!
//! It is a state machine without input or output of its own: it is told what changed in the store, which streams
//! there are, what they answered and what time it is, and leaves [`Effect`]s to be carried out. So every order of
//! events can be tried in a test with virtual time.
//!
//! One tick of a job is under way at a time. Its outcome is written with a check that the job is still the one that
//! was triggered, so a replica that was away too long cannot undo what another one did. What turns out different is
//! read again: no job is left without either a time, a stream or a call to the store that will come back to it.

pub(crate) mod entry;
pub(crate) mod gates;
pub(crate) mod routes;
pub(crate) mod rules;

mod dispatch;
mod load;
mod outcome;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use bytes::Bytes;
use outrigger_schedule::Timestamp;

use crate::metrics::Metrics;
use crate::names;
use crate::store::{KeyValue, Txn};
pub use dispatch::Interest;
use entry::{Entries, Slot, State, Ticket};
use gates::Gates;
pub use gates::Limit;
use routes::Routes;
pub use routes::StreamId;
use rules::Interner;

/// Nanoseconds since 1970. Times after the year 2262 are the largest number: nobody will wait for them.
pub type Nanos = i64;

/// A time in nanoseconds.
pub fn nanos(at: Timestamp) -> Nanos {
    i64::try_from(at.as_nanosecond()).unwrap_or(if at.as_nanosecond() < 0 {
        Nanos::MIN + 1
    } else {
        Nanos::MAX
    })
}

/// The time that so many nanoseconds are.
pub(crate) fn timestamp(at: Nanos) -> Timestamp {
    // 64 bits of nanoseconds are within the years that a timestamp has.
    Timestamp::from_nanosecond(i128::from(at)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Which jobs this replica triggers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Number of replicas.
    pub count: u64,
    /// This one's place among them, from 0.
    pub index: u64,
}

impl Share {
    /// Everything: there is one replica.
    pub const ALL: Self = Self { count: 1, index: 0 };

    const fn has(self, partition: u64) -> bool {
        partition % self.count == self.index
    }

    /// This replica's part of a limit of the cluster: the remainder goes to the first ones, and nobody gets none.
    pub fn of(self, limit: u32) -> u32 {
        let limit = u64::from(limit);
        let part = limit / self.count + u64::from(self.index < limit % self.count);
        u32::try_from(part.max(1)).unwrap_or(u32::MAX)
    }
}

/// What a stream says about a trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Success,
    /// The failure policy decides.
    Failed,
}

/// What the engine wants done. All of it is answered to the engine, in any order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send a trigger to a stream. Not answered by the carrier but by the stream.
    Deliver {
        /// Which stream.
        stream: StreamId,
        /// Number of the trigger in it.
        id: u64,
        /// Full name of the job.
        name: Box<str>,
        /// The job at rest.
        value: Bytes,
    },
    /// Read a job for [`Engine::fetched`].
    Fetch {
        /// Which stream it is for.
        stream: StreamId,
        /// Number of the trigger in it.
        id: u64,
        /// The job's key.
        key: Bytes,
    },
    /// Write the outcome of a tick for [`Engine::saved`].
    Save {
        /// Whose.
        ticket: SaveTicket,
        /// What.
        txn: Txn,
    },
    /// Read a job that is due soon for [`Engine::looked_ahead`].
    LookAhead {
        /// Whose.
        ticket: SaveTicket,
        /// The job's key.
        key: Bytes,
    },
    /// Read a job and its counter for [`Engine::refreshed`].
    Refresh {
        /// Whose.
        ticket: SaveTicket,
        /// Job and counter.
        keys: [Bytes; 2],
    },
}

/// Names a job at one moment of its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaveTicket(pub(crate) Ticket);

/// Data of jobs that are due soon is kept, up to so many bytes.
const CACHE_BYTES: usize = 32 << 20;
/// How soon, of jobs that are just being written.
const CACHE_AHEAD: Nanos = 60_000_000_000;
/// How soon, of jobs that have to be read for it: a burst that fills the cache is read in that time.
const LOOK_AHEAD: Nanos = 10_000_000_000;
/// Jobs being read ahead at a time.
const LOOKING: usize = 4096;

/// When, and who if the ticket is still good.
type Alarm = Reverse<(Nanos, Slot, u32)>;

/// See the module.
#[derive(Debug)]
pub struct Engine {
    entries: Entries,
    /// Jobs that sleep and were looked at: they are near, and their data is here if there was room.
    due: BinaryHeap<Alarm>,
    /// The other jobs that sleep.
    far: BinaryHeap<Alarm>,
    /// Jobs being read ahead.
    looking: usize,
    routes: Routes,
    gates: Gates,
    rules: Interner,
    cache: HashMap<Slot, Bytes>,
    cached: usize,
    share: Option<Share>,
    /// The store is still telling its content: nothing new is triggered.
    loading: bool,
    now: Nanos,
    effects: Vec<Effect>,
    metrics: Metrics,
}

impl Engine {
    /// Knows nothing and triggers nothing until it has a share.
    pub fn new(metrics: Metrics) -> Self {
        Self {
            entries: Entries::default(),
            due: BinaryHeap::new(),
            far: BinaryHeap::new(),
            looking: 0,
            routes: Routes::default(),
            gates: Gates::default(),
            rules: Interner::default(),
            cache: HashMap::new(),
            cached: 0,
            share: None,
            loading: true,
            now: 0,
            effects: Vec::new(),
            metrics,
        }
    }

    /// What is to be done since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// How many jobs there are, those of other replicas included.
    pub fn jobs(&self) -> usize {
        self.entries.len()
    }

    /// Lets time pass: what is due is handed out. Returns when to call again; `None` = nothing waits for its time.
    pub fn tick(&mut self, now: Nanos) -> Option<Nanos> {
        /// So many at a time; answers of streams are heard in between.
        const AT_A_TIME: usize = 4096;
        self.now = now;
        if self.loading {
            return None;
        }
        let share = self.share?;
        for _ in 0..AT_A_TIME {
            let is_far = self.far.peek() > self.due.peek();
            let queue = if is_far { &mut self.far } else { &mut self.due };
            let Some(Reverse((at, slot, generation))) = queue.peek().copied() else {
                break;
            };
            if at > now {
                return Some(self.look_ahead(share).unwrap_or(at).min(at));
            }
            queue.pop();
            let ticket = Ticket { slot, generation };
            if self.entries.state(ticket) == Some(State::Asleep)
                && share.has(self.entries.get(slot).partition)
            {
                self.fire(slot);
            }
        }
        (!self.far.is_empty() || !self.due.is_empty()).then_some(now)
    }

    /// Has jobs read that will be due soon, while there is room for their data. Returns when there is more to read.
    fn look_ahead(&mut self, share: Share) -> Option<Nanos> {
        while self.looking < LOOKING && self.cached < CACHE_BYTES {
            let Reverse((at, slot, generation)) = *self.far.peek()?;
            let from = at.saturating_sub(LOOK_AHEAD);
            if from > self.now {
                return Some(from);
            }
            self.due.extend(self.far.pop());
            let ticket = Ticket { slot, generation };
            let is_wanted = self.entries.state(ticket) == Some(State::Asleep)
                && share.has(self.entries.get(slot).partition)
                && !self.cache.contains_key(&slot);
            if is_wanted {
                self.looking += 1;
                self.effects.push(Effect::LookAhead {
                    ticket: SaveTicket(ticket),
                    key: names::job_key(&self.entries.get(slot).name),
                });
            }
        }
        // Whoever is read, or done, makes room, and time is told after that.
        None
    }

    /// What [`Effect::LookAhead`] found; an error is the same as nothing: the job is read again when it is due.
    pub fn looked_ahead(&mut self, ticket: SaveTicket, found: Option<&KeyValue>) {
        self.looking -= 1;
        let slot = ticket.0.slot;
        if let Some(found) = found
            && matches!(
                self.entries.state(ticket.0),
                Some(State::Asleep | State::Waiting | State::Gated)
            )
            && self.entries.get(slot).job_revision == found.mod_revision
        {
            self.keep(slot, &found.value);
        }
    }

    /// This replica's share changed; `None` = nothing is triggered until the replicas agree again. Answers to what
    /// is under way still count.
    pub fn set_share(&mut self, share: Option<Share>) {
        if self.share == share {
            return;
        }
        self.share = share;
        let Some(share) = share else { return };
        let slots: Vec<Slot> = self.entries.slots().collect();
        for slot in slots {
            let entry = self.entries.get_mut(slot);
            let is_mine = share.has(entry.partition);
            match entry.state {
                // Perhaps it has ended, which was another replica's business.
                State::Asleep if is_mine && entry.fire_at == Nanos::MAX => self.schedule(slot),
                State::Asleep if is_mine => self.sleep(slot),
                // Another replica triggers it from now on; its queue places are void.
                State::Waiting | State::Gated if !is_mine => self.sleep(slot),
                _ => {}
            }
        }
    }

    /// Puts a job to sleep until its time, which makes every older ticket void.
    fn sleep(&mut self, slot: Slot) {
        let entry = self.entries.get_mut(slot);
        entry.generation = entry.generation.wrapping_add(1);
        entry.state = State::Asleep;
        let is_mine = self.share.is_some_and(|share| share.has(entry.partition));
        if is_mine && entry.fire_at != Nanos::MAX {
            let alarm = Reverse((entry.fire_at, slot, entry.generation));
            if entry.fire_at.saturating_sub(LOOK_AHEAD) > self.now {
                self.far.push(alarm);
            } else {
                self.due.push(alarm);
            }
            self.sweep();
        }
    }

    /// Jobs that are overwritten over and over leave void tickets behind.
    fn sweep(&mut self) {
        if self.due.len() + self.far.len() > 2 * self.entries.len() + 4096 {
            let entries = &self.entries;
            let is_good = |Reverse((_, slot, generation)): &Alarm| {
                let ticket = Ticket {
                    slot: *slot,
                    generation: *generation,
                };
                entries.state(ticket) == Some(State::Asleep)
            };
            self.due.retain(is_good);
            self.far.retain(is_good);
        }
    }

    fn keep(&mut self, slot: Slot, value: &Bytes) {
        if self.cached + value.len() <= CACHE_BYTES {
            // A copy, so that a page of a store's answer is not kept for the sake of one value.
            let old = self.cache.insert(slot, Bytes::copy_from_slice(value));
            self.cached += value.len();
            self.cached -= old.map_or(0, |old| old.len());
        }
    }

    fn forget(&mut self, slot: Slot) {
        if let Some(old) = self.cache.remove(&slot) {
            self.cached -= old.len();
        }
    }

    /// Takes a job out of memory.
    fn remove(&mut self, slot: Slot) {
        self.forget(slot);
        let route = self.entries.get(slot).route;
        self.entries.remove(slot);
        self.routes.get_mut(route).jobs -= 1;
        self.routes.release(route);
    }

    /// Asks for a job to be read again.
    fn refresh(&mut self, slot: Slot) {
        let entry = self.entries.get_mut(slot);
        entry.generation = entry.generation.wrapping_add(1);
        entry.state = State::Refreshing;
        let ticket = Ticket {
            slot,
            generation: entry.generation,
        };
        let keys = [names::job_key(&entry.name), names::counter_key(&entry.name)];
        self.effects.push(Effect::Refresh {
            ticket: SaveTicket(ticket),
            keys,
        });
    }

    /// What [`Effect::Refresh`] found.
    pub fn refreshed(&mut self, ticket: SaveTicket, job: Option<&KeyValue>, counter: Option<&KeyValue>) {
        if self.entries.state(ticket.0) != Some(State::Refreshing) {
            return;
        }
        let slot = ticket.0.slot;
        let Some(job) = job else {
            self.remove(slot);
            return;
        };
        // Whatever was read is news.
        let entry = self.entries.get_mut(slot);
        (entry.job_revision, entry.counter_revision) = (0, 0);
        self.put_job(job);
        if let Some(counter) = counter {
            self.put_counter(counter);
        }
    }
}
