//! Rules about everything that comes in, and about the machine.

use std::time::Duration;

use tokio::time::Instant;

use super::rules::SystemRule;
use super::window::Window;
use super::{PARTS, SECOND};

/// How often the machine is looked at.
const LOOK: Duration = SECOND;

pub(super) struct SystemGuard {
    rules: Vec<SystemRule>,
    passed: Window,
    completed: Window,
    /// Milliseconds of those that were completed.
    time: Window,
    running: u32,
    /// The shortest time of a request in milliseconds.
    shortest: f64,
    machine: Machine,
}

/// What the kernel tells of the machine.
#[derive(Default)]
struct Machine {
    looked: Option<Instant>,
    load: f64,
    /// Zero to one.
    used: f64,
    /// Busy and all ticks so far.
    ticks: Option<(u64, u64)>,
}

impl SystemGuard {
    pub(super) fn new(rules: Vec<SystemRule>, now: Instant) -> Self {
        let window = || Window::new(SECOND, PARTS, now);
        Self {
            rules,
            passed: window(),
            completed: window(),
            time: window(),
            running: 0,
            shortest: f64::INFINITY,
            machine: Machine::default(),
        }
    }

    pub(super) fn admits(&mut self, now: Instant) -> bool {
        if self.rules.iter().any(|rule| matches!(rule.metric_type, 0 | 4)) {
            self.machine.look(now);
        }
        self.rules.iter().all(|rule| {
            let most = rule.trigger_count;
            match rule.metric_type {
                0 => self.machine.load <= most || self.is_explained(rule, now),
                1 => self.average(now) < most || self.completed.sum(now) == 0.0,
                2 => f64::from(self.running) < most,
                3 => self.passed.sum(now) < most,
                _ => self.machine.used <= most || self.is_explained(rule, now),
            }
        })
    }

    fn average(&self, now: Instant) -> f64 {
        let completed = self.completed.sum(now);
        if completed == 0.0 {
            0.0
        } else {
            self.time.sum(now) / completed
        }
    }

    /// Whether no more runs than what is served can explain; asked only of rules that want it so.
    fn is_explained(&self, rule: &SystemRule, now: Instant) -> bool {
        if rule.strategy != 1 {
            return false;
        }
        let shortest = if self.shortest.is_finite() {
            self.shortest
        } else {
            0.0
        };
        self.running <= 1 || f64::from(self.running) <= self.completed.sum(now) * shortest / 1000.0
    }

    pub(super) fn entered(&mut self, now: Instant) {
        self.passed.add(now, 1.0);
        self.running += 1;
    }

    pub(super) fn left(&mut self, now: Instant, took: Duration) {
        let millis = took.as_secs_f64() * 1000.0;
        self.running = self.running.saturating_sub(1);
        self.completed.add(now, 1.0);
        self.time.add(now, millis);
        self.shortest = self.shortest.min(millis);
    }
}

impl Machine {
    fn look(&mut self, now: Instant) {
        if self
            .looked
            .is_some_and(|looked| now.duration_since(looked) < LOOK)
        {
            return;
        }
        self.looked = Some(now);
        // Files of the kernel: reading them does not wait for a disk.
        if let Some(load) = std::fs::read_to_string("/proc/loadavg")
            .ok()
            .and_then(|text| load_of(&text))
        {
            self.load = load;
        }
        if let Some(ticks) = std::fs::read_to_string("/proc/stat")
            .ok()
            .and_then(|text| ticks_of(&text))
        {
            if let Some((busy, all)) = self.ticks
                && ticks.1 > all
            {
                #[allow(clippy::cast_precision_loss)]
                let used = ticks.0.saturating_sub(busy) as f64 / (ticks.1 - all) as f64;
                self.used = used;
            }
            self.ticks = Some(ticks);
        }
    }
}

fn load_of(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

/// Busy and all ticks of all processors.
fn ticks_of(text: &str) -> Option<(u64, u64)> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .map_while(|tick| tick.parse().ok())
        .collect();
    // The time of guests, after the eighth, is counted in the first two already.
    let all: u64 = ticks.iter().take(8).sum();
    let idle = ticks.get(3)? + ticks.get(4).copied().unwrap_or(0);
    Some((all.saturating_sub(idle), all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(load_of("0.52 1.0 2.0 1/2 3\n"), Some(0.52));
        assert_eq!(ticks_of("cpu  10 1 5 80 4 0 0 0 3 0\ncpu0 1\n"), Some((16, 100)));
        assert_eq!(ticks_of("nonsense"), None);
    }
}
