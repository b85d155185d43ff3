//! The account of what was promised.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

/// Turns under way and numbers that were acknowledged.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Hosts that run a turn, by actor.
    running: BTreeMap<String, Vec<usize>>,
    /// Acknowledged numbers by actor.
    acknowledged: BTreeMap<usize, BTreeSet<u64>>,
    /// Hosts whose sidecar was frozen: their app knows nothing of it.
    excused: BTreeSet<usize>,
    problems: Vec<String>,
    turns: u64,
}

impl Ledger {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while holding this lock")
    }

    /// A turn begins in the app of a host; it ends when the guard is dropped.
    pub(super) fn turn(&self, host: usize, actor: &str) -> Turn<'_> {
        let mut state = self.state();
        let state = &mut *state;
        state.turns += 1;
        let running = state.running.entry(actor.to_owned()).or_default();
        let other = running.iter().find(|other| !state.excused.contains(other));
        if let Some(other) = other
            && !state.excused.contains(&host)
        {
            let text = format!("actor {actor} has a turn on host {host} and on host {other} at once");
            state.problems.push(text);
        }
        running.push(host);
        Turn {
            ledger: self,
            host,
            actor: actor.to_owned(),
        }
    }

    pub(super) fn excuse(&self, host: usize, is_excused: bool) {
        let mut state = self.state();
        if is_excused {
            state.excused.insert(host);
        } else {
            state.excused.remove(&host);
        }
    }

    /// A caller was told this number.
    pub fn acknowledged(&self, actor: usize, number: u64) {
        let mut state = self.state();
        if !state.acknowledged.entry(actor).or_default().insert(number) {
            let text = format!("actor {actor}: two calls were told the number {number}: one of them is lost");
            state.problems.push(text);
        }
    }

    /// How many calls of an actor were acknowledged, and the highest number told.
    #[must_use]
    pub fn account(&self, actor: usize) -> (u64, u64) {
        let state = self.state();
        let Some(numbers) = state.acknowledged.get(&actor) else {
            return (0, 0);
        };
        (numbers.len() as u64, numbers.last().copied().unwrap_or(0))
    }

    /// Turns that were begun.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.state().turns
    }

    /// Promises that were broken.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.state().problems.clone()
    }
}

/// A turn under way.
pub(super) struct Turn<'a> {
    ledger: &'a Ledger,
    host: usize,
    actor: String,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.ledger.state();
        if let Some(running) = state.running.get_mut(&self.actor)
            && let Some(at) = running.iter().position(|host| *host == self.host)
        {
            running.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_turns_at_once_and_a_number_told_twice_are_noticed() {
        let ledger = Ledger::default();
        drop(ledger.turn(0, "a"));
        let first = ledger.turn(0, "a");
        let other = ledger.turn(1, "b");
        assert_eq!(ledger.problems(), Vec::<String>::new());
        let second = ledger.turn(1, "a");
        assert_eq!(ledger.problems().len(), 1);
        drop((first, second, other));
        ledger.acknowledged(7, 1);
        ledger.acknowledged(7, 2);
        ledger.acknowledged(7, 2);
        assert_eq!(ledger.problems().len(), 2);
        assert_eq!(ledger.account(7), (2, 2));
    }

    #[test]
    fn a_host_that_was_frozen_is_excused() {
        let ledger = Ledger::default();
        ledger.excuse(0, true);
        let frozen = ledger.turn(0, "a");
        let other = ledger.turn(1, "a");
        drop((frozen, other));
        assert_eq!(ledger.problems(), Vec::<String>::new());
    }
}
