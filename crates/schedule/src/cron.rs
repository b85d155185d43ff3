//! Cron expressions with six fields: second, minute, hour, day of month, month, day of week.
//!
//! A time matches if its clock reading in the expression's zone matches. So a clock reading that a change to summer
//! time leaves out does not tick, and one that a change back repeats ticks twice.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use outrigger_model::DurationError;
use thiserror::Error;

use crate::calendar::{DAY, date, days, floor_seconds, weekday};

/// A parsed cron expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    second: u64,
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
    /// `None` is UTC, which needs no look-up.
    zone: Option<TimeZone>,
}

/// Why an expression does not parse; the texts are the reference's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CronError {
    /// Nothing there.
    #[error("empty spec string")]
    Empty,
    /// A zone and nothing after it.
    #[error("missing schedule after timezone prefix: {}", quote(.0))]
    OnlyZone(String),
    /// A zone that does not exist.
    #[error("provided bad location {0}: {1}")]
    Zone(String, String),
    /// A zone before `@every`.
    #[error("timezone prefix is not supported with @every schedules: {}", quote(.0))]
    ZoneWithPeriod(String),
    /// `@every` and something that is no Go duration.
    #[error("failed to parse duration {text}: {cause}")]
    Period {
        /// The expression.
        text: String,
        /// What is wrong with the duration.
        cause: DurationError,
    },
    /// `@` and an unknown name.
    #[error("unrecognized descriptor: {0}")]
    Name(String),
    /// Not six fields.
    #[error("expected exactly 6 fields, found {}: [{}]", .0.len(), .0.join(" "))]
    Fields(Vec<String>),
    /// A field that is wrong in itself.
    #[error("{0}")]
    Field(String),
}

/// Marks a field that was `*` or `?`: days must then match both fields instead of either.
const STAR: u64 = 1 << 63;
/// A leap day comes after at most eight years; what did not match by then never will.
const YEARS: i64 = 9;

/// Least and largest value of a field, and the names of its values from the least on.
struct Bounds {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const SECOND: Bounds = Bounds {
    min: 0,
    max: 59,
    names: &[],
};
const HOUR: Bounds = Bounds {
    min: 0,
    max: 23,
    names: &[],
};
const DAY_OF_MONTH: Bounds = Bounds {
    min: 1,
    max: 31,
    names: &[],
};
const MONTH: Bounds = Bounds {
    min: 1,
    max: 12,
    names: &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
};
const WEEKDAY: Bounds = Bounds {
    min: 0,
    max: 6,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};

impl Cron {
    /// Reads six fields or a name such as `@daily`, in a zone (`None` = UTC).
    pub(crate) fn parse_in(spec: &str, zone: Option<TimeZone>) -> Result<Self, CronError> {
        let fields: Vec<&str> = if spec.starts_with('@') {
            named(spec)
                .ok_or_else(|| CronError::Name(spec.to_owned()))?
                .split(' ')
                .collect()
        } else {
            spec.split_whitespace().collect()
        };
        let [second, minute, hour, day, month, weekday] = fields[..] else {
            return Err(CronError::Fields(fields.into_iter().map(str::to_owned).collect()));
        };
        Ok(Self {
            second: field(second, &SECOND)?,
            minute: field(minute, &SECOND)?,
            hour: field(hour, &HOUR)?,
            day: field(day, &DAY_OF_MONTH)?,
            month: field(month, &MONTH)?,
            weekday: field(weekday, &WEEKDAY)?,
            zone,
        })
    }

    /// The first time after `after` that matches; `None` if none does within nine years.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let mut from = floor_seconds(after) + 1;
        let last_year = date(from.div_euclid(DAY)).0 + YEARS;
        // Between two changes of the zone's offset the clock runs evenly.
        loop {
            let (offset, until) = self.even_stretch(from)?;
            let found = self.next_reading(from + offset, last_year)? - offset;
            match until {
                Some(until) if found >= until => from = until,
                _ => return Timestamp::from_second(found).ok(),
            }
        }
    }

