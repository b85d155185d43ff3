//! Whether triggers flow: what readiness and liveness look at.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::store::Feed;

/// The driver turns at least twice a second. If it did not for so long, it hangs.
const STILL: Duration = Duration::from_secs(5);
/// So long writes may fail or hang before it counts.
const WRITES: Duration = Duration::from_secs(10);

/// Signs of life of a driver.
#[derive(Debug)]
pub struct Pulse {
    start: Instant,
    /// Milliseconds since `start`.
    last_beat: AtomicU64,
    /// Since when writes are under way of which none succeeded; 0 = there are none.
    writing_since: AtomicU64,
    has_content: AtomicBool,
    jobs: AtomicUsize,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            last_beat: AtomicU64::new(0),
            writing_since: AtomicU64::new(0),
            has_content: AtomicBool::new(false),
            jobs: AtomicUsize::new(0),
        }
    }
}

impl Pulse {
    fn millis(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn beat(&self, jobs: usize) {
        self.last_beat.store(self.millis(), Ordering::Relaxed);
        self.jobs.store(jobs, Ordering::Relaxed);
    }

    pub(super) fn loaded(&self, feed: &Feed) {
        if matches!(feed, Feed::Complete) {
            self.has_content.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn lost(&self) {
        self.has_content.store(false, Ordering::Relaxed);
    }

    /// A write begins.
    pub(super) fn writing(&self) {
        let now = self.millis().max(1);
        let _ = self
            .writing_since
            .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// A write ended while `others` are still under way. One that failed begins again.
    pub(super) fn wrote(&self, is_ok: bool, others: usize) {
        if is_ok {
            let since = if others > 0 { self.millis().max(1) } else { 0 };
            self.writing_since.store(since, Ordering::Relaxed);
        }
    }

    /// Number of jobs known.
    pub fn jobs(&self) -> usize {
        self.jobs.load(Ordering::Relaxed)
    }

    /// Whether the store's content is there and writes succeed.
    pub fn store_works(&self) -> bool {
        let since = self.writing_since.load(Ordering::Relaxed);
        let is_stuck = since != 0 && self.older_than(since, WRITES);
        self.has_content.load(Ordering::Relaxed) && !is_stuck
    }

    /// Whether the driver turns.
    pub fn turns(&self) -> bool {
        !self.older_than(self.last_beat.load(Ordering::Relaxed), STILL)
    }

    fn older_than(&self, since: u64, age: Duration) -> bool {
        u128::from(self.millis().saturating_sub(since)) > age.as_millis()
    }
}
