//! [`Node`]s to typed values, with Go's leniencies and errors that name line and field.

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::{Node, NodeKind, YamlError, scalar};

/// An error that gathers its path on the way out.
#[derive(Debug)]
pub(super) struct DecodeError {
    line: usize,
    /// Innermost part first.
    path: Vec<String>,
    text: String,
}

impl DecodeError {
    fn at(mut self, part: String, line: usize) -> Self {
        if self.line == 0 {
            self.line = line;
        }
        self.path.push(part);
        self
    }

    pub(super) fn into_yaml_error(self) -> YamlError {
        let mut path = String::new();
        for part in self.path.iter().rev() {
            if !path.is_empty() && !part.starts_with('[') {
                path.push('.');
            }
            path.push_str(part);
        }
        YamlError {
            line: self.line,
            path,
            text: self.text,
        }
    }
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: std::fmt::Display>(text: T) -> Self {
        Self {
            line: 0,
            path: Vec::new(),
            text: text.to_string(),
        }
    }
}

/// Decodes one node.
pub(super) struct NodeDeserializer<'a>(pub(super) &'a Node);

impl NodeDeserializer<'_> {
    fn wanted(&self, what: &str) -> DecodeError {
        let found = match &self.0.kind {
            NodeKind::Null => "nothing",
            NodeKind::Bool(_) => "a boolean",
            NodeKind::Int(_) | NodeKind::Uint(_) | NodeKind::Float(_) => "a number",
            NodeKind::Text(_) => "text",
            NodeKind::List(_) => "a list",
            NodeKind::Map(_) => "a mapping",
        };
        DecodeError {
            line: self.0.line,
            path: Vec::new(),
            text: format!("must be {what}, not {found}"),
        }
    }

    /// A whole number; JSON does not tell `1.0` from `1`.
    fn integer(&self) -> Result<i128, DecodeError> {
        match self.0.kind {
            NodeKind::Null => Ok(0),
            NodeKind::Int(value) => Ok(i128::from(value)),
            NodeKind::Uint(value) => Ok(i128::from(value)),
            NodeKind::Float(value) if value.fract() == 0.0 && value.abs() < 1e18 => Ok(value as i128),
            _ => Err(self.wanted("a whole number")),
        }
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            let value = <$type>::try_from(self.integer()?)
                .map_err(|_| self.wanted(concat!("a number that fits ", stringify!($type))))?;
            visitor.$visit(value)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for NodeDeserializer<'_> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.0.kind {
            NodeKind::Null => visitor.visit_unit(),
            NodeKind::Bool(value) => visitor.visit_bool(*value),
            NodeKind::Int(value) => visitor.visit_i64(*value),
            NodeKind::Uint(value) => visitor.visit_u64(*value),
            // JSON writes a whole float without a point, and reads it back as an integer.
            NodeKind::Float(value) if value.fract() == 0.0 && value.abs() < 1e15 => {
                visitor.visit_i64(*value as i64)
            }
            NodeKind::Float(value) if !value.is_finite() => Err(self.wanted("a finite number")),
            NodeKind::Float(value) => visitor.visit_f64(*value),
            NodeKind::Text(text) => visitor.visit_str(text),
            NodeKind::List(items) => visitor.visit_seq(Items { items, next: 0 }),
            NodeKind::Map(entries) => visitor.visit_map(Entries::new(entries.iter().collect())),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.0.kind {
            NodeKind::Bool(value) => visitor.visit_bool(value),
            NodeKind::Null => visitor.visit_bool(false),
            _ => Err(self.wanted("true or false")),
        }
    }

    integers!(
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64, deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64
    );

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.0.kind {
            NodeKind::Float(value) => visitor.visit_f64(value),
            NodeKind::Int(value) => visitor.visit_f64(value as f64),
            NodeKind::Uint(value) => visitor.visit_f64(value as f64),
            NodeKind::Null => visitor.visit_f64(0.0),
            _ => Err(self.wanted("a number")),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match scalar::text_of(&self.0.kind) {
            Some(text) => visitor.visit_string(text),
            None => Err(self.wanted("text")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.0.kind {
            NodeKind::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.0.kind {
            NodeKind::List(items) => visitor.visit_seq(Items { items, next: 0 }),
            NodeKind::Null => visitor.visit_seq(Items { items: &[], next: 0 }),
            _ => Err(self.wanted("a list")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.0.kind {
            NodeKind::Map(entries) => visitor.visit_map(Entries::new(entries.iter().collect())),
            NodeKind::Null => visitor.visit_map(Entries::new(Vec::new())),
            _ => Err(self.wanted("a mapping")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match &self.0.kind {
            NodeKind::Map(entries) => visitor.visit_map(Entries::of_struct(entries, fields)),
            NodeKind::Null => visitor.visit_map(Entries::new(Vec::new())),
            _ => Err(self.wanted("a mapping")),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match &self.0.kind {
            NodeKind::Text(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            _ => Err(self.wanted("text")),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

struct Items<'a> {
    items: &'a [Node],
    next: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        let Some(item) = self.items.get(self.next) else {
            return Ok(None);
        };
        let index = self.next;
        self.next += 1;
        seed.deserialize(NodeDeserializer(item))
            .map(Some)
            .map_err(|error| error.at(format!("[{index}]"), item.line))
    }
}

struct Entries<'a> {
    entries: Vec<(&'a str, &'a Node)>,
    next: usize,
}

impl<'a> Entries<'a> {
    fn new(entries: Vec<&'a (String, Node)>) -> Self {
        Self {
            entries: entries
                .into_iter()
                .map(|(key, value)| (key.as_str(), value))
                .collect(),
            next: 0,
        }
    }

    /// Only the entries that are fields, under the fields' own spelling. Of two spellings of one field Go keeps the
    /// one that sorts last.
    fn of_struct(entries: &'a [(String, Node)], fields: &'static [&'static str]) -> Self {
        let mut found: Vec<(&'a str, &'a str, &'a Node)> = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let Some(field) = fields.iter().find(|field| field.eq_ignore_ascii_case(key)) else {
                continue;
            };
            match found.iter_mut().find(|(name, ..)| name == field) {
                Some(slot) if slot.1 < key.as_str() => *slot = (field, key, value),
                Some(_) => {}
                None => found.push((field, key, value)),
            }
        }
        Self {
            entries: found
                .into_iter()
                .map(|(field, _, value)| (field, value))
                .collect(),
            next: 0,
        }
    }
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        let Some((key, _)) = self.entries.get(self.next) else {
            return Ok(None);
        };
        let key: StrDeserializer<'_, DecodeError> = (*key).into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        let (key, value) = self.entries[self.next];
        self.next += 1;
        seed.deserialize(NodeDeserializer(value))
            .map_err(|error| error.at(key.to_owned(), value.line))
    }
}
