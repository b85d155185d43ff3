//! The timing of a job: what a request may say, and every tick that follows from it.

use jiff::Timestamp;
use outrigger_model::GoDuration;
use thiserror::Error;

use crate::calendar::add_nanos;
use crate::cron::CronError;
use crate::duration::DurationParts;
use crate::rfc3339::parse_rfc3339;
use crate::schedule::Schedule;

/// The timing fields of a job as requested; `None` is not the same as empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JobSpec<'a> {
    /// Cron expression, name or period.
    pub schedule: Option<&'a str>,
    /// First tick: RFC 3339, Go or ISO 8601 duration.
    pub due_time: Option<&'a str>,
    /// How long it ticks, in the same forms, counted from the due time if there is one.
    pub ttl: Option<&'a str>,
    /// Number of ticks in total.
    pub repeats: Option<u32>,
}

/// Where a job's clock begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// Counted from here, without a tick here.
    Start(Timestamp),
    /// The first tick.
    DueTime(Timestamp),
}

/// A job's timing, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobTimes {
    /// Where the clock begins.
    pub begin: Begin,
    /// After this no tick.
    pub expiration: Option<Timestamp>,
    /// What recurs; `None` = once, at the due time.
    pub schedule: Option<Schedule>,
    /// Number of ticks in total.
    pub repeats: Option<u32>,
}

/// Why a job's timing is refused; the texts are the reference's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpecError {
    /// Nothing says when.
    #[error("job must have either a due time or a schedule")]
    Nothing,
    /// Several ticks of a job without a schedule.
    #[error("job must have a schedule to repeat")]
    RepeatsWithoutSchedule,
    /// No tick at all.
    #[error("defined repeats must be greater than 0")]
    NoRepeats,
    /// A lifetime of a job that ticks once.
    #[error("job must have a schedule to have a ttl")]
    TtlWithoutSchedule,
    /// The schedule does not parse.
    #[error(transparent)]
    Schedule(#[from] CronError),
    /// The due time is in none of the three forms.
    #[error("due time format not recognized")]
    DueTime,
    /// The due time is a repeating duration.
    #[error("repeats not supported for due time")]
    DueTimeRepeats,
    /// The lifetime is in none of the three forms.
    #[error("ttl format not recognized")]
    Ttl,
    /// The lifetime ends before the first tick.
    #[error("ttl must be greater than due time")]
    TtlBeforeDueTime,
    /// A time that does not fit: beyond the year 9999, or more than 292 years in hours, minutes and seconds.
    #[error("{field} is out of range: {text}")]
    OutOfRange {
        /// `due time` or `ttl`.
        field: &'static str,
        /// As requested.
        text: String,
    },
}

impl JobTimes {
    /// Checks the fields and makes relative times absolute.
    ///
    /// # Errors
    /// The first rule that is broken, in the reference's order.
    pub fn new(spec: JobSpec<'_>, now: Timestamp) -> Result<Self, SpecError> {
        let repeats = spec.repeats;
        match spec.schedule {
            None if spec.due_time.is_none() => return Err(SpecError::Nothing),
            None if repeats.is_some_and(|repeats| repeats > 1) => {
                return Err(SpecError::RepeatsWithoutSchedule);
            }
            _ if repeats == Some(0) => return Err(SpecError::NoRepeats),
            None if spec.ttl.is_some() => return Err(SpecError::TtlWithoutSchedule),
            _ => {}
        }
        let schedule = spec.schedule.map(Schedule::parse).transpose()?;
        let begin = match spec.due_time {
            Some(text) => Begin::DueTime(point("due time", text, now)?),
            None => Begin::Start(now),
        };
        let expiration = match spec.ttl {
            None => None,
            Some(text) => Some(expiration(text, begin)?),
        };
        Ok(Self {
            begin,
            expiration,
            schedule,
            repeats,
        })
    }

    /// The tick after `count` ticks, of which `last` was the last one. The expiration bounds every tick but the
    /// first, which is the caller's to check (see [`Self::has_expired`]).
    pub fn next(&self, count: u32, last: Option<Timestamp>) -> Option<Timestamp> {
        let Some(schedule) = &self.schedule else {
            return (count == 0).then_some(self.begin.time());
        };
        if self.repeats.is_some_and(|repeats| count >= repeats) {
            return None;
        }
        match (last, self.begin) {
            (None, Begin::DueTime(due)) => Some(due),
            (None, Begin::Start(start)) => schedule.next(start),
            (Some(last), _) => schedule.next(last).filter(|next| !self.has_expired(*next)),
        }
    }

    /// Whether a tick at this time would come too late.
    pub fn has_expired(&self, tick: Timestamp) -> bool {
        self.expiration.is_some_and(|expiration| tick > expiration)
    }
}

impl Begin {
    /// The point in time, whatever it means.
    pub const fn time(self) -> Timestamp {
        match self {
            Self::Start(time) | Self::DueTime(time) => time,
        }
    }
}

fn expiration(text: &str, begin: Begin) -> Result<Timestamp, SpecError> {
    let expiration = point("ttl", text, begin.time()).map_err(|error| match error {
        SpecError::OutOfRange { .. } => error,
        _ => SpecError::Ttl,
    })?;
    match begin {
        Begin::DueTime(due) if due > expiration => Err(SpecError::TtlBeforeDueTime),
        _ => Ok(expiration),
    }
}

/// RFC 3339, else a Go duration, else ISO 8601 without repetitions.
fn point(field: &'static str, text: &str, start: Timestamp) -> Result<Timestamp, SpecError> {
    let out_of_range = || SpecError::OutOfRange {
        field,
        text: text.to_owned(),
    };
    if let Some(time) = parse_rfc3339(text) {
        return Ok(time);
    }
    if let Ok(duration) = GoDuration::parse(text) {
        return add_nanos(start, duration.as_nanos()).ok_or_else(out_of_range);
    }
    let parts = DurationParts::parse_iso8601(text).map_err(|_| SpecError::DueTime)?;
    // Only a negative count means "not said".
    if parts.repetitions > 0 {
        return Err(SpecError::DueTimeRepeats);
    }
    if parts.overflowed {
        return Err(out_of_range());
    }
    parts.after(start).ok_or_else(out_of_range)
}
