//! One log line as text or JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::quote::push_quoted;

/// A field's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Bool(bool),
    /// Digits as they stand in JSON.
    Number(String),
}

impl Value {
    pub(super) fn into_text(self) -> String {
        match self {
            Self::Text(text) | Self::Number(text) => text,
            Self::Bool(value) => value.to_string(),
        }
    }
}

/// Fields, sorted by name.
#[derive(Debug, Default)]
pub(super) struct Fields(BTreeMap<String, Value>);

impl Fields {
    pub(super) fn set(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }
}

/// Now, as [`format_time`] writes it.
pub(super) fn now(zone: &TimeZone) -> String {
    format_time(Timestamp::now(), zone)
}

/// RFC 3339 in a zone, nanoseconds without trailing zeros.
fn format_time(instant: Timestamp, zone: &TimeZone) -> String {
    let local = instant.to_zoned_datetime(zone.clone());
    let mut time = local.strftime("%Y-%m-%dT%H:%M:%S").to_string();
    let nanos = local.subsec_nanosecond();
    if nanos > 0 {
        let digits = format!("{nanos:09}");
        let _ = write!(time, ".{}", digits.trim_end_matches('0'));
    }
    match local.offset().seconds() {
        0 => time.push('Z'),
        seconds => {
            let sign = if seconds < 0 { '-' } else { '+' };
            let minutes = seconds.abs() / 60;
            let _ = write!(time, "{sign}{:02}:{:02}", minutes / 60, minutes % 60);
        }
    }
    time
}

/// The zone that Go would show local times in: that of variable `TZ` (empty: UTC), else of `/etc/localtime`, else UTC.
///
/// Reads the one file: looking the zone up by name would walk the whole database, milliseconds of every start.
pub fn local_zone(tz: Option<&str>) -> TimeZone {
    let path = match tz.map(|tz| tz.trim_start_matches(':')) {
        None => Path::new("/etc/localtime").to_owned(),
        Some("") => return TimeZone::UTC,
        Some(name) if name.starts_with('/') => Path::new(name).to_owned(),
        Some(name) if name.contains("..") => return TimeZone::UTC,
        Some(name) => Path::new("/usr/share/zoneinfo").join(name),
    };
    let file = std::fs::read(path).ok();
    file.and_then(|bytes| TimeZone::tzif("Local", &bytes).ok())
        .unwrap_or(TimeZone::UTC)
}

/// `time="…" level=info msg="…" name=value …`
pub(super) fn text(fields: &Fields, time: &str, level: &str, message: &str) -> String {
    let mut line = String::with_capacity(192 + message.len());
    line.push_str("time=");
    push_value(&mut line, time);
    line.push_str(" level=");
    line.push_str(level);
    line.push_str(" msg=");
    push_value(&mut line, message);
    for (name, value) in &fields.0 {
        line.push(' ');
        line.push_str(name);
        line.push('=');
        match value {
            Value::Text(text) => push_value(&mut line, text),
            Value::Number(digits) => push_value(&mut line, digits),
            Value::Bool(value) => line.push_str(if *value { "true" } else { "false" }),
        }
    }
    line.push('\n');
    line
}

/// Quotes a value unless it is plain; an empty one is plain.
fn push_value(line: &mut String, value: &str) {
    let is_plain = value
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-._/@^+".contains(&b));
    if is_plain {
        line.push_str(value);
    } else {
        push_quoted(line, value);
    }
}

/// One JSON object with sorted keys.
pub(super) fn json(mut fields: Fields, time: &str, level: &str, message: &str) -> String {
    for (name, text) in [("time", time), ("level", level), ("msg", message)] {
        fields.set(name, Value::Text(text.to_owned()));
    }
    let mut line = String::with_capacity(224 + message.len());
    line.push('{');
    for (i, (name, value)) in fields.0.iter().enumerate() {
        if i > 0 {
            line.push(',');
        }
        push_json(&mut line, name);
        line.push(':');
        match value {
            Value::Text(text) => push_json(&mut line, text),
            Value::Number(digits) => line.push_str(digits),
            Value::Bool(value) => line.push_str(if *value { "true" } else { "false" }),
        }
    }
    line.push_str("}\n");
    line
}

/// A JSON string with Go's HTML-safe escapes.
fn push_json(line: &mut String, text: &str) {
    line.push('"');
    for c in text.chars() {
        match c {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            '\u{8}' => line.push_str("\\b"),
            '\u{c}' => line.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                let _ = write!(line, "\\u{:04x}", u32::from(c));
            }
            c => line.push(c),
        }
    }
    line.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_offset_of_the_zone_and_no_trailing_zeros() {
        let east = TimeZone::fixed(jiff::tz::Offset::from_seconds(5 * 3600 + 1800).unwrap());
        let west = TimeZone::fixed(jiff::tz::Offset::from_seconds(-3600).unwrap());
        for (instant, zone, want) in [
            (
                "2026-11-23T21:28:58.4563866Z",
                &TimeZone::UTC,
                "2026-11-23T21:28:58.4563866Z",
            ),
            ("2026-11-23T21:28:58Z", &TimeZone::UTC, "2026-11-23T21:28:58Z"),
            ("2026-11-23T21:28:58.5Z", &east, "2026-11-24T02:58:58.5+05:30"),
            (
                "2026-11-23T00:28:58.000000001Z",
                &west,
                "2026-11-22T23:28:58.000000001-01:00",
            ),
        ] {
            assert_eq!(format_time(instant.parse().unwrap(), zone), want);
        }
    }

    #[test]
    fn zones_that_do_not_exist_are_utc() {
        for tz in ["", "No/Such/Zone", "../../etc/passwd", "/etc/passwd"] {
            assert_eq!(local_zone(Some(tz)), TimeZone::UTC, "{tz}");
        }
        let instant = "2026-11-23T21:28:58Z".parse().unwrap();
        assert!(format_time(instant, &local_zone(None)).starts_with("2026-11-2"));
    }
}
