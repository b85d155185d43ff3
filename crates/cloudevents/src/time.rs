//! Times as Go's `time.RFC3339` writes and reads them.

use jiff::{Timestamp, ZonedDateTime, tz};

/// A time in its own zone, to the second: `2026-01-02T03:04:05+02:00`, or `Z` for UTC.
pub fn format_local(time: &ZonedDateTime) -> String {
    let mut out = time.strftime("%Y-%m-%dT%H:%M:%S").to_string();
    let seconds = time.offset().seconds();
    if seconds == 0 {
        out.push('Z');
    } else {
        let sign = if seconds < 0 { '-' } else { '+' };
        let minutes = seconds.unsigned_abs() / 60;
        out.push_str(&format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60));
    }
    out
}

/// A time in UTC, to the second.
pub fn format_utc(time: Timestamp) -> String {
    format_local(&time.to_zoned_datetime(tz::TimeZone::UTC))
}

/// Reads RFC 3339 as strictly as Go: `T` and `Z` in upper case, seconds given, fraction allowed.
pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let date_and_time = bytes.get(..19)?;
    let shape = date_and_time
        .iter()
        .zip(b"0000-00-00T00:00:00")
        .all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            other => byte == other,
        });
    let zone = bytes[19..]
        .iter()
        .copied()
        .find(|byte| !(byte.is_ascii_digit() || matches!(byte, b'.' | b',')));
    if !shape || !matches!(zone, Some(b'Z' | b'+' | b'-')) || text.contains('[') {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_carry_the_offset_of_their_zone() {
        let time: Timestamp = "2026-01-02T03:04:05.9Z".parse().unwrap();
        assert_eq!(format_utc(time), "2026-01-02T03:04:05Z");
        let east = tz::TimeZone::fixed(tz::offset(5));
        assert_eq!(
            format_local(&time.to_zoned_datetime(east)),
            "2026-01-02T08:04:05+05:00"
        );
        let west = tz::TimeZone::fixed(tz::Offset::from_seconds(-12_600).unwrap());
        assert_eq!(
            format_local(&time.to_zoned_datetime(west)),
            "2026-01-01T23:34:05-03:30"
        );
    }

    #[test]
    fn only_rfc_3339_is_read() {
        let utc = "2026-01-02T03:04:05Z".parse().ok();
        for text in ["2026-01-02T03:04:05Z", "2026-01-02T05:04:05+02:00"] {
            assert_eq!(parse_rfc3339(text), utc, "{text}");
        }
        assert!(parse_rfc3339("2026-01-02T03:04:05.123456789Z").is_some());
        for text in [
            "",
            "soon",
            "2026-01-02",
            "2026-01-02T03:04:05",
            "2026-01-02 03:04:05Z",
            "2026-01-02t03:04:05z",
            "2026-01-02T03:04Z",
            "2026-13-02T03:04:05Z",
            "2026-01-02T03:04:05+02:00[Europe/Paris]",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }
}
