//! How long this sidecar may act without a word from the placement service (docs/ACTORS.md, "Lease").

use std::time::Duration;

use tokio::time::Instant;

use crate::routing::{Lease, Routing};
use crate::seams::Heard;

/// Go's service pings every 1 to 10 s; after this long its pace is known.
const LEARNING: Duration = Duration::from_secs(11);
const SLOWEST: Duration = Duration::from_secs(10);
/// Go's service waits at least 1 s for the answer to a ping before it gives actors away.
const MARGIN: Duration = Duration::from_millis(900);
/// How often the pace is looked at while it is being learnt.
const SAMPLE: Duration = Duration::from_millis(250);

/// Watches over the lease of one stream.
pub(super) struct LeaseWatch {
    heard: Heard,
    length: Option<Duration>,
    learning: Option<Learning>,
}

struct Learning {
    ends: Instant,
    last: Instant,
    longest: Duration,
}

impl LeaseWatch {
    pub(super) const fn new(heard: Heard) -> Self {
        Self {
            heard,
            length: None,
            learning: None,
        }
    }

    /// The lease, once it is known.
    pub(super) const fn length(&self) -> Option<Duration> {
        self.length
    }

    /// The stream was accepted by a service that tells the lease, or by Go's, which does not.
    pub(super) fn accepted(&mut self, told: Option<Duration>, routing: &Routing) {
        match told {
            Some(length) => self.set(length, routing),
            None => {
                self.learning = Some(Learning {
                    ends: Instant::now() + LEARNING,
                    last: self.heard.last(),
                    longest: Duration::ZERO,
                });
            }
        }
    }

    fn set(&mut self, length: Duration, routing: &Routing) {
        self.length = Some(length);
        routing.set_lease(Some(Lease {
            heard: self.heard.clone(),
            length,
        }));
    }

    /// Resolves when the lease is over. Cancel-safe.
    pub(super) async fn over(&mut self, routing: &Routing) {
        loop {
            if let Some(length) = self.length {
                let end = self.heard.last() + length;
                if Instant::now() >= end {
                    return;
                }
                tokio::time::sleep_until(end).await;
                continue;
            }
            let Some(learning) = &mut self.learning else {
                return std::future::pending().await;
            };
            tokio::time::sleep(SAMPLE).await;
            if let Some(length) = learning.sample(self.heard.last()) {
                tracing::debug!(target: "dapr.runtime.actors.placement", "lease of {length:?}, by the pace of the service's pings");
                self.learning = None;
                self.set(length, routing);
            }
        }
    }
}

impl Learning {
    /// The lease, once the pace is known.
    fn sample(&mut self, last: Instant) -> Option<Duration> {
        let now = Instant::now();
        self.longest = self.longest.max(last.saturating_duration_since(self.last));
        self.last = last;
        if now < self.ends {
            return None;
        }
        // A pause that still lasts counts too: the service may ping more rarely than every few seconds.
        let longest = self.longest.max(now.saturating_duration_since(last));
        Some(longest.clamp(Duration::from_secs(1), SLOWEST) + MARGIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn learnt(every: Duration) -> Option<Duration> {
        let routing = Routing::new("a:1");
        let heard = Heard::default();
        let mut watch = LeaseWatch::new(heard.clone());
        watch.accepted(None, &routing);
        let pings = async {
            loop {
                heard.now();
                tokio::time::sleep(every).await;
            }
        };
        tokio::select! {
            () = pings => {}
            () = watch.over(&routing) => {}
            () = tokio::time::sleep(Duration::from_secs(60)) => {}
        }
        watch.length()
    }

    #[tokio::test(start_paused = true)]
    async fn the_pace_of_pings_gives_the_lease_of_a_service_that_tells_none() {
        assert_eq!(learnt(Duration::from_secs(2)).await, Some(Duration::from_millis(2900)));
        assert_eq!(learnt(Duration::from_secs(10)).await, Some(Duration::from_millis(10_900)));
        assert_eq!(learnt(Duration::from_millis(100)).await, Some(Duration::from_millis(1900)));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_lease_and_any_word_renews_it() {
        let routing = Routing::new("a:1");
        let heard = Heard::default();
        let mut watch = LeaseWatch::new(heard.clone());
        watch.accepted(Some(Duration::from_secs(3)), &routing);
        let start = Instant::now();
        let word = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            heard.now();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = word => {}
            () = watch.over(&routing) => {}
        }
        assert_eq!(start.elapsed(), Duration::from_secs(5));
    }
}
