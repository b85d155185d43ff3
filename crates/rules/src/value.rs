//! Values while an expression is evaluated.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::rc::Rc;

use jiff::Timestamp;
use outrigger_gojson::Value as Json;
use outrigger_model::GoDuration;

/// A value. What comes from the event is borrowed from it.
#[derive(Debug, Clone)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    Timestamp(Timestamp),
    Duration(GoDuration),
    List(Rc<Vec<Value<'a>>>),
    JsonList(&'a [Json]),
    Map(Rc<Vec<(Value<'a>, Value<'a>)>>),
    JsonMap(&'a BTreeMap<String, Json>),
    /// A type, by its name.
    Type(&'static str),
}

impl<'a> Value<'a> {
    /// A value of the event. Its numbers are doubles.
    pub(crate) fn from_json(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(truth) => Self::Bool(*truth),
            // An event's numbers were checked when it was read.
            Json::Number(_) => Self::Double(json.as_f64().unwrap_or(f64::INFINITY)),
            Json::String(text) => Self::Text(Cow::Borrowed(text)),
            Json::Array(elements) => Self::JsonList(elements),
            Json::Object(members) => Self::JsonMap(members),
        }
    }

    /// The elements of a list, if this is one.
    pub(crate) fn elements(&self) -> Option<Elements<'_, 'a>> {
        match self {
            Self::List(elements) => Some(Elements::Built(elements.iter())),
            Self::JsonList(elements) => Some(Elements::Json(elements.iter())),
            _ => None,
        }
    }

    /// The keys of a map, if this is one.
    pub(crate) fn keys(&self) -> Option<Vec<Value<'a>>> {
        match self {
            Self::Map(entries) => Some(entries.iter().map(|(key, _)| key.clone()).collect()),
            Self::JsonMap(members) => Some(
                members
                    .keys()
                    .map(|key| Self::Text(Cow::Borrowed(key.as_str())))
                    .collect(),
            ),
            _ => None,
        }
    }

    /// How many elements or entries a container has.
    pub(crate) fn len(&self) -> Option<usize> {
        match self {
            Self::List(elements) => Some(elements.len()),
            Self::JsonList(elements) => Some(elements.len()),
            Self::Map(entries) => Some(entries.len()),
            Self::JsonMap(members) => Some(members.len()),
            _ => None,
        }
    }

    /// A map's value under a key; the outer `None` says that this is no map.
    pub(crate) fn lookup(&self, key: &Self) -> Option<Option<Self>> {
        match self {
            Self::Map(entries) => {
                let entry = entries.iter().find(|(name, _)| name.equals(key));
                Some(entry.map(|(_, value)| value.clone()))
            }
            Self::JsonMap(members) => Some(match key {
                Self::Text(name) => members.get(name.as_ref()).map(Self::from_json),
                _ => None,
            }),
            _ => None,
        }
    }

    /// Like [`Value::lookup`] by a field name.
    pub(crate) fn field(&self, name: &str) -> Option<Option<Self>> {
        match self {
            Self::JsonMap(members) => Some(members.get(name).map(Self::from_json)),
            Self::Map(entries) => {
                let entry = entries
                    .iter()
                    .find(|(key, _)| matches!(key, Self::Text(key) if key == name));
                Some(entry.map(|(_, value)| value.clone()))
            }
            _ => None,
        }
    }

    /// CEL's equality: numbers by value whatever their type; values of different types differ.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Timestamp(a), Self::Timestamp(b)) => a == b,
            (Self::Duration(a), Self::Duration(b)) => a == b,
            (Self::Type(a), Self::Type(b)) => a == b,
            _ => match (self.elements(), other.elements()) {
                (Some(a), Some(b)) => self.len() == other.len() && a.zip(b).all(|(a, b)| a.equals(&b)),
                (None, None) if self.len().is_some() => self.same_entries(other),
                (None, None) => compare_numbers(self, other) == Some(Ordering::Equal),
                _ => false,
            },
        }
    }

    fn same_entries(&self, other: &Self) -> bool {
        let Some(keys) = self.keys() else {
            return false;
        };
        self.len() == other.len()
            && keys
                .iter()
                .all(|key| match (self.lookup(key), other.lookup(key)) {
                    (Some(Some(a)), Some(Some(b))) => a.equals(&b),
                    _ => false,
                })
    }

    /// CEL's order; the outer `None` says that there is none between these types, the inner one that one is NaN.
    pub(crate) fn order(&self, other: &Self) -> Option<Option<Ordering>> {
        Some(Some(match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Bytes(a), Self::Bytes(b)) => a.cmp(b),
            (Self::Timestamp(a), Self::Timestamp(b)) => a.cmp(b),
            (Self::Duration(a), Self::Duration(b)) => a.cmp(b),
            (
                Self::Int(_) | Self::Uint(_) | Self::Double(_),
                Self::Int(_) | Self::Uint(_) | Self::Double(_),
            ) => return Some(compare_numbers(self, other)),
            _ => return None,
        }))
    }

    /// CEL's name of the type.
    pub(crate) const fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::Text(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::List(_) | Self::JsonList(_) => "list",
            Self::Map(_) | Self::JsonMap(_) => "map",
            Self::Type(_) => "type",
        }
    }

    /// Go's name of the type, as Dapr's logs have it.
    pub(crate) const fn go_type_name(&self) -> &'static str {
        match self {
            Self::Null => "structpb.NullValue",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int64",
            Self::Uint(_) => "uint64",
            Self::Double(_) => "float64",
            Self::Text(_) => "string",
            Self::Bytes(_) => "[]uint8",
            Self::Timestamp(_) => "time.Time",
            Self::Duration(_) => "time.Duration",
            Self::List(_) => "[]ref.Val",
            Self::JsonList(_) => "[]interface {}",
            Self::Map(_) => "map[ref.Val]ref.Val",
            Self::JsonMap(_) => "map[string]interface {}",
            Self::Type(_) => "*types.Type",
        }
    }

    /// The element of a list at a position.
    pub(crate) fn element(&self, position: usize) -> Option<Self> {
        match self {
            Self::List(elements) => elements.get(position).cloned(),
            Self::JsonList(elements) => elements.get(position).map(Self::from_json),
            _ => None,
        }
    }

    /// Roughly how much work it is to compare these values, but no more than `limit`, which also bounds the work of
    /// finding out: a list that holds another several times is far larger than the memory it takes.
    pub(crate) fn comparison(&self, other: &Self, limit: usize) -> usize {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => text_weight(a.len().min(b.len())),
            (Self::Bytes(a), Self::Bytes(b)) => text_weight(a.len().min(b.len())),
            _ if self.len().is_none() || self.len() != other.len() => 0,
            _ => {
                let mut left = limit;
                self.weigh(&mut left);
                other.weigh(&mut left);
                // Maps of our own are searched from the start for each key.
                let search = match (self, other) {
                    (Self::Map(entries), _) | (_, Self::Map(entries)) => entries.len() * entries.len(),
                    _ => 0,
                };
                (limit - left) + search
            }
        }
    }

    fn weigh(&self, left: &mut usize) {
        let Some(rest) = left.checked_sub(1) else {
            return;
        };
        *left = rest;
        match self {
            Self::Text(text) => *left = left.saturating_sub(text_weight(text.len())),
            Self::Bytes(bytes) => *left = left.saturating_sub(text_weight(bytes.len())),
            Self::List(elements) => elements.iter().for_each(|element| element.weigh(left)),
            Self::Map(entries) => entries.iter().for_each(|(key, value)| {
                key.weigh(left);
                value.weigh(left);
            }),
            Self::JsonList(elements) => elements
                .iter()
                .for_each(|element| Self::from_json(element).weigh(left)),
            Self::JsonMap(members) => members
                .values()
                .for_each(|member| Self::from_json(member).weigh(left)),
            _ => {}
        }
    }
}

