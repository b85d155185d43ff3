//! Whether triggers flow: what readiness and liveness look at.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::store::Feed;

/// The driver turns at least twice a second. If it did not for so long, it hangs.
const STILL: Duration = Duration::from_secs(5);
/// So long writes may fail before it counts.
const WRITES: Duration = Duration::from_secs(10);

/// Signs of life of a driver.
#[derive(Debug)]
pub struct Pulse {
    start: Instant,
    /// Milliseconds since `start`.
    last_beat: AtomicU64,
    /// When writes began to fail; 0 = they do not.
    failing_since: AtomicU64,
    has_content: AtomicBool,
    jobs: AtomicUsize,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            last_beat: AtomicU64::new(0),
            failing_since: AtomicU64::new(0),
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

    pub(super) fn wrote(&self, is_ok: bool) {
        if is_ok {
            self.failing_since.store(0, Ordering::Relaxed);
        } else {
            let now = self.millis().max(1);
            let _ = self
                .failing_since
                .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Number of jobs known.
    pub fn jobs(&self) -> usize {
        self.jobs.load(Ordering::Relaxed)
    }

    /// Whether the store's content is there and writes succeed.
    pub fn store_works(&self) -> bool {
        let since = self.failing_since.load(Ordering::Relaxed);
        let is_failing = since != 0 && self.older_than(since, WRITES);
        self.has_content.load(Ordering::Relaxed) && !is_failing
    }

    /// Whether the driver turns.
    pub fn turns(&self) -> bool {
        !self.older_than(self.last_beat.load(Ordering::Relaxed), STILL)
    }

    fn older_than(&self, since: u64, age: Duration) -> bool {
        u128::from(self.millis().saturating_sub(since)) > age.as_millis()
    }
}