    /// The zone's offset at a time, and when it changes next, in seconds.
    fn even_stretch(&self, at: i64) -> Option<(i64, Option<i64>)> {
        let Some(zone) = &self.zone else {
            return Some((0, None));
        };
        let at = Timestamp::from_second(at).ok()?;
        let change = zone.following(at).next();
        Some((
            i64::from(zone.to_offset(at).seconds()),
            change.map(|change| change.timestamp().as_second()),
        ))
    }

    /// The first clock reading not before `from` that matches, both in seconds as if in UTC.
    fn next_reading(&self, from: i64, last_year: i64) -> Option<i64> {
        let (mut day, mut time) = (from.div_euclid(DAY), from.rem_euclid(DAY));
        loop {
            let (year, month, of_month) = date(day);
            if year > last_year {
                return None;
            }
            if self.month & (1 << month) == 0 {
                (day, time) = (days(year, i64::from(month) + 1, 1)?, 0);
            } else if !self.day_matches(of_month, weekday(day)) {
                (day, time) = (day + 1, 0);
            } else if let Some(found) = self.next_time_of_day(time) {
                return Some(day * DAY + found);
            } else {
                (day, time) = (day + 1, 0);
            }
        }
    }

    const fn day_matches(&self, of_month: u32, weekday: u32) -> bool {
        let (by_month, by_week) = (
            self.day & (1 << of_month) != 0,
            self.weekday & (1 << weekday) != 0,
        );
        if (self.day | self.weekday) & STAR != 0 {
            by_month && by_week
        } else {
            by_month || by_week
        }
    }

    /// The first second of the day not before `from` that matches.
    fn next_time_of_day(&self, from: i64) -> Option<i64> {
        let (hour, minute, second) = (from / 3600, from / 60 % 60, from % 60);
        let at = |hour: i64, minute: i64, second: i64| Some(hour * 3600 + minute * 60 + second);
        if self.hour & (1 << hour) != 0 {
            if self.minute & (1 << minute) != 0
                && let Some(second) = next_bit(self.second, second)
            {
                return at(hour, minute, second);
            }
            if let Some(minute) = next_bit(self.minute, minute + 1) {
                return at(hour, minute, next_bit(self.second, 0)?);
            }
        }
        at(
            next_bit(self.hour, hour + 1)?,
            next_bit(self.minute, 0)?,
            next_bit(self.second, 0)?,
        )
    }
}

/// The lowest bit set at or above a place, the mark apart.
fn next_bit(bits: u64, from: i64) -> Option<i64> {
    let bits = bits & !STAR & u64::MAX.checked_shl(u32::try_from(from).ok()?)?;
    (bits != 0).then(|| i64::from(bits.trailing_zeros()))
}

/// Takes a prefix `TZ=<zone> ` or `CRON_TZ=<zone> ` off an expression.
pub(crate) fn split_zone(text: &str) -> Result<(Option<TimeZone>, &str), CronError> {
    let Some(after) = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) else {
        return Ok((None, text));
    };
    let Some(end) = after.find(char::is_whitespace) else {
        return Err(CronError::OnlyZone(text.to_owned()));
    };
    let (name, spec) = after.split_at(end);
    Ok((zone(name)?, spec.trim()))
}

/// The zone of a name; upper and lower case count, as they do in Go.
fn zone(name: &str) -> Result<Option<TimeZone>, CronError> {
    if matches!(name, "" | "UTC") {
        return Ok(None);
    }
    if name == "Local" {
        return Ok(Some(TimeZone::system()));
    }
    let bad = |why: String| CronError::Zone(name.to_owned(), why);
    if name.contains("..") || name.starts_with(['/', '\\']) {
        return Err(bad("time: invalid location name".to_owned()));
    }
    match TimeZone::get(name) {
        Ok(zone) if zone.iana_name() == Some(name) => Ok(Some(zone)),
        _ => Err(bad(format!("unknown time zone {name}"))),
    }
}

fn named(name: &str) -> Option<&'static str> {
    Some(match name {
        "@yearly" | "@annually" => "0 0 0 1 1 *",
        "@monthly" => "0 0 0 1 * *",
        "@weekly" => "0 0 0 * * 0",
        "@daily" | "@midnight" => "0 0 0 * * *",
        "@hourly" => "0 0 * * * *",
        _ => return None,
    })
}

