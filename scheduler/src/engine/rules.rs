//! How a job ticks. Jobs with the same rules share them in memory: a million reminders have a handful.

use std::collections::HashMap;
use std::sync::Arc;

use outrigger_schedule::{CronError, Schedule, Timestamp};

use super::Nanos;
use crate::misfire::Misfire;
use crate::wire::stored::{self, failure_policy::Policy};

/// Past this many the rules that no job uses any more are dropped.
const SWEEP: usize = 1024;

/// What happens after a failed trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The tick counts as done.
    Drop,
    /// Again after a while, so many times (`None` = for ever).
    Retry {
        /// Pause before each.
        interval: Nanos,
        /// Retries after the first try.
        max: Option<u32>,
    },
}

/// How a job ticks, its beginning and end apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) schedule: Option<Schedule>,
    pub(crate) repeats: Option<u32>,
    pub(crate) failure: Failure,
    pub(crate) misfire: Misfire,
    pub(crate) concurrency_key: Option<Box<str>>,
}

/// Where a job's ticks begin and end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) begin: Nanos,
    /// Whether there is a tick at the beginning.
    pub(crate) begin_ticks: bool,
    pub(crate) expiration: Nanos,
}

impl Rules {
    /// From what is at rest.
    pub(crate) fn new(job: &stored::Job, concurrency_key: Option<&str>) -> Result<Self, CronError> {
        let spec = job.job.as_ref();
        let schedule = spec.and_then(|spec| spec.schedule.as_deref());
        let failure = match spec.and_then(|spec| spec.failure_policy.as_ref()?.policy.as_ref()) {
            Some(Policy::Constant(constant)) => Failure::Retry {
                interval: constant.interval.as_ref().map_or(0, |interval| {
                    interval
                        .seconds
                        .saturating_mul(1_000_000_000)
                        .saturating_add(i64::from(interval.nanos))
                        // The reference takes a negative pause, which is none.
                        .max(0)
                }),
                max: constant.max_retries,
            },
            Some(Policy::Drop(_)) | None => Failure::Drop,
        };
        Ok(Self {
            schedule: schedule.map(Schedule::parse).transpose()?,
            repeats: spec.and_then(|spec| spec.repeats),
            failure,
            // Checked when it was stored; what another version wrote falls back to the reference's way.
            misfire: job
                .misfire
                .as_deref()
                .and_then(|text| Misfire::parse(text).ok())
                .unwrap_or_default(),
            concurrency_key: concurrency_key.map(Into::into),
        })
    }

    /// The tick after `count` ticks, of which `last` was the last.
    pub(crate) fn next(&self, span: Span, count: u32, last: Option<Nanos>) -> Option<Nanos> {
        let tick = match &self.schedule {
            None => (count == 0).then_some(span.begin),
            Some(_) if self.repeats.is_some_and(|repeats| count >= repeats) => None,
            Some(schedule) => match last {
                None if span.begin_ticks => Some(span.begin),
                None => after(schedule, span.begin),
                Some(last) => after(schedule, last),
            },
        };
        tick.filter(|tick| *tick <= span.expiration)
    }

    /// A time from which the next tick is the first one after another time, keeping the rhythm that `tick` is part of.
    pub(crate) fn rewind(&self, tick: Nanos, time: Nanos) -> Option<Nanos> {
        match self.schedule.as_ref()? {
            Schedule::Cron(_) => Some(time),
            Schedule::Every(period) if *period <= 0 => Some(time),
            Schedule::Every(period) => {
                Some(tick.saturating_add((time.saturating_sub(tick) / period) * period))
            }
        }
    }
}

/// The schedule's tick after a time. A period that does not go forward, which other versions may have stored, ends
/// the job instead of firing for ever.
fn after(schedule: &Schedule, time: Nanos) -> Option<Nanos> {
    if matches!(schedule, Schedule::Every(period) if *period < 0) {
        return None;
    }
    let time = Timestamp::from_nanosecond(i128::from(time)).ok()?;
    Some(super::nanos(schedule.next(time)?))
}

/// The rules in use, by what they were made of.
#[derive(Debug, Default)]
pub(crate) struct Interner(HashMap<Vec<u8>, Arc<Rules>>);

impl Interner {
    /// The rules of a job.
    pub(crate) fn get(
        &mut self,
        job: &stored::Job,
        concurrency_key: Option<&str>,
    ) -> Result<Arc<Rules>, CronError> {
        let key = key(job, concurrency_key);
        if let Some(rules) = self.0.get(&key) {
            return Ok(rules.clone());
        }
        let rules = Arc::new(Rules::new(job, concurrency_key)?);
        if self.0.len() >= SWEEP && self.0.len().is_power_of_two() {
            self.0.retain(|_, rules| Arc::strong_count(rules) > 1);
        }
        self.0.insert(key, rules.clone());
        Ok(rules)
    }
}

/// What the rules depend on and nothing else.
fn key(job: &stored::Job, concurrency_key: Option<&str>) -> Vec<u8> {
    let spec = job.job.as_ref();
    let reduced = stored::Job {
        misfire: job.misfire.clone(),
        job: Some(stored::JobSpec {
            schedule: spec.and_then(|spec| spec.schedule.clone()),
            repeats: spec.and_then(|spec| spec.repeats),
            failure_policy: spec.and_then(|spec| spec.failure_policy),
            due_time: concurrency_key.map(str::to_owned),
            ..stored::JobSpec::default()
        }),
        ..stored::Job::default()
    };
    prost::Message::encode_to_vec(&reduced)
}
