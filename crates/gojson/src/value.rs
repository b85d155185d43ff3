//! Building values and looking into them.

use std::collections::BTreeMap;

use crate::{Error, Value};

impl Value {
    /// An empty object.
    pub const fn object() -> Self {
        Self::Object(BTreeMap::new())
    }

    /// Go's name of the kind of value: `object`, `array`, `string`, `number`, `bool` or `null`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Number(_) => "number",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }

    /// Whether this is `null`.
    pub const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The truth of a boolean.
    pub const fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(truth) => Some(*truth),
            _ => None,
        }
    }

    /// A number as Go's `float64`; `None` if this is no number or one beyond its range.
    pub fn as_f64(&self) -> Option<f64> {
        self.number()
            .and_then(|text| text.parse().ok())
            .filter(|number: &f64| number.is_finite())
    }

    /// A number written as an integer that fits; `1.0` and `1e3` do not count, as in Go.
    pub fn as_i64(&self) -> Option<i64> {
        self.number().and_then(|text| text.parse().ok())
    }

    /// A number's text.
    pub fn number(&self) -> Option<&str> {
        match self {
            Self::Number(text) => Some(text),
            _ => None,
        }
    }

    /// The elements of an array.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Self::Array(elements) => Some(elements),
            _ => None,
        }
    }

    /// The members of an object.
    pub const fn as_object(&self) -> Option<&BTreeMap<String, Value>> {
        match self {
            Self::Object(members) => Some(members),
            _ => None,
        }
    }

    /// The members of an object, to change.
    pub const fn as_object_mut(&mut self) -> Option<&mut BTreeMap<String, Value>> {
        match self {
            Self::Object(members) => Some(members),
            _ => None,
        }
    }

    /// An object's member of exactly this name.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_object()?.get(key)
    }

    /// An object's string member of exactly this name.
    pub fn get_str(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// An object's member as Go fills a struct field: the exact name first, else one that differs only in
    /// case.
    pub fn get_field(&self, key: &str) -> Option<&Value> {
        let members = self.as_object()?;
        members.get(key).or_else(|| {
            members
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(key))
                .map(|(_, value)| value)
        })
    }

    /// Puts a member into an object; anything else stays as it is.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        if let Some(members) = self.as_object_mut() {
            members.insert(key.into(), value.into());
        }
    }

    /// Whether every number fits Go's `float64`, which Go requires when it reads into `interface{}`.
    ///
    /// # Errors
    /// Names the first number that does not.
    pub fn check_floats(&self) -> Result<(), Error> {
        match self {
            Self::Number(text) => match self.as_f64() {
                Some(_) => Ok(()),
                None => Err(Error::float_range(text)),
            },
            Self::Array(elements) => elements.iter().try_for_each(Self::check_floats),
            Self::Object(members) => members.values().try_for_each(Self::check_floats),
            _ => Ok(()),
        }
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Bool(truth)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

macro_rules! from_integer {
    ($($kind:ty),*) => {$(
        impl From<$kind> for Value {
            fn from(number: $kind) -> Self {
                Self::Number(number.to_string())
            }
        }
    )*};
}
from_integer!(i32, u32, i64, u64, usize);

impl From<f64> for Value {
    /// A number in Go's JSON form; `null` if it is not finite.
    fn from(number: f64) -> Self {
        if number.is_finite() {
            Self::Number(crate::float_json(number))
        } else {
            Self::Null
        }
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(elements: Vec<T>) -> Self {
        elements.into_iter().collect()
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl From<BTreeMap<String, Value>> for Value {
    fn from(members: BTreeMap<String, Value>) -> Self {
        Self::Object(members)
    }
}

impl From<&BTreeMap<String, String>> for Value {
    fn from(pairs: &BTreeMap<String, String>) -> Self {
        pairs
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect()
    }
}

impl<T: Into<Value>> FromIterator<T> for Value {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        Self::Array(elements.into_iter().map(Into::into).collect())
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Value {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(members: I) -> Self {
        Self::Object(
            members
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        )
    }
}
