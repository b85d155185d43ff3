//! YAML as Dapr's loader reads it: YAML 1.1 scalars (`yes` and `on` are booleans), then decoded as Go decodes JSON.
//!
//! Upstream converts YAML to JSON and decodes that (`sigs.k8s.io/yaml`). What follows from it and is kept here:
//! a number or boolean under a field of type text becomes text (`samplingRate: 1` is `"1"`), field names match
//! without case, unknown fields are ignored, `null` leaves a field at its zero value, the last of two equal keys wins.
//!
//! Safe on hostile input: depth and the total of nodes, aliases expanded, are limited.

mod compose;
mod de;
mod json;
mod scalar;

use serde::de::DeserializeOwned;
use thiserror::Error;

pub use json::to_go_json;

/// A parsed value with the line it stands on.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// Line in the parsed text, from 1.
    pub line: usize,
}

/// A parsed value.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeKind {
    /// `null`, `~` or nothing
    Null,
    /// A boolean, YAML 1.1 spellings included
    Bool(bool),
    /// An integer
    Int(i64),
    /// An integer above `i64`
    Uint(u64),
    /// Any other number
    Float(f64),
    /// A text
    Text(String),
    /// A list
    List(Vec<Node>),
    /// A mapping in the order of the text; keys are unique
    Map(Vec<(String, Node)>),
}

/// Why a YAML text cannot be used: where and what.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct YamlError {
    /// Line in the parsed text, from 1; 0 if unknown.
    pub line: usize,
    /// Path of the field, such as `spec.metadata[2].name`; empty when the text itself is broken.
    pub path: String,
    /// What is wrong.
    pub text: String,
}

impl std::fmt::Display for YamlError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        if !self.path.is_empty() {
            write!(f, "field {}: ", self.path)?;
        }
        f.write_str(&self.text)
    }
}

/// Parses the first document of a text. An empty text is `null`.
///
/// # Errors
/// If the text is no YAML, or nests or expands beyond the limits.
pub fn parse(text: &str) -> Result<Node, YamlError> {
    compose::first_document(text)
}

/// Decodes a parsed value.
///
/// # Errors
/// If a field has a value of another type.
pub fn decode<T: DeserializeOwned>(node: &Node) -> Result<T, YamlError> {
    T::deserialize(de::NodeDeserializer(node)).map_err(de::DecodeError::into_yaml_error)
}

/// Parses and decodes the first document of a text.
///
/// # Errors
/// As [`parse`] and [`decode`].
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, YamlError> {
    decode(&parse(text)?)
}

impl Node {
    /// The value under a key of a mapping; exact spelling first, then ignoring case.
    pub fn get(&self, key: &str) -> Option<&Node> {
        let NodeKind::Map(entries) = &self.kind else {
            return None;
        };
        let exact = entries.iter().find(|(name, _)| name == key);
        exact
            .or_else(|| entries.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)))
            .map(|(_, value)| value)
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match &self.kind {
            NodeKind::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Lays another value over this one: mappings merge key by key, everything else is replaced.
    pub fn overlay(&mut self, other: Node) {
        match (&mut self.kind, other.kind) {
            (NodeKind::Map(mine), NodeKind::Map(theirs)) => {
                for (key, value) in theirs {
                    match mine.iter_mut().find(|(name, _)| name.eq_ignore_ascii_case(&key)) {
                        Some((_, slot)) => slot.overlay(value),
                        None => mine.push((key, value)),
                    }
                }
            }
            (slot, kind) => {
                *slot = kind;
                self.line = other.line;
            }
        }
    }
}

#[cfg(test)]
mod tests;
