//! What a component asks of its metadata: the reference page of all options is made of this, so it cannot differ from
//! the code.

use std::sync::{Arc, Mutex, PoisonError};

/// How the text of an option is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OptionType {
    /// As it is.
    Text,
    /// A comma list of texts.
    Texts,
    /// A switch; everything but the words for "on" is off.
    Switch,
    /// A switch in Go's words; anything else is an error.
    StrictSwitch,
    /// A Go duration or a number of seconds.
    Duration,
    /// A comma list of those.
    Durations,
    /// A Go duration or a number of milliseconds.
    MillisDuration,
    /// A Kubernetes quantity.
    Bytes,
    /// A whole number.
    Integer,
    /// A whole number of zero or more.
    Unsigned,
}

impl OptionType {
    /// In a word or two, for the reference page.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Texts => "comma list",
            Self::Switch => "switch",
            Self::StrictSwitch => "`true` or `false`",
            Self::Duration => "duration, or seconds",
            Self::Durations => "comma list of durations",
            Self::MillisDuration => "duration, or milliseconds",
            Self::Bytes => "bytes (`10Mi`)",
            Self::Integer => "whole number",
            Self::Unsigned => "whole number, not negative",
        }
    }
}

/// An option that was asked for: its name, its aliases, its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The name, then the aliases.
    pub names: Vec<String>,
    /// How it is read.
    pub of_type: OptionType,
}

/// The options that were asked for, in their order. Clones share one list.
#[derive(Debug, Clone, Default)]
pub struct Record(Arc<Mutex<Vec<Asked>>>);

impl Record {
    /// Everything so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes an option once; an option that is read in several ways has the most particular type.
    pub(super) fn note(&self, names: &[&str], of_type: OptionType) {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match asked
            .iter_mut()
            .find(|known| known.names[0].eq_ignore_ascii_case(names[0]))
        {
            Some(known) => {
                known.of_type = known.of_type.max(of_type);
                for name in names {
                    if !known.names.iter().any(|own| own == name) {
                        known.names.push((*name).to_owned());
                    }
                }
            }
            None => asked.push(Asked {
                names: names.iter().map(|name| (*name).to_owned()).collect(),
                of_type,
            }),
        }
    }
}

/// Two components with the same properties are the same, whoever listens.
impl PartialEq for Record {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Record {}
