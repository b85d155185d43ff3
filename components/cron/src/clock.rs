//! What time it is, and waiting for a time.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// Longest sleep before the clock is looked at again: it may have been set.
const LOOK: Duration = Duration::from_secs(30);

/// A clock: the machine's, or one that follows tokio's (virtual) time.
#[derive(Debug, Clone)]
pub struct Clock(Option<(Timestamp, Instant)>);

impl Clock {
    /// The machine's clock.
    pub const fn wall() -> Self {
        Self(None)
    }

    /// A clock that shows `start` now and goes on with tokio's time.
    pub fn starting_at(start: Timestamp) -> Self {
        Self(Some((start, Instant::now())))
    }

    pub(crate) fn now(&self) -> Timestamp {
        match self.0 {
            None => Timestamp::now(),
            Some((start, since)) => {
                let elapsed = jiff::SignedDuration::try_from(since.elapsed()).unwrap_or_default();
                start.saturating_add(elapsed).unwrap_or(Timestamp::MAX)
            }
        }
    }

    pub(crate) async fn sleep_until(&self, time: Timestamp) {
        loop {
            let left = time.duration_since(self.now());
            let Ok(left) = Duration::try_from(left) else {
                return;
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }
}

/// As Go prints a time in UTC: `2006-01-02 15:04:05.999999999 +0000 UTC`.
pub(crate) fn go_text(time: Timestamp) -> String {
    let text = time.to_string();
    let text = text.trim_end_matches('Z').replacen('T', " ", 1);
    format!("{text} +0000 UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_as_by_go() {
        let text = |time: &str| go_text(time.parse().unwrap());
        assert_eq!(text("2025-01-30T22:47:13.5Z"), "2025-01-30 22:47:13.5 +0000 UTC");
        assert_eq!(text("2025-01-30T22:47:13Z"), "2025-01-30 22:47:13 +0000 UTC");
        assert_eq!(
            text("2025-01-30T22:47:13.000000123Z"),
            "2025-01-30 22:47:13.000000123 +0000 UTC"
        );
    }
}
