//! What is kept in memory of a job. Its data is not: that is read from the store when it is triggered.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::Nanos;
use super::rules::{Rules, Span};

/// Place of a job in memory; reused once the job is gone.
pub(crate) type Slot = u32;

/// A job at one moment of its life. What was put into a queue for an earlier moment is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) slot: Slot,
    pub(crate) generation: u32,
}

/// What a job is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The place is free.
    Gone,
    /// It waits for its time, or belongs to another replica.
    Asleep,
    /// It is due and waits for a stream.
    Waiting,
    /// It is due and waits for others with the same limit to end.
    Gated,
    /// A stream has it.
    InFlight,
    /// The outcome of its tick is being written.
    Saving,
    /// It is being read again, since it turned out to be different from what we knew.
    Refreshing,
}

/// A job in memory.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Full name.
    pub(crate) name: Box<str>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) partition: u64,
    pub(crate) span: Span,
    /// The last tick that is done; [`Nanos::MIN`] = none.
    pub(crate) last: Nanos,
    /// When to fire next.
    pub(crate) fire_at: Nanos,
    pub(crate) job_revision: i64,
    /// 0 = there is no counter.
    pub(crate) counter_revision: i64,
    pub(crate) count: u32,
    pub(crate) attempts: u32,
    pub(crate) generation: u32,
    pub(crate) route: u32,
    /// Late ticks that were fired in a row.
    pub(crate) late: u32,
    pub(crate) state: State,
    /// Seen since the store began to tell its content again.
    pub(crate) seen: bool,
}

impl Entry {
    pub(crate) fn last(&self) -> Option<Nanos> {
        (self.last != Nanos::MIN).then_some(self.last)
    }

    /// The tick that comes next.
    pub(crate) fn tick(&self) -> Option<Nanos> {
        self.rules.next(self.span, self.count, self.last())
    }
}

/// All jobs in memory.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    list: Vec<Entry>,
    free: Vec<Slot>,
    by_name: HashTable<Slot>,
    hasher: DefaultHashBuilder,
}

impl Entries {
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(crate) fn get(&self, slot: Slot) -> &Entry {
        &self.list[slot as usize]
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> &mut Entry {
        &mut self.list[slot as usize]
    }

    pub(crate) fn find(&self, name: &str) -> Option<Slot> {
        let hash = self.hasher.hash_one(name);
        self.by_name
            .find(hash, |slot| &*self.list[*slot as usize].name == name)
            .copied()
    }

    /// Whether a ticket is still good, and in which state the job is.
    pub(crate) fn state(&self, ticket: Ticket) -> Option<State> {
        let entry = self.list.get(ticket.slot as usize)?;
        (entry.generation == ticket.generation && entry.state != State::Gone).then_some(entry.state)
    }

    /// Adds a job. Its generation continues that of the place's former owner.
    pub(crate) fn add(&mut self, mut entry: Entry) -> Slot {
        let hash = self.hasher.hash_one(&*entry.name);
        let slot = match self.free.pop() {
            Some(slot) => {
                entry.generation = self.get(slot).generation.wrapping_add(1);
                *self.get_mut(slot) = entry;
                slot
            }
            None => {
                self.list.push(entry);
                // Four thousand million jobs do not fit into memory.
                Slot::try_from(self.list.len() - 1).unwrap_or(Slot::MAX)
            }
        };
        let Self {
            list,
            hasher,
            by_name,
            ..
        } = self;
        by_name.insert_unique(hash, slot, |slot| hasher.hash_one(&*list[*slot as usize].name));
        slot
    }

    pub(crate) fn remove(&mut self, slot: Slot) {
        let hash = self.hasher.hash_one(&*self.get(slot).name);
        if let Ok(found) = self.by_name.find_entry(hash, |other| *other == slot) {
            found.remove();
        }
        let entry = self.get_mut(slot);
        entry.state = State::Gone;
        entry.generation = entry.generation.wrapping_add(1);
        entry.name = Box::default();
        self.free.push(slot);
    }

    /// The places in use.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        self.by_name.iter().copied()
    }
}