/// A field: ranges with commas between them, of which empty ones are passed over.
fn field(text: &str, bounds: &Bounds) -> Result<u64, CronError> {
    text.split(',')
        .filter(|range| !range.is_empty())
        .try_fold(0, |bits, expression| Ok(bits | range(expression, bounds)?))
}

/// `*`, `?`, `number` or `number-number`, each with an optional `/step`.
fn range(text: &str, bounds: &Bounds) -> Result<u64, CronError> {
    let fail = |text: String| Err(CronError::Field(text));
    let (span, step_text) = match text.split_once('/') {
        Some((_, step)) if step.contains('/') => return fail(format!("too many slashes: {text}")),
        Some((span, step)) => (span, Some(step)),
        None => (text, None),
    };
    let (low, high) = match span.split_once('-') {
        Some((low, high)) => (low, Some(high)),
        None => (span, None),
    };
    let is_star = matches!(low, "*" | "?");
    let (start, mut end) = match high {
        _ if is_star => (bounds.min, bounds.max),
        Some(high) if high.contains('-') => {
            value(low, bounds)?;
            return fail(format!("too many hyphens: {text}"));
        }
        Some(high) => (value(low, bounds)?, value(high, bounds)?),
        None => (value(low, bounds)?, value(low, bounds)?),
    };
    let step = match step_text {
        None => 1,
        Some(step) => {
            // `5/10` goes on to the field's end.
            if high.is_none() {
                end = bounds.max;
            }
            number(step)?
        }
    };
    let Bounds { min, max, .. } = *bounds;
    if start < min {
        return fail(format!(
            "beginning of range ({start}) below minimum ({min}): {text}"
        ));
    }
    if end > max {
        return fail(format!("end of range ({end}) above maximum ({max}): {text}"));
    }
    if start > end {
        return fail(format!(
            "beginning of range ({start}) beyond end of range ({end}): {text}"
        ));
    }
    if step == 0 {
        return fail(format!("step of range should be a positive number: {text}"));
    }
    let step_by = usize::try_from(step).unwrap_or(usize::MAX);
    let bits = (start..=end)
        .step_by(step_by)
        .fold(0, |bits, at| bits | (1 << at));
    // A star with a step is an ordinary range.
    Ok(if is_star && step == 1 { bits | STAR } else { bits })
}

fn value(text: &str, bounds: &Bounds) -> Result<u32, CronError> {
    let lower = text.to_lowercase();
    match bounds.names.iter().position(|name| *name == lower) {
        Some(at) => Ok(bounds.min + u32::try_from(at).unwrap_or_default()),
        None => number(text),
    }
}

/// A number that is not negative; what is too large for a field is found there.
fn number(text: &str) -> Result<u32, CronError> {
    let fail = |why: &str| {
        CronError::Field(format!(
            "failed to parse int from {text}: strconv.Atoi: parsing {}: {why}",
            quote(text)
        ))
    };
    match text.parse::<i64>() {
        Ok(number) if number < 0 => Err(CronError::Field(format!(
            "negative number ({number}) not allowed: {text}"
        ))),
        Ok(number) => Ok(u32::try_from(number).unwrap_or(u32::MAX)),
        Err(error)
            if matches!(
                error.kind(),
                std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow
            ) =>
        {
            Err(fail("value out of range"))
        }
        Err(_) => Err(fail("invalid syntax")),
    }
}

/// Go's quoting, near enough for what can stand in an expression.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        let code = u32::from(character);
        let escaped = match character {
            '"' | '\\' => format!("\\{character}"),
            '\n' => "\\n".to_owned(),
            '\t' => "\\t".to_owned(),
            '\r' => "\\r".to_owned(),
            _ if !character.is_control() => character.to_string(),
            _ if code < 0x80 => format!("\\x{code:02x}"),
            _ => format!("\\u{code:04x}"),
        };
        out.push_str(&escaped);
    }
    out.push('"');
    out
}
