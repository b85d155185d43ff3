//! The circuit breaker: closed, open, half-open (contract `config-resources`, section 9.2).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub use crate::trip::{Counts, Trip};

/// State of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls go through and are counted.
    Closed,
    /// No call goes through.
    Open,
    /// A few calls go through to probe.
    HalfOpen,
}

impl BreakerState {
    /// The spelling of metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// What all breakers of one policy have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct BreakerTemplate {
    /// Probes while half-open, and successes that close it again; at least 1.
    pub max_requests: u32,
    /// How often counts are cleared while closed; zero = never.
    pub interval: Duration,
    /// How long it stays open.
    pub timeout: Duration,
    /// What opens it; `None` = more than five failures in a row.
    pub trip: Option<Trip>,
}

impl BreakerTemplate {
    fn trips(&self, counts: &Counts) -> bool {
        match &self.trip {
            Some(trip) => trip.is_met(counts),
            None => counts.consecutive_failures > 5,
        }
    }
}

/// Why a breaker lets no call through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is open.
    Open,
    /// It is half-open and its probes are under way.
    TooManyRequests,
}

/// One breaker. Shared by all calls to the same target.
#[derive(Debug)]
pub struct CircuitBreaker {
    name: String,
    template: Arc<BreakerTemplate>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: BreakerState,
    /// Counts calls of earlier states out: their results do not matter any more.
    generation: u64,
    counts: Counts,
    /// When counts are cleared (closed) or probing begins (open).
    expiry: Option<Instant>,
}

/// A call that a breaker let through. Dropped without a result it counts as a failure, so that a probe that is given
/// up does not hold its place for ever.
#[derive(Debug)]
pub struct Permit {
    breaker: Arc<CircuitBreaker>,
    generation: u64,
    state: BreakerState,
    reported: bool,
}

impl CircuitBreaker {
    /// A closed breaker.
    pub fn new(name: impl Into<String>, template: Arc<BreakerTemplate>) -> Self {
        let mut inner = Inner {
            state: BreakerState::Closed,
            generation: 0,
            counts: Counts::default(),
            expiry: None,
        };
        inner.start_generation(&template, Instant::now());
        Self {
            name: name.into(),
            template,
            inner: Mutex::new(inner),
        }
    }

    /// Its name, for logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The state now.
    pub fn state(&self) -> BreakerState {
        self.current().state
    }

    /// What it has counted in its present state.
    pub fn counts(&self) -> Counts {
        self.current().counts
    }

    /// Asks for one call.
    ///
    /// # Errors
    /// If the breaker lets no call through.
    pub fn acquire(self: &Arc<Self>) -> Result<Permit, Refusal> {
        let mut inner = self.current();
        match inner.state {
            BreakerState::Open => return Err(Refusal::Open),
            BreakerState::HalfOpen if inner.counts.requests >= self.template.max_requests => {
                return Err(Refusal::TooManyRequests);
            }
            _ => {}
        }
        inner.counts.requests = inner.counts.requests.saturating_add(1);
        Ok(Permit {
            breaker: Arc::clone(self),
            generation: inner.generation,
            state: inner.state,
            reported: false,
        })
    }

    /// The inner state after what time alone has changed.
    fn current(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if inner.expiry.is_some_and(|expiry| expiry < now) {
            match inner.state {
                BreakerState::Closed => inner.start_generation(&self.template, now),
                BreakerState::Open => self.change(&mut inner, BreakerState::HalfOpen),
                BreakerState::HalfOpen => {}
            }
        }
        inner
    }

    fn change(&self, inner: &mut Inner, state: BreakerState) {
        tracing::info!(
            "Circuit breaker {:?} changed state from {} to {}",
            self.name,
            inner.state.name(),
            state.name()
        );
        inner.state = state;
        inner.start_generation(&self.template, Instant::now());
    }

    fn report(&self, generation: u64, success: bool) {
        let mut inner = self.current();
        if inner.generation != generation {
            return;
        }
        let counts = &mut inner.counts;
        if success {
            counts.total_successes = counts.total_successes.saturating_add(1);
            counts.consecutive_successes = counts.consecutive_successes.saturating_add(1);
            counts.consecutive_failures = 0;
            let is_well = counts.consecutive_successes >= self.template.max_requests;
            if inner.state == BreakerState::HalfOpen && is_well {
                self.change(&mut inner, BreakerState::Closed);
            }
            return;
        }
        counts.total_failures = counts.total_failures.saturating_add(1);
        counts.consecutive_failures = counts.consecutive_failures.saturating_add(1);
        counts.consecutive_successes = 0;
        let opens = match inner.state {
            BreakerState::Closed => self.template.trips(&inner.counts),
            BreakerState::HalfOpen => true,
            BreakerState::Open => false,
        };
        if opens {
            self.change(&mut inner, BreakerState::Open);
        }
    }
}

impl Inner {
    fn start_generation(&mut self, template: &BreakerTemplate, now: Instant) {
        self.generation += 1;
        self.counts = Counts::default();
        self.expiry = match self.state {
            BreakerState::Closed if template.interval.is_zero() => None,
            BreakerState::Closed => Some(now + template.interval),
            BreakerState::Open => Some(now + template.timeout),
            BreakerState::HalfOpen => None,
        };
    }
}

impl Permit {
    /// The breaker's state when the call was let through.
    pub const fn state_before(&self) -> BreakerState {
        self.state
    }

    /// The call's result.
    pub fn report(mut self, success: bool) {
        self.reported = true;
        self.breaker.report(self.generation, success);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.reported {
            self.breaker.report(self.generation, false);
        }
    }
}

#[cfg(test)]
mod tests;
