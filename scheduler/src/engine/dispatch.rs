//! From a job that is due to the stream that gets it.

use bytes::Bytes;

use super::entry::{Slot, State, Ticket};
use super::gates::{GateId, Limit};
use super::routes::{Pending, Stream};
use super::{Answer, Effect, Engine, Nanos, StreamId};
use crate::misfire::{LATE_NANOS, Misfire};
use crate::names::{self, Kind};
use crate::store::KeyValue;

/// What a stream takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interest {
    /// The routes of the jobs it takes.
    pub routes: Vec<(Kind, String)>,
    /// The limits it states.
    pub limits: Vec<Limit>,
    /// Triggers it may have unanswered.
    pub capacity: usize,
}

impl Engine {
    /// A job is due.
    pub(super) fn fire(&mut self, slot: Slot) {
        if self.was_missed(slot) {
            self.pass_over(slot);
        } else {
            self.dispatch(slot);
        }
    }

    /// Whether a tick is late and the job does not want it any more.
    fn was_missed(&mut self, slot: Slot) -> bool {
        let (now, entry) = (self.now, self.entries.get_mut(slot));
        if entry.attempts > 0 || now.saturating_sub(entry.fire_at) < LATE_NANOS {
            entry.late = 0;
            return false;
        }
        entry.late = entry.late.saturating_add(1);
        match entry.rules.misfire {
            Misfire::All => false,
            Misfire::AtMost(count) => entry.late > count,
            Misfire::Skip => true,
        }
    }

    /// Goes on with the first tick that is not late.
    fn pass_over(&mut self, slot: Slot) {
        let entry = self.entries.get_mut(slot);
        match entry.rules.rewind(entry.fire_at, self.now - LATE_NANOS) {
            Some(last) => {
                entry.last = last;
                entry.late = 0;
                self.schedule(slot);
            }
            // It ticks only once, and that was missed.
            None => self.finish(slot),
        }
    }

    /// Hands a job to a stream, or lets it wait for one.
    pub(super) fn dispatch(&mut self, slot: Slot) {
        let entry = self.entries.get_mut(slot);
        let (route, ticket) = (
            entry.route,
            Ticket {
                slot,
                generation: entry.generation,
            },
        );
        let share = self.share.unwrap_or(super::Share::ALL);
        let gates = self.gates.of(
            &self.routes.get(route).name,
            entry.rules.concurrency_key.as_deref(),
        );
        if let Some(full) = self.gates.full(gates, share) {
            self.metrics.throttled(self.gates.key(full));
            entry.state = State::Gated;
            if self.gates.wait(full, ticket) {
                self.metrics.pending(self.gates.key(full), 1);
            } else {
                self.outcome(slot, Answer::Failed);
            }
            return;
        }
        let Some(stream) = self.routes.pick(route) else {
            entry.state = State::Waiting;
            let route = self.routes.get_mut(route);
            if route.streams.is_empty() {
                self.metrics.undelivered(route.kind);
            }
            route.waiting.push_back(ticket);
            self.sweep_waiting(ticket);
            return;
        };
        entry.state = State::InFlight;
        for gate in gates.into_iter().flatten() {
            self.gates.get_mut(gate).under_way += 1;
            self.metrics.under_way(self.gates.key(gate), 1);
        }
        let Some(to) = self.routes.streams.get_mut(&stream) else {
            return;
        };
        to.last_id += 1;
        let id = to.last_id;
        to.pending.insert(
            id,
            Pending {
                ticket,
                gates,
                since: self.now,
            },
        );
        match self.cache.get(&slot) {
            Some(value) => {
                let value = value.clone();
                self.deliver(stream, id, slot, value);
            }
            None => self.effects.push(Effect::Fetch {
                stream,
                id,
                key: names::job_key(&self.entries.get(slot).name),
            }),
        }
    }

    fn deliver(&mut self, stream: StreamId, id: u64, slot: Slot, value: Bytes) {
        let entry = self.entries.get(slot);
        self.metrics.triggered(self.routes.get(entry.route).kind);
        self.effects.push(Effect::Deliver {
            stream,
            id,
            name: entry.name.clone(),
            value,
        });
    }

    /// What [`Effect::Fetch`] found; an error is temporary.
    pub fn fetched(&mut self, stream: StreamId, id: u64, found: Result<Option<KeyValue>, ()>) {
        let Some(pending) = self
            .routes
            .streams
            .get(&stream)
            .and_then(|stream| stream.pending.get(&id))
        else {
            return;
        };
        let ticket = pending.ticket;
        if self.entries.state(ticket) != Some(State::InFlight) {
            self.take_back(stream, id);
            return;
        }
        match found {
            Ok(Some(found)) if found.mod_revision == self.entries.get(ticket.slot).job_revision => {
                self.deliver(stream, id, ticket.slot, found.value);
            }
            Ok(_) => {
                self.take_back(stream, id);
                self.refresh(ticket.slot);
            }
            Err(()) => {
                self.take_back(stream, id);
                self.entries.get_mut(ticket.slot).fire_at = self.now.saturating_add(1_000_000_000);
                self.sleep(ticket.slot);
            }
        }
    }

