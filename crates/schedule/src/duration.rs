//! Durations and points in time as Dapr's timers, reminders and jobs write them: ISO 8601 (`P1DT2H`, with
//! repetitions `R5/PT30S`), Go durations (`1h30m`) and RFC 3339. The quirks are the reference's, since stored jobs
//! depend on them: unknown letters and numbers without a unit are passed over, months and years overwrite, weeks and
//! days add up, and hours, minutes and seconds wrap around at 64 bits.

use jiff::Timestamp;
use outrigger_model::GoDuration;
use thiserror::Error;

use crate::calendar::{add_date, add_nanos};
use crate::rfc3339::parse_rfc3339;

/// A duration in parts that cannot be added up without a date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurationParts {
    /// Years.
    pub years: i64,
    /// Months.
    pub months: i64,
    /// Days; a week is seven.
    pub days: i64,
    /// Hours and less, in nanoseconds.
    pub nanos: i64,
    /// How often it repeats; -1 = not said.
    pub repetitions: i64,
    /// Whether `nanos` wrapped around because the text asks for more than about 292 years in hours or less.
    pub overflowed: bool,
}

/// Why a text is no duration or point in time, in the reference's words.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TimeError {
    /// Not an ISO 8601 duration.
    #[error("unsupported ISO8601 duration format: {0}")]
    Iso(String),
    /// Neither an ISO 8601 nor a Go duration.
    #[error("unsupported duration format: {0}")]
    Duration(String),
    /// Neither a duration nor an RFC 3339 time.
    #[error("unsupported time/duration format: {0}")]
    Time(String),
    /// Repetitions where a single point in time is meant.
    #[error("repetitions are not allowed")]
    Repetitions,
    /// A point in time beyond the year 9999.
    #[error("time is out of range: {0}")]
    OutOfRange(String),
}

impl DurationParts {
    const NONE: Self = Self {
        years: 0,
        months: 0,
        days: 0,
        nanos: 0,
        repetitions: -1,
        overflowed: false,
    };

    /// Reads an ISO 8601 duration.
    ///
    /// # Errors
    /// [`TimeError::Iso`].
    pub fn parse_iso8601(text: &str) -> Result<Self, TimeError> {
        parse_iso(text).ok_or_else(|| TimeError::Iso(text.to_owned()))
    }

    /// Reads an ISO 8601 or else a Go duration.
    ///
    /// # Errors
    /// [`TimeError::Duration`].
    pub fn parse(text: &str) -> Result<Self, TimeError> {
        if let Some(parts) = parse_iso(text) {
            return Ok(parts);
        }
        match GoDuration::parse(text) {
            Ok(duration) => Ok(Self {
                nanos: duration.as_nanos(),
                ..Self::NONE
            }),
            Err(_) => Err(TimeError::Duration(text.to_owned())),
        }
    }

    /// The time this long after `start`, with calendar arithmetic in UTC; `None` beyond the year 9999.
    pub fn after(&self, start: Timestamp) -> Option<Timestamp> {
        add_nanos(add_date(start, self.years, self.months, self.days)?, self.nanos)
    }
}

/// Reads a point in time: a duration counted from `start`, or an RFC 3339 time.
///
/// # Errors
/// If it is none of these, has repetitions, or lies beyond the year 9999.
pub fn parse_point_in_time(text: &str, start: Timestamp) -> Result<Timestamp, TimeError> {
    match DurationParts::parse(text) {
        Ok(parts) if parts.repetitions != -1 => Err(TimeError::Repetitions),
        Ok(parts) => parts
            .after(start)
            .ok_or_else(|| TimeError::OutOfRange(text.to_owned())),
        Err(_) => parse_rfc3339(text).ok_or_else(|| TimeError::Time(text.to_owned())),
    }
}

fn parse_iso(text: &str) -> Option<DurationParts> {
    let mut parts = DurationParts::NONE;
    if text.len() < 2 {
        return None;
    }
    let mut rest = text;
    if let Some(after) = text.strip_prefix('R') {
        let (count, tail) = after.split_once('/').unwrap_or((after, ""));
        parts.repetitions = atoi(count)?;
        if tail.is_empty() {
            return Some(parts);
        }
        rest = tail;
    }
    read_units(rest.strip_prefix('P')?, &mut parts)?;
    Some(parts)
}

/// Reads what follows the `P`. Bytes that are no unit are passed over; they break the number they stand in.
fn read_units(text: &str, parts: &mut DurationParts) -> Option<()> {
    const SECOND: i64 = 1_000_000_000;
    let mut start = 0;
    let mut in_time = false;
    for (at, unit) in text.bytes().enumerate() {
        if !matches!(unit, b'T' | b'Y' | b'M' | b'W' | b'D' | b'H' | b'S') {
            continue;
        }
        if unit == b'T' {
            if start != at {
                return None;
            }
            in_time = true;
            start = at + 1;
            continue;
        }
        let belongs_to_time = matches!(unit, b'H' | b'S');
        if start == at || (unit != b'M' && belongs_to_time != in_time) {
            return None;
        }
        let number = atoi(text.get(start..at)?)?;
        match unit {
            b'Y' => parts.years = number,
            b'M' if !in_time => parts.months = number,
            b'W' => parts.days = parts.days.wrapping_add(number.wrapping_mul(7)),
            b'D' => parts.days = parts.days.wrapping_add(number),
            b'H' => parts.add_wrapping(number, 3600 * SECOND),
            b'M' => parts.add_wrapping(number, 60 * SECOND),
            _ => parts.add_wrapping(number, SECOND),
        }
        start = at + 1;
    }
    Some(())
}

impl DurationParts {
    fn add_wrapping(&mut self, number: i64, unit: i64) {
        let (product, over) = number.overflowing_mul(unit);
        let (sum, over_too) = self.nanos.overflowing_add(product);
        self.nanos = sum;
        self.overflowed |= over || over_too;
    }
}

/// Go's `strconv.Atoi`: decimal digits with an optional sign.
fn atoi(text: &str) -> Option<i64> {
    text.parse().ok()
}
