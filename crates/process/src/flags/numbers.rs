//! Scalars as Go's `strconv` and `encoding/csv` read them, with their error texts.

use crate::quote::quote;

pub(super) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(syntax("ParseBool", text)),
    }
}

pub(super) fn parse_int(text: &str) -> Result<i64, String> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let size = i128::from(magnitude("ParseInt", text, digits)?);
    i64::try_from(if negative { -size } else { size }).map_err(|_| range("ParseInt", text))
}

pub(super) fn parse_uint(text: &str) -> Result<u64, String> {
    magnitude("ParseUint", text, text)
}

/// A number without sign; the base is in its prefix: `0x`, `0o`, `0b`, a leading `0` for octal, else decimal.
fn magnitude(function: &str, whole: &str, digits: &str) -> Result<u64, String> {
    let lower = digits.to_ascii_lowercase();
    let (radix, digits, prefixed) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..], true),
        [b'0', b'o', ..] => (8, &lower[2..], true),
        [b'0', b'b', ..] => (2, &lower[2..], true),
        [b'0', _, ..] => (8, &lower[1..], true),
        _ => (10, &lower[..], false),
    };
    // Underscores may separate digits, but only in numbers with a base prefix.
    let clean = digits.replace('_', "");
    let bad_underscore =
        digits.contains('_') && (!prefixed || digits.contains("__") || digits.ends_with('_'));
    if clean.is_empty() || bad_underscore || !clean.chars().all(|c| c.is_digit(radix)) {
        return Err(syntax(function, whole));
    }
    u64::from_str_radix(&clean, radix).map_err(|_| range(function, whole))
}

fn syntax(function: &str, text: &str) -> String {
    format!("strconv.{function}: parsing {}: invalid syntax", quote(text))
}

fn range(function: &str, text: &str) -> String {
    format!("strconv.{function}: parsing {}: value out of range", quote(text))
}

/// One CSV record: fields separated by commas, a field may be quoted, a doubled quote stands for one.
pub(super) fn parse_csv(text: &str) -> Result<Vec<String>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, tail) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                if rest[..end].contains('"') {
                    return Err("parse error: bare \" in non-quoted field".to_owned());
                }
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        fields.push(field);
        match tail.strip_prefix(',') {
            Some(next) => rest = next,
            None if tail.is_empty() => return Ok(fields),
            None => return Err("parse error: extraneous or missing \" in quoted-field".to_owned()),
        }
    }
}

fn quoted_field(mut rest: &str) -> Result<(String, &str), String> {
    let mut field = String::new();
    loop {
        let Some((before, after)) = rest.split_once('"') else {
            return Err("parse error: extraneous or missing \" in quoted-field".to_owned());
        };
        field.push_str(before);
        match after.strip_prefix('"') {
            Some(next) => {
                field.push('"');
                rest = next;
            }
            None => return Ok((field, after)),
        }
    }
}
