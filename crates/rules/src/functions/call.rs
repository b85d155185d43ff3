//! Calling functions.

use std::borrow::Cow;

use super::{Function, convert, time};
use crate::pattern;
use crate::value::Value;

pub(crate) const NO_OVERLOAD: &str = "no such overload";

/// Calls a function.
///
/// # Errors
/// In words like those of CEL's reference.
pub(crate) fn call<'a>(function: Function, arguments: &[Value<'a>]) -> Result<Value<'a>, String> {
    match (function, arguments) {
        (Function::Size, [value]) => size(value),
        (Function::Contains, [Value::Text(text), Value::Text(part)]) => {
            Ok(Value::Bool(text.contains(part.as_ref())))
        }
        (Function::StartsWith, [Value::Text(text), Value::Text(part)]) => {
            Ok(Value::Bool(text.starts_with(part.as_ref())))
        }
        (Function::EndsWith, [Value::Text(text), Value::Text(part)]) => {
            Ok(Value::Bool(text.ends_with(part.as_ref())))
        }
        (Function::Matches, [Value::Text(text), Value::Text(part)]) => {
            Ok(Value::Bool(pattern::compile(part)?.is_match(text)))
        }
        (Function::Part(part), [value]) => time::part(part, value, None),
        (Function::Part(part), [value, Value::Text(zone)]) => time::part(part, value, Some(zone)),
        (Function::ToInt, [value]) => convert::to_int(value),
        (Function::ToUint, [value]) => convert::to_uint(value),
        (Function::ToDouble, [value]) => convert::to_double(value),
        (Function::ToBool, [value]) => convert::to_bool(value),
        (Function::ToText, [value]) => convert::to_text(value),
        (Function::ToBytes, [value]) => convert::to_bytes(value),
        (Function::ToDuration, [value]) => time::to_duration(value),
        (Function::ToTimestamp, [value]) => time::to_timestamp(value),
        (Function::ToType, [value]) => Ok(Value::Type(value.type_name())),
        (Function::ToDyn, [value]) => Ok(value.clone()),
        _ => Err(NO_OVERLOAD.to_owned()),
    }
}

/// Characters of a string, bytes of bytes, elements of a container.
fn size<'a>(value: &Value<'a>) -> Result<Value<'a>, String> {
    let size = match value {
        Value::Text(text) => text.chars().count(),
        Value::Bytes(bytes) => bytes.len(),
        container => container.len().ok_or(NO_OVERLOAD)?,
    };
    Ok(Value::Int(i64::try_from(size).unwrap_or(i64::MAX)))
}

/// A text of our own.
pub(super) fn text<'a>(text: impl Into<String>) -> Value<'a> {
    Value::Text(Cow::Owned(text.into()))
}
