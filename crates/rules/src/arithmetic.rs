//! Calculating with values.

use std::borrow::Cow;
use std::rc::Rc;

use crate::ast::Binary;
use crate::eval::Evaluated;
use crate::functions::arithmetic_with_times;
use crate::value::Value;

pub(crate) const NO_OVERLOAD: Cow<'static, str> = Cow::Borrowed("no such overload");
pub(crate) const OVERFLOW: Cow<'static, str> = Cow::Borrowed("integer overflow");

/// `+`, `-`, `*`, `/` and `%`.
pub(crate) fn arithmetic<'a>(operator: Binary, left: &Value<'a>, right: &Value<'a>) -> Evaluated<'a> {
    use Value::{Bytes, Double, Int, Text, Uint};
    match (left, right) {
        (Int(a), Int(b)) => integers(operator, *a, *b),
        (Uint(a), Uint(b)) => unsigned(operator, *a, *b),
        (Double(a), Double(b)) => Ok(Double(match operator {
            Binary::Add => a + b,
            Binary::Subtract => a - b,
            Binary::Multiply => a * b,
            Binary::Divide => a / b,
            _ => return Err("no such overload: _%_".into()),
        })),
        (Text(a), Text(b)) if operator == Binary::Add => Ok(Text(Cow::Owned(format!("{a}{b}")))),
        (Bytes(a), Bytes(b)) if operator == Binary::Add => {
            Ok(Bytes(Cow::Owned([a.as_ref(), b.as_ref()].concat())))
        }
        _ => match (left.elements(), right.elements()) {
            (Some(a), Some(b)) if operator == Binary::Add => Ok(Value::List(Rc::new(a.chain(b).collect()))),
            _ => match arithmetic_with_times(operator, left, right) {
                Some(result) => result.map_err(Cow::Owned),
                None => Err(NO_OVERLOAD),
            },
        },
    }
}

fn integers<'a>(operator: Binary, a: i64, b: i64) -> Evaluated<'a> {
    let result = match operator {
        Binary::Add => a.checked_add(b),
        Binary::Subtract => a.checked_sub(b),
        Binary::Multiply => a.checked_mul(b),
        Binary::Divide if b == 0 => return Err("division by zero".into()),
        Binary::Divide => a.checked_div(b),
        _ if b == 0 => return Err("modulus by zero".into()),
        _ => a.checked_rem(b),
    };
    result.map(Value::Int).ok_or(OVERFLOW)
}

fn unsigned<'a>(operator: Binary, a: u64, b: u64) -> Evaluated<'a> {
    let result = match operator {
        Binary::Add => a.checked_add(b),
        Binary::Subtract => a.checked_sub(b),
        Binary::Multiply => a.checked_mul(b),
        Binary::Divide if b == 0 => return Err("division by zero".into()),
        Binary::Divide => a.checked_div(b),
        _ if b == 0 => return Err("modulus by zero".into()),
        _ => a.checked_rem(b),
    };
    result
        .map(Value::Uint)
        .ok_or(Cow::Borrowed("unsigned integer overflow"))
}
