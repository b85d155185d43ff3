//! Points in time as Go's `time.Parse` reads them with the layout RFC 3339.

use jiff::Timestamp;

use crate::calendar;

/// Reads `2025-01-31T09:00:00.5Z` or with an offset such as `+05:30`. As in Go the hour may have one digit and the
/// fraction may begin with a comma; `T` and `Z` are upper case. The last 26 hours of the year 9999 become
/// [`Timestamp::MAX`].
pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let mut rest = Rest(text.as_bytes());
    let year = rest.digits(4)?;
    rest.byte(b'-')?;
    let month = rest.digits(2)?;
    rest.byte(b'-')?;
    let day = rest.digits(2)?;
    rest.byte(b'T')?;
    let hour = if rest.0.get(1).is_some_and(u8::is_ascii_digit) {
        rest.digits(2)?
    } else {
        rest.digits(1)?
    };
    rest.byte(b':')?;
    let minute = rest.digits(2)?;
    rest.byte(b':')?;
    let second = rest.digits(2)?;
    let nanos = rest.fraction()?;
    let offset = rest.offset()?;
    if !rest.0.is_empty() || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = calendar::days(year, month, day)?;
    let as_written = (year, u32::try_from(month).ok()?, u32::try_from(day).ok()?);
    if calendar::date(days) != as_written {
        return None; // such as the 30th of February
    }
    let seconds = days * calendar::DAY + hour * 3600 + minute * 60 + second - offset;
    // The last 26 hours of the year 9999, which people write for "never", are beyond the time type.
    let latest = Timestamp::MAX.as_second();
    Timestamp::new(seconds, nanos)
        .ok()
        .or_else(|| (seconds >= latest).then_some(Timestamp::MAX))
}

/// What is left to read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn byte(&mut self, expected: u8) -> Option<()> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        (*first == expected).then_some(())
    }

    fn digits(&mut self, count: usize) -> Option<i64> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        digits.iter().try_fold(0, |value, digit| {
            digit
                .is_ascii_digit()
                .then(|| value * 10 + i64::from(digit - b'0'))
        })
    }

    /// Nanoseconds after a point or comma, none if there is neither. More than nine digits are cut off.
    fn fraction(&mut self) -> Option<i32> {
        let Some(b'.' | b',') = self.0.first() else {
            return Some(0);
        };
        let digits = self.0[1..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        if digits == 0 {
            return None;
        }
        let mut nanos = 0;
        for place in 0..9 {
            let digit = self.0[1..=digits]
                .get(place)
                .map_or(0, |byte| i32::from(byte - b'0'));
            nanos = nanos * 10 + digit;
        }
        self.0 = &self.0[digits + 1..];
        Some(nanos)
    }

    /// Seconds east of UTC.
    fn offset(&mut self) -> Option<i64> {
        let (sign, rest) = self.0.split_first()?;
        self.0 = rest;
        let sign = match sign {
            b'Z' => return Some(0),
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        let hours = self.digits(2)?;
        self.byte(b':')?;
        let minutes = self.digits(2)?;
        // Go lets 24 hours and 60 minutes pass.
        (hours <= 24 && minutes <= 60).then_some(sign * (hours * 3600 + minutes * 60))
    }
}
