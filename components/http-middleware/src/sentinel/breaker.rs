//! A circuit breaker rule at work.

use std::time::Duration;

use tokio::time::Instant;

use super::rules::BreakerRule;
use super::window::Window;

pub(super) struct Breaker {
    rule: BreakerRule,
    all: Window,
    /// Slow ones or errors.
    bad: Window,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    /// Nothing passes before that moment.
    Open(Instant),
    /// One request is on its way to find out.
    Probing,
}

/// What a breaker says to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Free,
    /// It is the one that finds out.
    Probe,
    Refused,
}

impl Breaker {
    pub(super) fn new(rule: BreakerRule, now: Instant) -> Self {
        let interval = Duration::from_millis(rule.stat_interval_ms.into());
        Self {
            all: Window::new(interval, 1, now),
            bad: Window::new(interval, 1, now),
            state: State::Closed,
            rule,
        }
    }

    pub(super) fn admits(&mut self, now: Instant) -> Admission {
        match self.state {
            State::Closed => Admission::Free,
            State::Open(until) if now >= until => {
                self.state = State::Probing;
                Admission::Probe
            }
            State::Open(_) | State::Probing => Admission::Refused,
        }
    }

    /// The probe did not go out after all: another rule blocked it. The next request tries. Only whoever was admitted
    /// as the probe may give it back.
    pub(super) fn give_probe_back(&mut self, now: Instant) {
        if self.state == State::Probing {
            self.state = State::Open(now);
        }
    }

    fn opened(&self, now: Instant) -> State {
        State::Open(now + Duration::from_millis(self.rule.retry_timeout_ms.into()))
    }

    pub(super) fn completed(&mut self, now: Instant, took: Duration, failed: bool) {
        let bad = match self.rule.strategy {
            0 => took.as_millis() > u128::from(self.rule.max_allowed_rt_ms),
            _ => failed,
        };
        self.all.add(now, 1.0);
        if bad {
            self.bad.add(now, 1.0);
        }
        match self.state {
            State::Open(_) => {}
            State::Probing if bad => self.state = self.opened(now),
            State::Probing => {
                self.state = State::Closed;
                self.all.clear();
                self.bad.clear();
            }
            State::Closed => {
                if self.is_too_much(now) {
                    self.state = self.opened(now);
                }
            }
        }
    }

    fn is_too_much(&self, now: Instant) -> bool {
        let (all, bad) = (self.all.sum(now), self.bad.sum(now));
        #[allow(clippy::cast_precision_loss)]
        if all < self.rule.min_request_amount as f64 || bad == 0.0 {
            return false;
        }
        match self.rule.strategy {
            2 => bad >= self.rule.threshold,
            // A ratio of one cannot be exceeded, so it is enough to reach it.
            _ => bad / all > self.rule.threshold || (self.rule.threshold >= 1.0 && bad >= all),
        }
    }
}