/// The work of reading or copying so many bytes.
pub(crate) const fn text_weight(length: usize) -> usize {
    length / 16
}

/// Numbers by value. A double beyond an integer's range is beyond the integer.
fn compare_numbers(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    use Value::{Double, Int, Uint};
    match (a, b) {
        (Int(a), Int(b)) => Some(a.cmp(b)),
        (Uint(a), Uint(b)) => Some(a.cmp(b)),
        (Double(a), Double(b)) => a.partial_cmp(b),
        (Int(a), Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Uint(a), Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Int(a), Double(b)) => compare_with_double(i128::from(*a), *b),
        (Uint(a), Double(b)) => compare_with_double(i128::from(*a), *b),
        (Double(_), Int(_) | Uint(_)) => compare_numbers(b, a).map(Ordering::reverse),
        _ => None,
    }
}

/// Exact: compares whole parts, and then what the double has behind the point.
fn compare_with_double(integer: i128, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    // A cast saturates, and every 64-bit integer is well inside of 128 bits.
    let whole = double.trunc() as i128;
    Some(
        integer
            .cmp(&whole)
            .then_with(|| 0.0f64.partial_cmp(&double.fract()).unwrap_or(Ordering::Equal)),
    )
}

/// Walks the elements of a list.
pub(crate) enum Elements<'b, 'a> {
    Built(std::slice::Iter<'b, Value<'a>>),
    Json(std::slice::Iter<'a, Json>),
}

impl<'a> Iterator for Elements<'_, 'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        match self {
            Self::Built(elements) => elements.next().cloned(),
            Self::Json(elements) => elements.next().map(Value::from_json),
        }
    }
}
