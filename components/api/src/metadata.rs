//! Component metadata: the resolved name-value pairs and the decoding rules (contract `components`, section 3).

use std::collections::BTreeMap;

mod decode;
pub mod request;
mod strict;
mod template;

pub use decode::{Decoder, go_integer, is_truthy};
pub use strict::{StrictDecoder, parse_bool};
pub use template::{NoPodName, Placeholders, uses_namespace};

/// A component's resolved metadata. Keys keep the user's spelling; look-ups ignore case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties(BTreeMap<String, String>);

impl Properties {
    /// From name-value pairs; on an identical name the last one wins.
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(pairs.into_iter().collect())
    }

    /// The value under a name, ignoring case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The value under exactly this name.
    pub fn get_exact(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All pairs in the user's spelling.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

impl FromIterator<(String, String)> for Properties {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self::new(pairs)
    }
}