    /// A stream answers a trigger. Unknown numbers are passed over.
    pub fn answered(&mut self, stream: StreamId, id: u64, answer: Answer) {
        let Some(pending) = self.take_back(stream, id) else {
            return;
        };
        if self.entries.state(pending.ticket) == Some(State::InFlight) {
            let kind = self.routes.get(self.entries.get(pending.ticket.slot).route).kind;
            self.metrics
                .answered(kind, answer, self.now.saturating_sub(pending.since));
            self.outcome(pending.ticket.slot, answer);
        }
    }

    /// Frees the place of a trigger, for others that wait for it.
    fn take_back(&mut self, stream: StreamId, id: u64) -> Option<Pending> {
        let pending = self.routes.streams.get_mut(&stream)?.pending.remove(&id)?;
        self.leave_gates(pending);
        self.fill(stream, 1);
        Some(pending)
    }

    fn leave_gates(&mut self, pending: Pending) {
        for gate in pending.gates.into_iter().flatten() {
            self.metrics.under_way(self.gates.key(gate), -1);
            let gate_state = self.gates.get_mut(gate);
            gate_state.under_way = gate_state.under_way.saturating_sub(1);
        }
        for gate in pending.gates.into_iter().flatten() {
            self.let_through(gate);
        }
    }

    /// Gives the free places of a gate to those who wait for one. Who then finds its other gate full waits there, and
    /// the place goes to the next.
    fn let_through(&mut self, gate: GateId) {
        let share = self.share.unwrap_or(super::Share::ALL);
        while self.gates.full([Some(gate), None], share).is_none()
            && let Some(next) = self.gates.get_mut(gate).queue.pop_front()
        {
            self.metrics.pending(self.gates.key(gate), -1);
            if self.entries.state(next) == Some(State::Gated) {
                self.dispatch(next.slot);
            }
        }
    }

    /// Gives a stream with room what waits for it, at most so many.
    fn fill(&mut self, stream: StreamId, count: usize) {
        let Some(routes) = self
            .routes
            .streams
            .get(&stream)
            .map(|stream| stream.routes.clone())
        else {
            return;
        };
        let mut left = count;
        for route in routes {
            while left > 0 {
                let has_room = self
                    .routes
                    .streams
                    .get(&stream)
                    .is_some_and(|stream| stream.pending.len() < stream.capacity);
                if !has_room {
                    return;
                }
                let Some(next) = self.routes.get_mut(route).waiting.pop_front() else {
                    break;
                };
                if self.entries.state(next) == Some(State::Waiting) {
                    left -= 1;
                    // Much time may have passed.
                    self.fire(next.slot);
                }
            }
        }
    }

    /// A stream is there. It gets what waits for it at once.
    pub fn connect(&mut self, id: StreamId, interest: Interest, now: Nanos) {
        self.now = self.now.max(now);
        let routes = interest
            .routes
            .iter()
            .map(|(kind, name)| self.routes.find_or_add(*kind, name))
            .collect();
        let gates: Vec<GateId> = interest
            .limits
            .into_iter()
            .map(|limit| self.gates.state(limit))
            .collect();
        let stream = Stream {
            routes,
            gates,
            pending: std::collections::HashMap::new(),
            last_id: 0,
            capacity: interest.capacity,
        };
        let stated = stream.gates.clone();
        self.routes.connect(id, stream);
        self.fill(id, usize::MAX);
        // It may have stated more than those before it.
        for gate in stated {
            self.let_through(gate);
        }
    }

    /// A stream is gone. What it did not answer goes to another one, or waits.
    pub fn disconnect(&mut self, id: StreamId) {
        let Some(stream) = self.routes.disconnect(id) else {
            return;
        };
        let mut unanswered: Vec<(u64, Pending)> = stream.pending.into_iter().collect();
        unanswered.sort_unstable_by_key(|(id, _)| *id);
        let mut again = Vec::new();
        for (_, pending) in unanswered {
            self.leave_gates(pending);
            if self.entries.state(pending.ticket) == Some(State::InFlight) {
                again.push(pending.ticket.slot);
            }
        }
        for gate in stream.gates {
            for ticket in self.gates.withdraw(gate) {
                self.metrics.pending(self.gates.key(gate), -1);
                if self.entries.state(ticket) == Some(State::Gated) {
                    again.push(ticket.slot);
                }
            }
        }
        for slot in again {
            let entry = self.entries.get_mut(slot);
            entry.generation = entry.generation.wrapping_add(1);
            if self.is_mine(slot) {
                self.dispatch(slot);
            } else {
                self.sleep(slot);
            }
        }
        for route in stream.routes {
            self.routes.release(route);
        }
    }

    /// Jobs that change while they wait leave void tickets behind.
    fn sweep_waiting(&mut self, ticket: Ticket) {
        let route = self.entries.get(ticket.slot).route;
        let entries = &self.entries;
        let route = self.routes.get_mut(route);
        if route.waiting.len() > 2 * route.jobs + 64 {
            route
                .waiting
                .retain(|ticket| entries.state(*ticket) == Some(State::Waiting));
        }
    }

    /// The oldest time since which a stream has not answered, for tests and logs.
    pub fn oldest_unanswered(&self) -> Option<Nanos> {
        self.routes
            .streams
            .values()
            .flat_map(|stream| stream.pending.values().map(|pending| pending.since))
            .min()
    }
}
