//! Plain scalars as Go's YAML 1.1 parser resolves them.

use super::NodeKind;

/// The value of a scalar: quoted ones and `!!str` are text, plain ones are what they look like.
pub(super) fn resolve(text: &str, plain: bool, tag: Option<&str>) -> Result<NodeKind, String> {
    match tag {
        Some("str") => Ok(NodeKind::Text(text.to_owned())),
        None if !plain => Ok(NodeKind::Text(text.to_owned())),
        None => Ok(resolve_plain(text)),
        Some(tag) => {
            with_tag(resolve_plain(text), tag).ok_or_else(|| format!("cannot read {text:?} as !!{tag}"))
        }
    }
}

fn with_tag(found: NodeKind, tag: &str) -> Option<NodeKind> {
    Some(match (tag, found) {
        ("int", kind @ (NodeKind::Int(_) | NodeKind::Uint(_)))
        | ("float", kind @ NodeKind::Float(_))
        | ("bool", kind @ NodeKind::Bool(_))
        | ("null", kind @ NodeKind::Null) => kind,
        ("float", NodeKind::Int(value)) => NodeKind::Float(value as f64),
        ("float", NodeKind::Uint(value)) => NodeKind::Float(value as f64),
        ("int" | "float" | "bool" | "null", _) => return None,
        // `!!timestamp` and tags nobody uses.
        (_, kind) => kind,
    })
}

fn resolve_plain(text: &str) -> NodeKind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return NodeKind::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return NodeKind::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return NodeKind::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return NodeKind::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return NodeKind::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return NodeKind::Float(f64::NEG_INFINITY),
        _ => {}
    }
    let number = match text.as_bytes()[0] {
        b'0'..=b'9' | b'+' | b'-' => number(&text.replace('_', "")),
        b'.' => float(text),
        _ => None,
    };
    number.unwrap_or_else(|| NodeKind::Text(text.to_owned()))
}

/// Integers with Go's base prefixes, a leading zero included, then floating point.
fn number(text: &str) -> Option<NodeKind> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, body) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    let is_integer = !body.is_empty() && body.chars().all(|c| c.is_digit(radix));
    let Some(size) = i128::from_str_radix(body, radix).ok().filter(|_| is_integer) else {
        return float(text);
    };
    let value = if negative { -size } else { size };
    if let Ok(value) = i64::try_from(value) {
        return Some(NodeKind::Int(value));
    }
    // Go reads unsigned integers without a sign only.
    match u64::try_from(value) {
        Ok(value) if !text.starts_with('+') => Some(NodeKind::Uint(value)),
        _ => float(text),
    }
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn float(text: &str) -> Option<NodeKind> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let exponent_ok = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !exponent.is_empty() && digits(exponent)
    });
    if whole.len() + fraction.len() == 0 || !digits(whole) || !digits(fraction) || !exponent_ok {
        return None;
    }
    let value: f64 = text.parse().ok()?;
    // Go refuses numbers beyond its range, so they stay text.
    value.is_finite().then_some(NodeKind::Float(value))
}

/// The text of a mapping's key, as it becomes a JSON key.
pub(super) fn key_text(kind: &NodeKind) -> Option<String> {
    match kind {
        NodeKind::Null => Some("null".to_owned()),
        _ => text_of(kind),
    }
}

/// The text of a scalar where a text is wanted.
pub(super) fn text_of(kind: &NodeKind) -> Option<String> {
    Some(match kind {
        NodeKind::Text(text) => text.clone(),
        NodeKind::Bool(value) => value.to_string(),
        NodeKind::Int(value) => value.to_string(),
        NodeKind::Uint(value) => value.to_string(),
        NodeKind::Float(value) => super::json::float_g(*value),
        NodeKind::Null => String::new(),
        NodeKind::List(_) | NodeKind::Map(_) => return None,
    })
}
