//! What a component asks of its metadata: the reference page of all options is made of this, so it cannot differ from
//! the code.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
    /// Any number.
    Number,
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
            Self::Number => "number",
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
    /// What counts if it is not given, where the code has said so.
    pub default: Option<String>,
}

/// A value that an option has if it is not given, as users write it.
pub trait DefaultValue {
    /// As text; empty = nothing.
    fn written(&self) -> String;
}

macro_rules! written_as_displayed {
    ($($of_type:ty)*) => {
        $(impl DefaultValue for $of_type {
            fn written(&self) -> String {
                self.to_string()
            }
        })*
    };
}
written_as_displayed!(&str String bool i32 i64 u8 u16 u32 u64 usize f64);

impl DefaultValue for Duration {
    fn written(&self) -> String {
        format!("{self:?}")
    }
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
        match asked.iter_mut().find(|known| known.is(names[0])) {
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
                default: None,
            }),
        }
    }

    /// Notes the default of an option; of several the first.
    pub(super) fn note_default(&self, name: &str, value: String) {
        self.note(&[name], OptionType::Text);
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = asked.iter_mut().find(|known| known.is(name)) {
            known.default.get_or_insert(value);
        }
    }
}

impl Asked {
    /// One that is declared beside the code that reads it; an empty default is none.
    pub fn new(names: &[&str], of_type: OptionType, default: &str) -> Self {
        Self {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            of_type,
            default: (!default.is_empty()).then(|| default.to_owned()),
        }
    }

    fn is(&self, name: &str) -> bool {
        self.names[0].eq_ignore_ascii_case(name)
    }
}

/// Two components with the same properties are the same, whoever listens.
impl PartialEq for Record {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Record {}
