//! Timestamps and durations.

use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, ZonedDateTime};
use outrigger_cloudevents::parse_rfc3339;
use outrigger_model::GoDuration;

use super::TimePart;
use super::call::NO_OVERLOAD;
use crate::ast::Binary;
use crate::value::Value;

const RANGE: &str = "timestamp overflow";

pub(super) fn to_timestamp<'a>(value: &Value<'a>) -> Result<Value<'a>, String> {
    Ok(Value::Timestamp(match value {
        Value::Timestamp(time) => *time,
        Value::Int(seconds) => Timestamp::from_second(*seconds).map_err(|_| RANGE)?,
        Value::Text(text) => {
            parse_rfc3339(text).ok_or("type conversion error from 'string' to 'google.protobuf.Timestamp'")?
        }
        _ => return Err(NO_OVERLOAD.to_owned()),
    }))
}

pub(super) fn to_duration<'a>(value: &Value<'a>) -> Result<Value<'a>, String> {
    Ok(Value::Duration(match value {
        Value::Duration(duration) => *duration,
        Value::Int(nanos) => GoDuration::from_nanos(*nanos),
        Value::Text(text) => GoDuration::parse(text)
            .map_err(|_| "type conversion error from 'string' to 'google.protobuf.Duration'")?,
        _ => return Err(NO_OVERLOAD.to_owned()),
    }))
}

/// Sums and differences with times in them; `None` if there is no such operation.
pub(crate) fn arithmetic<'a>(
    operator: Binary,
    left: &Value<'a>,
    right: &Value<'a>,
) -> Option<Result<Value<'a>, String>> {
    use Value::{Duration, Timestamp as Time};
    let shift = |time: Timestamp, nanos: i64, sign: i64| {
        let nanos = nanos.checked_mul(sign).ok_or(RANGE)?;
        let moved = time
            .checked_add(SignedDuration::from_nanos(nanos))
            .map_err(|_| RANGE)?;
        Ok(Time(moved))
    };
    let duration = |nanos: Option<i64>| {
        nanos
            .map(|nanos| Duration(GoDuration::from_nanos(nanos)))
            .ok_or_else(|| "duration overflow".to_owned())
    };
    Some(match (operator, left, right) {
        (Binary::Add, Time(time), Duration(by)) | (Binary::Add, Duration(by), Time(time)) => {
            shift(*time, by.as_nanos(), 1)
        }
        (Binary::Subtract, Time(time), Duration(by)) => shift(*time, by.as_nanos(), -1),
        (Binary::Subtract, Time(a), Time(b)) => {
            duration(i64::try_from(a.as_nanosecond() - b.as_nanosecond()).ok())
        }
        (Binary::Add, Duration(a), Duration(b)) => duration(a.as_nanos().checked_add(b.as_nanos())),
        (Binary::Subtract, Duration(a), Duration(b)) => duration(a.as_nanos().checked_sub(b.as_nanos())),
        _ => return None,
    })
}

/// A part of a timestamp in a time zone (UTC unless named), or a duration in whole units.
pub(super) fn part<'a>(part: TimePart, value: &Value<'a>, zone: Option<&str>) -> Result<Value<'a>, String> {
    let number = match value {
        Value::Timestamp(time) => timestamp_part(part, &time.to_zoned_datetime(time_zone(zone)?)),
        Value::Duration(duration) if zone.is_none() => {
            let unit = match part {
                TimePart::Hours => 3_600_000_000_000,
                TimePart::Minutes => 60_000_000_000,
                TimePart::Seconds => 1_000_000_000,
                TimePart::Milliseconds => 1_000_000,
                _ => return Err(NO_OVERLOAD.to_owned()),
            };
            duration.as_nanos() / unit
        }
        _ => return Err(NO_OVERLOAD.to_owned()),
    };
    Ok(Value::Int(number))
}

fn timestamp_part(part: TimePart, time: &ZonedDateTime) -> i64 {
    match part {
        TimePart::FullYear => i64::from(time.year()),
        // Months, days of the month, of the week and of the year count from zero; only the date counts from one.
        TimePart::Month => i64::from(time.month()) - 1,
        TimePart::Date => i64::from(time.day()),
        TimePart::DayOfMonth => i64::from(time.day()) - 1,
        TimePart::DayOfWeek => i64::from(time.weekday().to_sunday_zero_offset()),
        TimePart::DayOfYear => i64::from(time.day_of_year()) - 1,
        TimePart::Hours => i64::from(time.hour()),
        TimePart::Minutes => i64::from(time.minute()),
        TimePart::Seconds => i64::from(time.second()),
        TimePart::Milliseconds => i64::from(time.millisecond()),
    }
}

/// A zone by its name, or an offset like `-02:30`.
fn time_zone(name: Option<&str>) -> Result<TimeZone, String> {
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Ok(TimeZone::UTC);
    };
    if let Some((hours, minutes)) = name.split_once(':') {
        let sign = if hours.starts_with('-') { -1 } else { 1 };
        let hours: Option<i32> = hours.trim_start_matches(['+', '-']).parse().ok();
        let minutes: Option<i32> = minutes.parse().ok();
        let seconds = match (hours, minutes) {
            (Some(hours @ 0..24), Some(minutes @ 0..60)) => Some(sign * (hours * 3600 + minutes * 60)),
            _ => None,
        };
        let offset = seconds.and_then(|seconds| Offset::from_seconds(seconds).ok());
        return offset
            .map(TimeZone::fixed)
            .ok_or_else(|| format!("unknown time zone {name}"));
    }
    TimeZone::get(name).map_err(|_| format!("unknown time zone {name}"))
}
