//! What follows from the answer to a trigger (contract `scheduler`, section 7).

use prost::Message as _;

use super::entry::{Slot, State, Ticket};
use super::rules::Failure;
use super::{Answer, CACHE_AHEAD, Effect, Engine, Nanos, SaveTicket};
use crate::job::wire_time;
use crate::names;
use crate::store::{Applied, Check, Txn, Write};
use crate::wire::stored;

impl Engine {
    /// The tick that was under way is answered.
    pub(super) fn outcome(&mut self, slot: Slot, answer: Answer) {
        let now = self.now;
        let entry = self.entries.get_mut(slot);
        if answer == Answer::Failed {
            entry.attempts += 1;
            if let Failure::Retry { interval, max } = entry.rules.failure
                && max.is_none_or(|max| entry.attempts <= max)
            {
                // Counted from the try before; after a long absence from now.
                let again = entry.fire_at.saturating_add(interval);
                entry.fire_at = if again < now.saturating_sub(interval) {
                    now
                } else {
                    again
                };
                self.save(slot);
                return;
            }
        }
        // The schedule goes on from the tick itself, however late it was answered.
        if let Some(tick) = entry.tick() {
            entry.last = tick;
        }
        entry.count = entry.count.saturating_add(1);
        entry.attempts = 0;
        match entry.tick() {
            Some(next) => {
                // A period of zero ticks as often as it is answered; it must not pretend to be late.
                entry.fire_at = if next == entry.last { next.max(now) } else { next };
                self.save(slot);
            }
            None => self.finish(slot),
        }
    }

    /// Writes the counter.
    fn save(&mut self, slot: Slot) {
        let entry = self.entries.get(slot);
        let counter = stored::Counter {
            job_partition_id: entry.partition,
            count: entry.count,
            last_trigger: entry.last().map(|last| wire_time(super::timestamp(last))),
            attempts: entry.attempts,
        };
        let write = Write::Put {
            key: names::counter_key(&entry.name),
            value: counter.encode_to_vec().into(),
            lease: 0,
        };
        let is_far = entry.fire_at > self.now.saturating_add(CACHE_AHEAD);
        if is_far {
            self.forget(slot);
        }
        self.write(slot, vec![write]);
    }

    /// Deletes a job that will not tick again.
    pub(super) fn finish(&mut self, slot: Slot) {
        let entry = self.entries.get(slot);
        let mut writes = vec![Write::Delete(names::job_key(&entry.name))];
        // The checks hold only if it is still absent.
        if entry.counter_revision != 0 {
            writes.push(Write::Delete(names::counter_key(&entry.name)));
        }
        self.entries.get_mut(slot).fire_at = Nanos::MAX;
        self.write(slot, writes);
    }

    fn write(&mut self, slot: Slot, writes: Vec<Write>) {
        let entry = self.entries.get_mut(slot);
        entry.state = State::Saving;
        entry.generation = entry.generation.wrapping_add(1);
        let ticket = Ticket {
            slot,
            generation: entry.generation,
        };
        let checks = vec![
            Check {
                key: names::job_key(&entry.name),
                mod_revision: entry.job_revision,
            },
            Check {
                key: names::counter_key(&entry.name),
                mod_revision: entry.counter_revision,
            },
        ];
        self.effects.push(Effect::Save {
            ticket: SaveTicket(ticket),
            txn: Txn {
                checks,
                writes,
                grows: false,
            },
        });
    }

    /// What became of [`Effect::Save`].
    pub fn saved(&mut self, ticket: SaveTicket, applied: Applied) {
        if self.entries.state(ticket.0) != Some(State::Saving) {
            return;
        }
        let slot = ticket.0.slot;
        if !applied.succeeded {
            self.refresh(slot);
            return;
        }
        if applied.deleted > 0 {
            self.remove(slot);
            return;
        }
        let entry = self.entries.get_mut(slot);
        entry.counter_revision = entry.counter_revision.max(applied.revision);
        self.sleep(slot);
    }
}
