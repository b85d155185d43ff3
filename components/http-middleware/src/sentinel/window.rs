//! A count over the last moments: an interval in parts of equal length, each forgotten as a whole.

use std::time::Duration;

use tokio::time::Instant;

pub(super) struct Window {
    part: Duration,
    parts: Vec<Part>,
    start: Instant,
}

#[derive(Clone, Copy)]
struct Part {
    /// Which part since the start this is; parts are reused.
    number: u128,
    count: f64,
}

impl Window {
    pub(super) fn new(interval: Duration, parts: usize, start: Instant) -> Self {
        let parts = parts.max(1);
        let part = (interval / u32::try_from(parts).unwrap_or(1)).max(Duration::from_millis(1));
        Self {
            part,
            parts: vec![
                Part {
                    number: 0,
                    count: 0.0
                };
                parts
            ],
            start,
        }
    }

    fn number(&self, now: Instant) -> u128 {
        now.duration_since(self.start).as_nanos() / self.part.as_nanos()
    }

    pub(super) fn add(&mut self, now: Instant, count: f64) {
        let number = self.number(now);
        let index = usize::try_from(number % self.parts.len() as u128).unwrap_or(0);
        let part = &mut self.parts[index];
        if part.number != number {
            *part = Part { number, count: 0.0 };
        }
        part.count += count;
    }

    /// The count of the parts that are not over.
    pub(super) fn sum(&self, now: Instant) -> f64 {
        let number = self.number(now);
        let length = self.parts.len() as u128;
        let living = self.parts.iter().filter(|part| part.number + length > number);
        living.map(|part| part.count).sum()
    }

    pub(super) fn clear(&mut self) {
        for part in &mut self.parts {
            part.count = 0.0;
        }
    }
}
