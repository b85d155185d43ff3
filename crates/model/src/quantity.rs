//! Kubernetes resource quantities: `4Mi`, `100k`, `1e3`, `500m`.

use thiserror::Error;

/// A parsed quantity: `±mantissa × 10^ten × 2^two`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantity {
    negative: bool,
    mantissa: u128,
    ten: i32,
    two: u32,
}

/// Why a text is no quantity; the texts are Kubernetes' own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum QuantityError {
    /// Not of the form number and suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// A suffix that is none of `n u m k M G T P E Ki Mi Gi Ti Pi Ei` or an exponent.
    #[error("unable to parse quantity's suffix")]
    Suffix,
    /// More digits than any real size has.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
}

impl Quantity {
    /// Reads a quantity.
    ///
    /// # Errors
    /// In Kubernetes' words.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned
            .bytes()
            .position(|b| !(b.is_ascii_digit() || b == b'.'))
            .unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(QuantityError::Format);
        }
        let (ten, two) = parse_suffix(suffix)?;
        let mut mantissa: u128 = 0;
        for digit in whole.bytes().chain(fraction.bytes()) {
            mantissa = mantissa
                .checked_mul(10)
                .and_then(|m| m.checked_add(u128::from(digit - b'0')))
                .ok_or(QuantityError::Numeric)?;
        }
        let places = i32::try_from(fraction.len()).map_err(|_| QuantityError::Numeric)?;
        Ok(Self {
            negative,
            mantissa,
            ten: ten.checked_sub(places).ok_or(QuantityError::Numeric)?,
            two,
        })
    }

    /// The value as a whole number; `None` if it is not whole or does not fit.
    pub fn to_i64(self) -> Option<i64> {
        let (quotient, rest) = self.divide()?;
        if rest { None } else { self.signed(quotient) }
    }

    /// The value rounded away from zero to a whole number; `None` if it does not fit.
    pub fn ceil_i64(self) -> Option<i64> {
        let (quotient, rest) = self.divide()?;
        self.signed(quotient.checked_add(u128::from(rest))?)
    }

    /// The size without its sign, and whether a fraction was cut off.
    fn divide(self) -> Option<(u128, bool)> {
        if self.mantissa == 0 {
            return Some((0, false));
        }
        let scaled = self.mantissa.checked_mul(1u128.checked_shl(self.two)?)?;
        let power = 10u128.checked_pow(self.ten.unsigned_abs());
        if self.ten >= 0 {
            return Some((scaled.checked_mul(power?)?, false));
        }
        match power {
            Some(power) => Some((scaled / power, !scaled.is_multiple_of(power))),
            None => Some((0, true)),
        }
    }

    fn signed(self, size: u128) -> Option<i64> {
        let size = i128::try_from(size).ok()?;
        i64::try_from(if self.negative { -size } else { size }).ok()
    }
}

/// The powers of ten and of two that a suffix stands for.
fn parse_suffix(suffix: &str) -> Result<(i32, u32), QuantityError> {
    let known = match suffix {
        "" => (0, 0),
        "n" => (-9, 0),
        "u" => (-6, 0),
        "m" => (-3, 0),
        "k" => (3, 0),
        "M" => (6, 0),
        "G" => (9, 0),
        "T" => (12, 0),
        "P" => (15, 0),
        "E" => (18, 0),
        "Ki" => (0, 10),
        "Mi" => (0, 20),
        "Gi" => (0, 30),
        "Ti" => (0, 40),
        "Pi" => (0, 50),
        "Ei" => (0, 60),
        _ => return parse_exponent(suffix),
    };
    Ok(known)
}

fn parse_exponent(suffix: &str) -> Result<(i32, u32), QuantityError> {
    let letters = suffix.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
    let tail = &suffix[letters..];
    let digits = tail.strip_prefix(['+', '-']).unwrap_or(tail);
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(QuantityError::Format);
    }
    if letters != 1 || !suffix.starts_with(['e', 'E']) {
        return Err(QuantityError::Suffix);
    }
    let exponent = tail.parse().map_err(|_| QuantityError::Suffix)?;
    Ok((exponent, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read_as_kubernetes_reads_them() {
        for (text, want) in [
            ("4Mi", Some(4 << 20)),
            ("4Ki", Some(4096)),
            ("1Gi", Some(1 << 30)),
            ("100k", Some(100_000)),
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("+5", Some(5)),
            ("1e3", Some(1000)),
            ("1E3", Some(1000)),
            ("1E", Some(1_000_000_000_000_000_000)),
            ("1.5Ki", Some(1536)),
            (".5k", Some(500)),
            ("2000m", Some(2)),
            ("1500m", None),
            ("0.5", None),
            ("100E", None),
            ("1e-1", None),
            ("0e99", Some(0)),
        ] {
            assert_eq!(Quantity::parse(text).unwrap().to_i64(), want, "{text}");
        }
    }

    #[test]
    fn fractions_round_away_from_zero() {
        for (text, want) in [("1500m", 2), ("-1500m", -2), ("1n", 1), ("1e-99", 1), ("3", 3)] {
            assert_eq!(Quantity::parse(text).unwrap().ceil_i64(), Some(want), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused_in_kubernetes_words() {
        use QuantityError::{Format, Suffix};
        for (text, want) in [
            ("", Format),
            ("-", Format),
            ("Mi", Format),
            (".", Format),
            ("1.2.3", Format),
            ("1 Mi", Format),
            ("4MB", Format),
            ("4mi", Suffix),
            ("4KI", Format),
            ("4K", Suffix),
            ("4ee5", Suffix),
            ("1e", Suffix),
        ] {
            assert_eq!(Quantity::parse(text), Err(want), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[+-]?[0-9.]{0,50}[eEinumkKMGTP]{0,3}[+-]?[0-9]{0,12}") {
            if let Ok(quantity) = Quantity::parse(&text) {
                let _ = (quantity.to_i64(), quantity.ceil_i64());
            }
        }
    }
}
