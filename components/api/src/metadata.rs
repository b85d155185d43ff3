//! Component metadata: the resolved name-value pairs and the decoding rules (contract `components`, section 3).

use std::collections::BTreeMap;

mod decode;
mod record;
pub mod request;
mod strict;
mod template;

pub use decode::{Decoder, go_integer, is_truthy};
pub use record::{Asked, DefaultValue, OptionType, Record};
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

    /// Other pairs in place of these; what is asked of them is noted in the same place.
    #[must_use]
    pub fn replaced(&self, pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        Self {
            pairs: pairs.into_iter().collect(),
            record: self.record.clone(),
        }
    }

    /// Notes an option that is read in a way of its own: its name, then its aliases.
    pub fn note(&self, names: &[&str], of_type: OptionType) {
        if let Some(record) = &self.record {
            record.note(names, of_type);
        }
    }

    /// Notes the value that an option has if it is not given, and gives it back.
    pub fn default_of<T: DefaultValue>(&self, name: &str, value: T) -> T {
        if let Some(record) = &self.record {
            record.note_default(name, value.written());
        }
        value
    }

    /// The value under a name, ignoring case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.note(&[name], OptionType::Text);
        self.pairs
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The value under exactly this name.
    pub fn get_exact(&self, name: &str) -> Option<&str> {
        self.note(&[name], OptionType::Text);
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
