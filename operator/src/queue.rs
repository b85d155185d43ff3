//! Keys that wait to be worked on: each at most once, not before its time, never two workers on one key.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// Pauses after failures of one key.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(300));

/// See the module. Its size is bounded by the number of keys there are.
#[derive(Debug)]
pub(crate) struct Queue<K> {
    order: BTreeSet<(Instant, K)>,
    due: HashMap<K, Instant>,
    working: HashSet<K>,
    failures: HashMap<K, u32>,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self {
            order: BTreeSet::new(),
            due: HashMap::new(),
            working: HashSet::new(),
            failures: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash + Ord> Queue<K> {
    /// Has a key worked on at once, or once its worker is done.
    pub(crate) fn push(&mut self, key: K) {
        self.push_at(key, Instant::now());
    }

    fn push_at(&mut self, key: K, at: Instant) {
        if let Some(due) = self.due.get(&key) {
            if *due <= at {
                return;
            }
            self.order.remove(&(*due, key.clone()));
        }
        self.due.insert(key.clone(), at);
        if !self.working.contains(&key) {
            self.order.insert((at, key));
        }
    }

    /// When the next key is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes a key that is due; [`Queue::done`] must follow.
    pub(crate) fn take(&mut self) -> Option<K> {
        let (at, _) = self.order.first()?;
        if *at > Instant::now() {
            return None;
        }
        let (_, key) = self.order.pop_first()?;
        self.due.remove(&key);
        self.working.insert(key.clone());
        Some(key)
    }

    /// The worker of a key is done; a failure is tried again, later each time.
    pub(crate) fn done(&mut self, key: &K, is_ok: bool) {
        self.working.remove(key);
        if let Some(at) = self.due.get(key) {
            // It changed meanwhile.
            self.order.insert((*at, key.clone()));
        }
        if is_ok {
            self.failures.remove(key);
        } else {
            let failures = self.failures.entry(key.clone()).or_insert(0);
            let pause = PAUSES.0.saturating_mul(1 << (*failures).min(20)).min(PAUSES.1);
            *failures += 1;
            self.push_at(key.clone(), Instant::now() + pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_worked_on_once_at_a_time_and_again_if_it_changed_meanwhile() {
        let mut queue = Queue::default();
        queue.push("a");
        queue.push("a");
        assert_eq!(queue.take(), Some("a"));
        assert_eq!(queue.take(), None);
        queue.push("a");
        assert_eq!(queue.take(), None, "its worker is not done");
        queue.done(&"a", true);
        assert_eq!(queue.take(), Some("a"));
        queue.done(&"a", true);
        assert_eq!((queue.take(), queue.next_due()), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_tried_again_with_growing_pauses() {
        let mut queue = Queue::default();
        queue.push("a");
        let mut pauses = Vec::new();
        for _ in 0..14 {
            let key = queue.take().unwrap();
            queue.done(&key, false);
            let due = queue.next_due().unwrap();
            pauses.push(due.duration_since(Instant::now()));
            tokio::time::sleep_until(due).await;
        }
        assert_eq!(pauses[..3], [200, 400, 800].map(Duration::from_millis));
        assert_eq!(pauses.last(), Some(&Duration::from_secs(300)));
        // A change is not made to wait for the pause.
        let key = queue.take().unwrap();
        queue.done(&key, false);
        queue.push("a");
        assert_eq!(queue.take(), Some("a"));
    }
}
