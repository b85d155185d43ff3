//! Conversions between the plain types.

use std::borrow::Cow;

use outrigger_gojson::float_text;

use super::call::{NO_OVERLOAD, text};
use crate::value::Value;

type Converted<'a> = Result<Value<'a>, String>;

const INT_RANGE: &str = "integer overflow";
const UINT_RANGE: &str = "unsigned integer overflow";

fn bad(value: &str, kind: &str) -> String {
    format!("type conversion error from 'string' to '{kind}': {value:?}")
}

pub(super) fn to_int<'a>(value: &Value<'a>) -> Converted<'a> {
    Ok(Value::Int(match value {
        Value::Int(number) => *number,
        Value::Uint(number) => i64::try_from(*number).map_err(|_| INT_RANGE)?,
        // The bounds themselves are refused: not every double near them is an integer.
        Value::Double(number) if *number > i64::MIN as f64 && *number < i64::MAX as f64 => *number as i64,
        Value::Double(_) => return Err(INT_RANGE.to_owned()),
        Value::Text(digits) => digits.parse().map_err(|_| bad(digits, "int"))?,
        Value::Timestamp(time) => time.as_second(),
        Value::Duration(duration) => duration.as_nanos(),
        _ => return Err(NO_OVERLOAD.to_owned()),
    }))
}

pub(super) fn to_uint<'a>(value: &Value<'a>) -> Converted<'a> {
    Ok(Value::Uint(match value {
        Value::Uint(number) => *number,
        Value::Int(number) => u64::try_from(*number).map_err(|_| UINT_RANGE)?,
        Value::Double(number) if *number >= 0.0 && *number < u64::MAX as f64 => *number as u64,
        Value::Double(_) => return Err(UINT_RANGE.to_owned()),
        Value::Text(digits) if !digits.starts_with('+') => digits.parse().map_err(|_| bad(digits, "uint"))?,
        Value::Text(digits) => return Err(bad(digits, "uint")),
        _ => return Err(NO_OVERLOAD.to_owned()),
    }))
}

pub(super) fn to_double<'a>(value: &Value<'a>) -> Converted<'a> {
    Ok(Value::Double(match value {
        Value::Double(number) => *number,
        Value::Int(number) => *number as f64,
        Value::Uint(number) => *number as f64,
        Value::Text(digits) => digits.parse().map_err(|_| bad(digits, "double"))?,
        _ => return Err(NO_OVERLOAD.to_owned()),
    }))
}

pub(super) fn to_bool<'a>(value: &Value<'a>) -> Converted<'a> {
    match value {
        Value::Bool(truth) => Ok(Value::Bool(*truth)),
        Value::Text(word) => match word.as_ref() {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Value::Bool(false)),
            other => Err(bad(other, "bool")),
        },
        _ => Err(NO_OVERLOAD.to_owned()),
    }
}

pub(super) fn to_text<'a>(value: &Value<'a>) -> Converted<'a> {
    Ok(match value {
        Value::Text(_) => value.clone(),
        Value::Bool(truth) => text(truth.to_string()),
        Value::Int(number) => text(number.to_string()),
        Value::Uint(number) => text(number.to_string()),
        Value::Double(number) => text(float_text(*number)),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(decoded) => text(decoded),
            Err(_) => return Err("invalid UTF-8 in bytes, cannot convert to string".to_owned()),
        },
        Value::Timestamp(time) => text(time.to_string()),
        Value::Duration(duration) => text(format!("{}s", duration.as_nanos() as f64 / 1e9)),
        _ => return Err(NO_OVERLOAD.to_owned()),
    })
}

pub(super) fn to_bytes<'a>(value: &Value<'a>) -> Converted<'a> {
    match value {
        Value::Bytes(_) => Ok(value.clone()),
        Value::Text(text) => Ok(Value::Bytes(Cow::Owned(text.as_bytes().to_vec()))),
        _ => Err(NO_OVERLOAD.to_owned()),
    }
}
