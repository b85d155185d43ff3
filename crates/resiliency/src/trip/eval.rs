//! Evaluation. `None` is CEL's error value.

use std::cmp::Ordering;

use super::{Counts, Expr, Number, Op};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    Int(i64),
    Float(f64),
    Bool(bool),
}

pub(super) fn eval(expr: &Expr, counts: &Counts) -> Option<Value> {
    Some(match expr {
        Expr::Int(value) => Value::Int(*value),
        Expr::Float(value) => Value::Float(*value),
        Expr::Bool(value) => Value::Bool(*value),
        Expr::Name(name) => Value::Int(i64::from(count(name, counts)?)),
        Expr::Not(inner) => Value::Bool(!boolean(eval(inner, counts))?),
        Expr::Negate(inner) => match eval(inner, counts)? {
            Value::Int(value) => Value::Int(value.checked_neg()?),
            Value::Float(value) => Value::Float(-value),
            Value::Bool(_) => return None,
        },
        Expr::Convert(number, inner) => convert(*number, eval(inner, counts)?)?,
        Expr::Choose(condition, yes, no) => {
            let chosen = if boolean(eval(condition, counts))? {
                yes
            } else {
                no
            };
            return eval(chosen, counts);
        }
        Expr::Binary(op, left, right) => return binary(*op, eval(left, counts), eval(right, counts)),
    })
}

fn count(name: &str, counts: &Counts) -> Option<u32> {
    Some(match name {
        "requests" => counts.requests,
        "totalSuccesses" => counts.total_successes,
        "totalFailures" => counts.total_failures,
        "consecutiveSuccesses" => counts.consecutive_successes,
        "consecutiveFailures" => counts.consecutive_failures,
        _ => return None,
    })
}

const fn boolean(value: Option<Value>) -> Option<bool> {
    match value {
        Some(Value::Bool(value)) => Some(value),
        _ => None,
    }
}

fn convert(number: Number, value: Value) -> Option<Value> {
    Some(match (number, value) {
        (Number::Int, Value::Float(value)) if value.abs() < 9.2e18 => Value::Int(value as i64),
        (Number::Int, Value::Int(_)) | (Number::Float, Value::Float(_)) => value,
        (Number::Float, Value::Int(value)) => Value::Float(value as f64),
        _ => return None,
    })
}

fn binary(op: Op, left: Option<Value>, right: Option<Value>) -> Option<Value> {
    match op {
        // Either side may decide, even when the other is an error.
        Op::Or => return either(true, left, right),
        Op::And => return either(false, left, right),
        _ => {}
    }
    let (left, right) = (left?, right?);
    let compared = |accept: fn(Ordering) -> bool| compare(left, right).map(|o| Value::Bool(accept(o)));
    match op {
        Op::Equal => Some(Value::Bool(equal(left, right))),
        Op::NotEqual => Some(Value::Bool(!equal(left, right))),
        Op::Less => compared(Ordering::is_lt),
        Op::LessEqual => compared(Ordering::is_le),
        Op::Greater => compared(Ordering::is_gt),
        Op::GreaterEqual => compared(Ordering::is_ge),
        _ => arithmetic(op, left, right),
    }
}

fn either(deciding: bool, left: Option<Value>, right: Option<Value>) -> Option<Value> {
    let (left, right) = (boolean(left), boolean(right));
    if left == Some(deciding) || right == Some(deciding) {
        return Some(Value::Bool(deciding));
    }
    (left.is_some() && right.is_some()).then_some(Value::Bool(!deciding))
}

fn equal(left: Value, right: Value) -> bool {
    match (left, right) {
        (Value::Bool(left), Value::Bool(right)) => left == right,
        _ => compare(left, right) == Some(Ordering::Equal),
    }
}

/// Numbers compare across their types; nothing else has an order here.
fn compare(left: Value, right: Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Int(left), Value::Int(right)) => Some(left.cmp(&right)),
        (Value::Float(left), Value::Float(right)) => left.partial_cmp(&right),
        (Value::Int(left), Value::Float(right)) => (left as f64).partial_cmp(&right),
        (Value::Float(left), Value::Int(right)) => left.partial_cmp(&(right as f64)),
        _ => None,
    }
}

fn arithmetic(op: Op, left: Value, right: Value) -> Option<Value> {
    match (left, right) {
        (Value::Int(left), Value::Int(right)) => match op {
            Op::Add => left.checked_add(right),
            Op::Subtract => left.checked_sub(right),
            Op::Multiply => left.checked_mul(right),
            Op::Divide => left.checked_div(right),
            Op::Remainder => left.checked_rem(right),
            _ => None,
        }
        .map(Value::Int),
        (Value::Float(left), Value::Float(right)) => match op {
            Op::Add => Some(left + right),
            Op::Subtract => Some(left - right),
            Op::Multiply => Some(left * right),
            Op::Divide => Some(left / right),
            _ => None,
        }
        .map(Value::Float),
        _ => None,
    }
}
