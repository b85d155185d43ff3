//! Durations as Go's `time` package reads and writes them: `1h30m`, `500ms`, `-1.5s`.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

/// A signed duration in nanoseconds, Go's `time.Duration`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(i64);

/// Why a text is no duration; the text is Go's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DurationError {
    /// Not of the form `<number><unit>…`, or out of range (about 292 years).
    #[error("time: invalid duration {}", quote(.0))]
    Invalid(String),
    /// A number without a unit.
    #[error("time: missing unit in duration {}", quote(.0))]
    MissingUnit(String),
    /// A unit other than `ns`, `us`, `µs`, `ms`, `s`, `m`, `h`.
    #[error("time: unknown unit {} in duration {}", quote(.unit), quote(.text))]
    UnknownUnit {
        /// The unit as written.
        unit: String,
        /// The whole text.
        text: String,
    },
}

/// Two to the power of 63: one more than the largest duration, and the size of the smallest.
const LIMIT: u64 = 1 << 63;

impl GoDuration {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// From nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds, negative for a negative duration.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// As a standard duration; `None` if negative.
    pub const fn to_std(self) -> Option<Duration> {
        if self.0 < 0 {
            None
        } else {
            Some(Duration::from_nanos(self.0.unsigned_abs()))
        }
    }

    /// As a standard duration if it is longer than nothing.
    pub const fn positive(self) -> Option<Duration> {
        if self.0 <= 0 { None } else { self.to_std() }
    }

    /// Reads a Go duration: an optional sign, then numbers with units, or a lone `0`.
    ///
    /// # Errors
    /// In Go's words.
    pub fn parse(text: &str) -> Result<Self, DurationError> {
        let invalid = || DurationError::Invalid(text.to_owned());
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let (part, tail) = parse_part(rest, text)?;
            total = total
                .checked_add(part)
                .filter(|t| *t <= LIMIT)
                .ok_or_else(invalid)?;
            rest = tail;
        }
        if negative {
            // The smallest duration has no positive counterpart.
            return Ok(Self((total as i64).wrapping_neg()));
        }
        i64::try_from(total).map(Self).map_err(|_| invalid())
    }
}

/// One number with its unit, in nanoseconds, and what follows it.
fn parse_part<'a>(rest: &'a str, text: &str) -> Result<(u64, &'a str), DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();

    let whole_len = digits(rest);
    let mut whole: u64 = 0;
    for digit in rest[..whole_len].bytes() {
        whole = whole
            .checked_mul(10)
            .and_then(|w| w.checked_add(u64::from(digit - b'0')))
            .filter(|w| *w <= LIMIT)
            .ok_or_else(invalid)?;
    }
    let mut rest = &rest[whole_len..];
    let mut fraction = "";
    if let Some(after) = rest.strip_prefix('.') {
        let len = digits(after);
        fraction = &after[..len];
        rest = &after[len..];
    }
    if whole_len == 0 && fraction.is_empty() {
        return Err(invalid());
    }
    let unit_len = rest
        .bytes()
        .position(|b| b == b'.' || b.is_ascii_digit())
        .unwrap_or(rest.len());
    if unit_len == 0 {
        return Err(DurationError::MissingUnit(text.to_owned()));
    }
    let (unit_name, rest) = rest.split_at(unit_len);
    let unit = unit_nanos(unit_name).ok_or_else(|| DurationError::UnknownUnit {
        unit: unit_name.to_owned(),
        text: text.to_owned(),
    })?;
    let nanos = whole
        .checked_mul(unit)
        .filter(|n| *n <= LIMIT)
        .ok_or_else(invalid)?
        .checked_add(fraction_nanos(fraction, unit))
        .filter(|n| *n <= LIMIT)
        .ok_or_else(invalid)?;
    Ok((nanos, rest))
}

