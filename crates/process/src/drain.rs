//! An orderly end in two phases: first no new work comes in while work goes on, then work in flight is waited for
//! until a deadline (contract `flags-env-annotations`, section 6.1).

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// The end of a process, shared by all its parts. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    intake: CancellationToken,
    stop: CancellationToken,
    in_flight: TaskTracker,
}

/// Work in flight; the end waits until it is dropped.
#[derive(Debug)]
pub struct InFlight {
    _token: TaskTrackerToken,
}

impl Drain {
    /// Nothing has begun to end.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when nothing new is taken in: subscriptions and bindings stop, the API still serves.
    pub const fn intake_closed(&self) -> &CancellationToken {
        &self.intake
    }

    /// Cancelled when the end begins: listeners stop, work in flight is finished.
    pub const fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// First phase.
    pub fn close_intake(&self) {
        self.intake.cancel();
    }

    /// Second phase; the first one is over with it.
    pub fn begin(&self) {
        self.intake.cancel();
        self.stop.cancel();
        self.in_flight.close();
    }

    /// Holds the end open until the value is dropped.
    pub fn hold(&self) -> InFlight {
        InFlight {
            _token: self.in_flight.token(),
        }
    }

    /// How much work is in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Waits until no work is in flight; `false` if some is left when the time is up. `None` waits for ever. Only
    /// resolves after [`Drain::begin`].
    pub async fn finished(&self, limit: Option<Duration>) -> bool {
        match limit {
            Some(limit) => tokio::time::timeout(limit, self.in_flight.wait()).await.is_ok(),
            None => {
                self.in_flight.wait().await;
                true
            }
        }
    }

    /// The first phase for at most `block`, or until `unhealthy` resolves; then the second begins.
    pub async fn block_then_begin(&self, block: Option<Duration>, unhealthy: impl Future<Output = ()>) {
        if let Some(block) = block {
            self.close_intake();
            tokio::select! {
                () = tokio::time::sleep(block) => {}
                () = unhealthy => {}
            }
        }
        self.begin();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_work_in_flight_but_not_beyond_the_limit() {
        let drain = Drain::new();
        let work = drain.hold();
        assert_eq!(drain.in_flight(), 1);
        drain.begin();
        assert!(drain.intake_closed().is_cancelled() && drain.stopping().is_cancelled());
        assert!(!drain.finished(Some(Duration::from_secs(5))).await);
        drop(work);
        assert!(drain.finished(None).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_phase_lasts_its_time_or_until_the_app_is_unhealthy() {
        for (block, unhealthy_after, want) in [
            (Some(10), 60, 10),
            (Some(10), 3, 3),
            (None, 60, 0),
            (Some(0), 60, 0),
        ] {
            let drain = Drain::new();
            let started = Instant::now();
            let unhealthy = tokio::time::sleep(Duration::from_secs(unhealthy_after));
            let block = block.map(Duration::from_secs);
            let blocking = drain.block_then_begin(block, unhealthy);
            tokio::pin!(blocking);
            if want > 0 {
                let early = tokio::time::timeout(Duration::from_secs(1), &mut blocking).await;
                assert!(early.is_err());
                assert!(drain.intake_closed().is_cancelled() && !drain.stopping().is_cancelled());
            }
            blocking.await;
            assert_eq!(started.elapsed().as_secs(), want);
            assert!(drain.stopping().is_cancelled());
        }
    }
}
