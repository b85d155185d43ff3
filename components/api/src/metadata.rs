//! Component metadata: the resolved name-value pairs and the decoding rules (contract `components`, section 3).

use std::collections::BTreeMap;

mod decode;
mod record;
pub mod request;
mod strict;
mod template;

pub use decode::{Decoder, go_integer, is_truthy};
pub use record::{Asked, OptionType, Record};
pub use strict::{StrictDecoder, parse_bool};
pub use template::{NoPodName, Placeholders, uses_namespace};

/// A component's resolved metadata. Keys keep the user's spelling; look-ups ignore case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    pairs: BTreeMap<String, String>,
    /// Only for the reference page.
    record: Option<Record>,
}

impl Properties {
    /// From name-value pairs; on an identical name the last one wins.
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        Self {
            pairs: pairs.into_iter().collect(),
            record: None,
        }
    }

    /// Notes from now on what is asked for.
    pub fn recorded(&mut self) -> Record {
        self.record.get_or_insert_default().clone()
    }

    fn note(&self, name: &str) {
        if let Some(record) = &self.record {
            record.note(&[name], OptionType::Text);
        }
    }

    /// The value under a name, ignoring case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.note(name);
        self.pairs
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The value under exactly this name.
    pub fn get_exact(&self, name: &str) -> Option<&str> {
        self.note(name);
        self.pairs.get(name).map(String::as_str)
    }

    /// All pairs in the user's spelling.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

impl FromIterator<(String, String)> for Properties {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self::new(pairs)
    }
}
