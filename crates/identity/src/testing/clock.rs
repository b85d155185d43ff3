//! A clock to turn.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::clock::Clock;

/// Goes with tokio's time (which tests pause), from the real time of its making; can be set forward and back.
#[derive(Debug)]
pub struct TestClock {
    start: (SystemTime, Instant),
    ahead: Mutex<(Duration, Duration)>,
}

impl TestClock {
    /// Now is now.
    pub fn new() -> Self {
        Self {
            start: (SystemTime::now(), Instant::now()),
            ahead: Mutex::new((Duration::ZERO, Duration::ZERO)),
        }
    }

    /// Sets it forward.
    pub fn forward(&self, by: Duration) {
        self.ahead.lock().expect("no test panics in here").0 += by;
    }

    /// Sets it back.
    pub fn back(&self, by: Duration) {
        self.ahead.lock().expect("no test panics in here").1 += by;
    }
}

impl Default for TestClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TestClock {
    fn now(&self) -> SystemTime {
        let (forward, back) = *self.ahead.lock().expect("no test panics in here");
        self.start.0 + self.start.1.elapsed() + forward - back
    }
}
