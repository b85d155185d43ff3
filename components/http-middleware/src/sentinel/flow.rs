//! A flow rule at work: how many may pass in an interval, and what becomes of the others.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::rules::FlowRule;
use super::window::Window;
use super::{SECOND, Verdict};

pub(super) struct Flow {
    rule: FlowRule,
    interval: Duration,
    /// The rule's own count, if its interval is not the resource's.
    own: Option<Window>,
    warm_up: Option<WarmUp>,
    /// When the last one that queues may pass.
    last: Option<Instant>,
}

impl Flow {
    pub(super) fn new(rule: FlowRule, now: Instant) -> Self {
        let interval = match rule.stat_interval_in_ms {
            0 => SECOND,
            millis => Duration::from_millis(millis.into()),
        };
        // Sentinel shares parts of half a second where the interval is made of them.
        let millis = interval.as_millis();
        let parts = if millis % 500 == 0 && millis <= 10_000 {
            (millis / 500) as usize
        } else {
            1
        };
        Self {
            own: (interval != SECOND).then(|| Window::new(interval, parts.max(1), now)),
            warm_up: (rule.token_calculate_strategy == 1).then(|| WarmUp::new(&rule, now)),
            interval,
            rule,
            last: None,
        }
    }

    pub(super) fn counted_elsewhere(&self) -> Option<&str> {
        self.rule.counted_elsewhere()
    }

    /// Decides about one request; `referred` has the counts of other resources.
    pub(super) fn check(
        &mut self,
        now: Instant,
        passed: &Window,
        referred: &HashMap<String, f64>,
    ) -> Verdict {
        let count = match (self.rule.counted_elsewhere(), &self.own) {
            (Some(other), _) => referred.get(other).copied().unwrap_or(0.0),
            (None, Some(own)) => own.sum(now),
            (None, None) => passed.sum(now),
        };
        let allowed = match &mut self.warm_up {
            Some(warm_up) => warm_up.allowed(now),
            None => self.rule.threshold,
        };
        if self.rule.control_behavior == 1 {
            return self.queue(now, allowed);
        }
        if count + 1.0 > allowed {
            Verdict::Block
        } else {
            Verdict::Pass(Duration::ZERO)
        }
    }

    /// One after the other, at even distances.
    fn queue(&mut self, now: Instant, allowed: f64) -> Verdict {
        if allowed <= 0.0 {
            return Verdict::Block;
        }
        let distance = Duration::from_secs_f64((self.interval.as_secs_f64() / allowed).min(1e9));
        let turn = self.last.map_or(now, |last| (last + distance).max(now));
        let wait = turn.duration_since(now);
        if wait > Duration::from_millis(self.rule.max_queueing_time_ms.into()) {
            return Verdict::Block;
        }
        self.last = Some(turn);
        Verdict::Pass(wait)
    }

    /// Counts a request that passes.
    pub(super) fn count(&mut self, now: Instant) {
        if let Some(own) = &mut self.own {
            own.add(now, 1.0);
        }
        if let Some(warm_up) = &mut self.warm_up {
            warm_up.count(now);
        }
    }
}

/// A limit that grows to its full height while it is used: the colder, the more tokens are left, the slower they go.
struct WarmUp {
    threshold: f64,
    cold: f64,
    warning: f64,
    most: f64,
    slope: f64,
    tokens: f64,
    start: Instant,
    /// The second in which tokens were added last.
    second: Option<u64>,
    /// A second and how many passed in it.
    passed: (u64, f64),
}

impl WarmUp {
    fn new(rule: &FlowRule, now: Instant) -> Self {
        let cold = if rule.warm_up_cold_factor <= 1 {
            3.0
        } else {
            f64::from(rule.warm_up_cold_factor)
        };
        let period = f64::from(rule.warm_up_period_sec);
        let warning = (period * rule.threshold / (cold - 1.0)).floor();
        let most = warning + (2.0 * period * rule.threshold / (1.0 + cold)).floor();
        Self {
            threshold: rule.threshold,
            cold,
            warning,
            most,
            slope: (cold - 1.0) / rule.threshold / (most - warning),
            tokens: most,
            start: now,
            second: None,
            passed: (0, 0.0),
        }
    }

    fn count(&mut self, now: Instant) {
        let second = now.duration_since(self.start).as_secs();
        if self.passed.0 != second {
            self.passed = (second, 0.0);
        }
        self.passed.1 += 1.0;
    }

    fn allowed(&mut self, now: Instant) -> f64 {
        self.refill(now);
        if self.tokens < self.warning || self.threshold <= 0.0 || self.most <= self.warning {
            return self.threshold;
        }
        let allowed = 1.0 / ((self.tokens - self.warning) * self.slope + 1.0 / self.threshold);
        // What division leaves below a whole number would keep the resource cold for ever.
        allowed.next_up()
    }

    fn refill(&mut self, now: Instant) {
        let second = now.duration_since(self.start).as_secs();
        let Some(last) = self.second else {
            self.second = Some(second);
            return;
        };
        if second <= last {
            return;
        }
        // Of the second before this one.
        let passed = if self.passed.0 + 1 == second {
            self.passed.1
        } else {
            0.0
        };
        let is_cold = self.tokens > self.warning;
        if !is_cold || passed < self.threshold / self.cold {
            #[allow(clippy::cast_precision_loss)]
            let gained = (second - last) as f64 * self.threshold;
            self.tokens = (self.tokens + gained).min(self.most);
        }
        self.tokens = (self.tokens - passed).max(0.0);
        self.second = Some(second);
    }
}
