//! How Go writes a `float64`.

use std::fmt::Write;

/// A finite number as `encoding/json` writes it: positional from 1e-6 to below 1e21, else with an exponent
/// of as few digits as possible (`1e-7`, `1e+21`). An infinite or undefined number, which Go refuses to
/// write, becomes `null`.
pub fn float_json(number: f64) -> String {
    let size = number.abs();
    if !number.is_finite() {
        "null".to_owned()
    } else if size != 0.0 && !(1e-6..1e21).contains(&size) {
        with_exponent(number, 1)
    } else {
        number.to_string()
    }
}

/// A number as `fmt.Sprint` writes it: positional from 1e-4 to below 1e6, else with an exponent of at least
/// two digits (`0.0001`, `1e+06`, `1.234567e+06`).
pub fn float_text(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    // Go decides by the exponent of the shortest decimal form, which rounding may have raised.
    let scientific = format!("{number:e}");
    let exponent = scientific
        .rsplit_once('e')
        .and_then(|(_, exponent)| exponent.parse::<i32>().ok())
        .unwrap_or(0);
    if !(-4..6).contains(&exponent) {
        with_exponent(number, 2)
    } else {
        number.to_string()
    }
}

/// The shortest form with a signed exponent of at least so many digits.
fn with_exponent(number: f64, digits: usize) -> String {
    let text = format!("{number:e}");
    let Some((mantissa, exponent)) = text.split_once('e') else {
        return text;
    };
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    let mut out = String::with_capacity(text.len() + 2);
    // Writing to a string cannot fail.
    let _ = write!(out, "{mantissa}e{sign}{exponent:0>digits$}");
    out
}

/// A number with at most six decimals, as the fast encoder of Dapr's Redis state store writes it. Large
/// numbers are written in full.
pub(crate) fn float_six_decimals(number: f64) -> String {
    const LARGEST_ROUNDED: f64 = 0x4ff_ffff as f64;
    const SCALE: u64 = 1_000_000;
    if !number.is_finite() || number.abs() > LARGEST_ROUNDED {
        return float_json(number);
    }
    let sign = if number < 0.0 { "-" } else { "" };
    let scaled = (number.abs() * SCALE as f64 + 0.5) as u64;
    let (whole, decimals) = (scaled / SCALE, scaled % SCALE);
    if decimals == 0 {
        return format!("{sign}{whole}");
    }
    let text = format!("{sign}{whole}.{decimals:06}");
    text.trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_floats_are_positional_in_the_middle_and_scientific_outside() {
        for (number, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (1.5, "1.5"),
            (0.1, "0.1"),
            (0.000001, "0.000001"),
            (0.0000001, "1e-7"),
            (1.5e-10, "1.5e-10"),
            (1e20, "100000000000000000000"),
            (999999999999999900000.0, "999999999999999900000"),
            (1e21, "1e+21"),
            (-1.25e300, "-1.25e+300"),
            (9007199254740993.0, "9007199254740992"),
            (f64::MAX, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
        ] {
            assert_eq!(float_json(number), text);
        }
    }

    #[test]
    fn printed_floats_turn_scientific_at_a_million() {
        for (number, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (100000.0, "100000"),
            (999999.5, "999999.5"),
            (1000000.0, "1e+06"),
            (1234567.0, "1.234567e+06"),
            (1e100, "1e+100"),
            (-2.5e-7, "-2.5e-07"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(float_text(number), text);
        }
    }

    #[test]
    fn the_redis_encoder_keeps_six_decimals() {
        for (number, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (-2.5, "-2.5"),
            (0.1234567, "0.123457"),
            (0.0000001, "0"),
            (1e21, "1e+21"),
            (83_886_080.123_456_79, "83886080.12345679"),
            (3.25, "3.25"),
            (0.000001, "0.000001"),
            (0.9999999, "1"),
        ] {
            assert_eq!(float_six_decimals(number), text, "{number}");
        }
    }
}
