//! Deactivation of actors that nobody has called for a while.
//!
//! Actors stand in a heap by the time at which they would be idle if nobody called them. A call only notes its time; who
//! comes to the top of the heap too early is put back by its last call. So a call costs nothing here.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::instance::Instance;

/// An actor whose turn lasts longer than its idle time is looked at again after this long.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(crate) struct IdleQueue {
    heap: Mutex<BinaryHeap<Reverse<Entry>>>,
    /// Told when an entry comes to the top.
    sooner: Notify,
}

struct Entry {
    at: Instant,
    instance: Weak<Instance>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

impl IdleQueue {
    /// Watches an actor that has just become active.
    pub(crate) fn watch(&self, instance: &Arc<Instance>) {
        self.push(Entry {
            at: instance.last_used() + instance.hosted.config.idle_timeout,
            instance: Arc::downgrade(instance),
        });
    }

    fn push(&self, entry: Entry) {
        let mut heap = self.heap.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = heap.peek().is_none_or(|Reverse(first)| entry.at < first.at);
        heap.push(Reverse(entry));
        drop(heap);
        if is_first {
            self.sooner.notify_one();
        }
    }

    /// The next actor that is idle; its lock is closed already. Cancel-safe.
    pub(crate) async fn next(&self) -> Arc<Instance> {
        loop {
            let sooner = self.sooner.notified();
            let first = {
                let heap = self.heap.lock().unwrap_or_else(PoisonError::into_inner);
                heap.peek().map(|Reverse(first)| first.at)
            };
            match first {
                None => sooner.await,
                Some(at) if at > Instant::now() => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => {}
                        () = sooner => {}
                    }
                }
                Some(_) => {
                    if let Some(idle) = self.take_first() {
                        return idle;
                    }
                }
            }
        }
    }

    fn take_first(&self) -> Option<Arc<Instance>> {
        let Reverse(entry) = self.heap.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        let instance = entry
            .instance
            .upgrade()
            .filter(|instance| !instance.is_releasing())?;
        let due = instance.last_used() + instance.hosted.config.idle_timeout;
        let now = Instant::now();
        if due > now {
            self.push(Entry { at: due, ..entry });
            return None;
        }
        if !instance.lock.close_if_idle() {
            self.push(Entry {
                at: now + BUSY_PAUSE,
                ..entry
            });
            return None;
        }
        Some(instance)
    }
}