/// Go computes the fraction in floating point, dropping digits that no longer fit.
fn fraction_nanos(digits: &str, unit: u64) -> u64 {
    let mut value: u64 = 0;
    let mut scale: f64 = 1.0;
    for digit in digits.bytes() {
        let next = value
            .checked_mul(10)
            .and_then(|v| v.checked_add(u64::from(digit - b'0')))
            .filter(|v| *v <= LIMIT);
        match next {
            Some(next) => value = next,
            None => break,
        }
        scale *= 10.0;
    }
    if value == 0 {
        return 0;
    }
    (value as f64 * (unit as f64 / scale)) as u64
}

fn unit_nanos(name: &str) -> Option<u64> {
    Some(match name {
        "ns" => 1,
        // The last two are the micro sign U+00B5 and the Greek letter mu U+03BC.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// Go's quoting in duration errors: printable ASCII as it is, the rest as `\x` bytes.
fn quote(text: &str) -> String {
    use fmt::Write as _;
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b' '..=b'\x7f' => out.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => drop(write!(out, "\\x{byte:02x}")),
        }
    }
    out.push('"');
    out
}

impl From<Duration> for GoDuration {
    /// Saturates at about 292 years.
    fn from(duration: Duration) -> Self {
        Self(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
    }
}

impl std::str::FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for GoDuration {
    /// Go's spelling: `1h30m0s`, `1.5s`, `5ms`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let (unit, name) = match nanos {
            0 => return f.write_str("0s"),
            1..1_000 => (1, "ns"),
            1_000..1_000_000 => (1_000, "\u{b5}s"),
            1_000_000..1_000_000_000 => (1_000_000, "ms"),
            _ => return format_seconds(nanos, f),
        };
        write_decimal(f, nanos / unit, nanos % unit, unit)?;
        f.write_str(name)
    }
}

fn format_seconds(nanos: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const SECOND: u64 = 1_000_000_000;
    let seconds = nanos / SECOND;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    if hours > 0 {
        write!(f, "{hours}h")?;
    }
    if hours > 0 || minutes > 0 {
        write!(f, "{minutes}m")?;
    }
    write_decimal(f, seconds % 60, nanos % SECOND, SECOND)?;
    f.write_str("s")
}

/// Writes `whole.part` where `part` counts in `1/unit`; trailing zeros and an empty fraction are left out.
fn write_decimal(f: &mut fmt::Formatter<'_>, whole: u64, part: u64, unit: u64) -> fmt::Result {
    write!(f, "{whole}")?;
    if part == 0 {
        return Ok(());
    }
    let width = unit.ilog10() as usize;
    let digits = format!("{part:0width$}");
    write!(f, ".{}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_recorded_go_duration_reads_and_prints_as_in_go() {
        let cases: serde_json::Value =
            serde_json::from_str(include_str!("../testdata/go-duration.json")).unwrap();
        let cases = cases.as_array().unwrap();
        assert!(cases.len() > 100);
        for case in cases {
            let text = case["input"]["text"].as_str().unwrap();
            let got = GoDuration::parse(text);
            match case["output"]["error"].as_str() {
                Some(error) => assert_eq!(got.unwrap_err().to_string(), error, "{text:?}"),
                None => {
                    let got = got.unwrap_or_else(|e| panic!("{text:?}: {e}"));
                    assert_eq!(
                        got.as_nanos().to_string(),
                        case["output"]["nanoseconds"],
                        "{text:?}"
                    );
                    assert_eq!(got.to_string(), case["output"]["text"], "{text:?}");
                }
            }
        }
    }

    #[test]
    fn the_smallest_duration_reads_and_one_more_does_not() {
        assert_eq!(
            GoDuration::parse("-9223372036854775808ns").unwrap().as_nanos(),
            i64::MIN
        );
        assert!(GoDuration::parse("9223372036854775808ns").is_err());
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(nanos: i64) {
            let duration = GoDuration::from_nanos(nanos);
            // Beyond 2^53 Go itself loses nanoseconds in the fraction; whole seconds survive.
            let back = GoDuration::parse(&duration.to_string()).unwrap();
            prop_assert!((i128::from(back.as_nanos()) - i128::from(nanos)).abs() <= 1);
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = GoDuration::parse(&text);
        }
    }
}
