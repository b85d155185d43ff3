//! What metrics are told (contract `observability`, section 2).

/// Told what happens. Must not block.
pub trait ActorObserver: Send + Sync + 'static {
    /// The types were reported to the placement service.
    fn reported(&self, _types: &[String]) {}

    /// The report failed.
    fn report_failed(&self, _reason: &str) {}

    /// An order came: `lock`, `update` or `unlock`.
    fn order(&self, _operation: &str) {}

    /// The app was told that an actor ends.
    fn deactivated(&self, _actor_type: &str) {}

    /// The app could not be told.
    fn deactivation_failed(&self, _actor_type: &str, _reason: &str) {}

    /// An actor moved away.
    fn rebalanced(&self, _actor_type: &str) {}

    /// Turns running or waiting changed by this number.
    fn pending_calls(&self, _actor_type: &str, _change: i64) {}

    /// Timers of a type changed by this number.
    fn timers(&self, _actor_type: &str, _change: i64) {}

    /// A timer or reminder fired.
    fn fired(&self, _actor_type: &str, _is_timer: bool, _success: bool) {}
}

/// Nobody is told.
pub(crate) struct Unobserved;

impl ActorObserver for Unobserved {}
