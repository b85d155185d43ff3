//! JSON text as Go's `encoding/json` writes it: keys sorted, floats in Go's form, HTML-safe escapes.

use std::fmt::Write as _;

use serde_json::Value;

/// A JSON value as Go writes it.
pub fn to_go_json(value: &Value) -> String {
    let mut out = String::new();
    write(value, &mut out);
    out
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(int), ..) => {
                let _ = write!(out, "{int}");
            }
            (_, Some(uint), _) => {
                let _ = write!(out, "{uint}");
            }
            (.., float) => out.push_str(&float_json(float.unwrap_or_default())),
        },
        Value::String(text) => write_text(text, out),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::Object(object) => {
            let mut entries: Vec<_> = object.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            out.push('{');
            for (i, (key, value)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_text(key, out);
                out.push(':');
                write(value, out);
            }
            out.push('}');
        }
    }
}

fn write_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Go's JSON form of a float: decimal between 1e-6 and 1e21, else with an exponent.
fn float_json(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        exponent_form(value, 1)
    } else {
        format!("{value}")
    }
}

/// Go's `%g` with the shortest digits: an exponent below 1e-4 and from 1e21.
pub(super) fn float_g(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e21).contains(&size) {
        exponent_form(value, 2)
    } else {
        format!("{value}")
    }
}

/// `1e+21`, `1e-07`: sign always, at least `width` digits.
fn exponent_form(value: f64, width: usize) -> String {
    let text = format!("{value:e}");
    let Some((mantissa, exponent)) = text.split_once('e') else {
        return text;
    };
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>width$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_written_as_go_writes_them() {
        for (value, want) in [
            (json!({"b": 1, "a": [true, null]}), r#"{"a":[true,null],"b":1}"#),
            (
                json!("<a&b>\n\u{1}\u{2028}é"),
                "\"\\u003ca\\u0026b\\u003e\\n\\u0001\\u2028é\"",
            ),
            (json!(1.5), "1.5"),
            (json!(1e21), "1e+21"),
            (json!(1e-7), "1e-7"),
            (json!(0.000001), "0.000001"),
            (json!(100.0), "100"),
            (json!(u64::MAX), "18446744073709551615"),
        ] {
            assert_eq!(to_go_json(&value), want);
        }
    }

    #[test]
    fn floats_as_text_have_gos_general_form() {
        for (value, want) in [
            (0.5, "0.5"),
            (1e21, "1e+21"),
            (0.00001, "1e-05"),
            (123_456_789.0, "123456789"),
            (0.0001, "0.0001"),
        ] {
            assert_eq!(float_g(value), want);
        }
    }
}
