//! Values as Go's `encoding/json` writes them.

use crate::float::{float_json, float_six_decimals};
use crate::{Numbers, Value};

/// A value as JSON without white space; see [`write_to`].
pub fn to_vec(value: &Value, numbers: Numbers, escape_html: bool) -> Vec<u8> {
    to_string(value, numbers, escape_html).into_bytes()
}

/// A value as JSON without white space; see [`write_to`].
pub fn to_string(value: &Value, numbers: Numbers, escape_html: bool) -> String {
    let mut out = String::new();
    write_to(&mut out, value, numbers, escape_html);
    out
}

/// Appends a value as JSON without white space, object keys sorted.
///
/// `escape_html` writes `<`, `>` and `&` as `\u003c`, `\u003e` and `\u0026`, which Go's `json.Marshal` always
/// does. A number beyond the range of `float64` (see [`Value::check_floats`]) is written as it was read.
pub fn write_to(out: &mut String, value: &Value, numbers: Numbers, escape_html: bool) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(text) => write_number(out, value, text, numbers),
        Value::String(text) => write_text(out, text, escape_html, numbers),
        Value::Array(elements) => {
            out.push('[');
            for (index, element) in elements.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_to(out, element, numbers, escape_html);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            for (index, (key, member)) in members.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_text(out, key, escape_html, numbers);
                out.push(':');
                write_to(out, member, numbers, escape_html);
            }
            out.push('}');
        }
    }
}

fn write_number(out: &mut String, value: &Value, text: &str, numbers: Numbers) {
    // Up to 15 plain digits, every integer is its own shortest form.
    let plain = text.len() <= 15 && text.bytes().all(|byte| byte.is_ascii_digit());
    match (numbers, value.as_f64()) {
        (Numbers::Float64, Some(number)) if !plain => out.push_str(&float_json(number)),
        (Numbers::SixDecimals, Some(number)) if !plain => out.push_str(&float_six_decimals(number)),
        _ => out.push_str(text),
    }
}

/// The fast encoder knows fewer escapes than `encoding/json`.
fn write_text(out: &mut String, text: &str, escape_html: bool, numbers: Numbers) {
    out.push('"');
    write_escaped(out, text, escape_html, numbers == Numbers::SixDecimals);
    out.push('"');
}

/// A text as a JSON string in quotes, HTML characters escaped.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    write_string(&mut out, text, true);
    out
}

/// Appends a JSON string in quotes.
pub fn write_string(out: &mut String, text: &str, escape_html: bool) {
    out.push('"');
    write_escaped(out, text, escape_html, false);
    out.push('"');
}

/// Appends bytes as a JSON string in quotes; each byte that is part of no character becomes the escape `\ufffd`, as Go
/// writes such a string.
pub fn write_bytes_string(out: &mut String, mut bytes: &[u8], escape_html: bool) {
    out.push('"');
    while let Err(error) = std::str::from_utf8(bytes) {
        let (valid, rest) = bytes.split_at(error.valid_up_to());
        write_escaped(out, &String::from_utf8_lossy(valid), escape_html, false);
        out.push_str("\\ufffd");
        bytes = &rest[1..];
    }
    write_escaped(out, &String::from_utf8_lossy(bytes), escape_html, false);
    out.push('"');
}

fn write_escaped(out: &mut String, text: &str, escape_html: bool, fast: bool) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    let mut written = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0x08 if !fast => "\\b",
            0x0c if !fast => "\\f",
            0x00..0x20 => "",
            b'<' | b'>' | b'&' if escape_html => "",
            // U+2028 and U+2029, which JavaScript takes for line ends, begin with this byte.
            0xe2 if !fast && matches!(bytes.get(at + 1..at + 3), Some([0x80, 0xa8 | 0xa9])) => {
                out.push_str(&text[written..at]);
                out.push_str(if bytes[at + 2] == 0xa8 {
                    "\\u2028"
                } else {
                    "\\u2029"
                });
                written = at + 3;
                continue;
            }
            _ => continue,
        };
        out.push_str(&text[written..at]);
        if escape.is_empty() {
            out.push_str("\\u00");
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        } else {
            out.push_str(escape);
        }
        written = at + 1;
    }
    out.push_str(&text[written..]);
}
