//! Command-line flags as Dapr's services parse them (Go's `pflag`): one table declares every flag, and parsing,
//! usage text and documentation come from it.
//!
//! Rules: `--name value` and `--name=value`; one leading dash does for names longer than one character;
//! a boolean takes a value only with `=`; lists are comma-separated and may be repeated; `--` ends the flags;
//! other words are ignored. Nothing here exits or prints: the caller decides. Two services differ from that:
//! see [`Dialect`].

mod dialect;
mod numbers;
mod usage;

use std::collections::BTreeMap;

use outrigger_model::GoDuration;
use thiserror::Error;

/// What a flag's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// `--x` or `--x=true`; Go's spellings of a boolean.
    Bool,
    /// A signed integer, base prefixes allowed (`0x10`).
    Int,
    /// An unsigned integer, base prefixes allowed.
    Uint,
    /// A Go duration.
    Duration,
    /// Comma-separated, quotes as in CSV, repeatable: the values add up.
    List,
}

/// The declaration of a flag.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Name without dashes.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// Default in the flag's own syntax; empty = the kind's zero.
    pub default: &'static str,
    /// One line for the usage text.
    pub help: &'static str,
    /// What to use instead; a deprecated flag still works, prints a notice and is not in the usage text.
    pub deprecated: Option<&'static str>,
    /// Accepted, but not in the usage text.
    pub hidden: bool,
}

impl Flag {
    /// A flag that is neither deprecated nor hidden.
    pub const fn new(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Self {
        Self {
            name,
            kind,
            default,
            help,
            deprecated: None,
            hidden: false,
        }
    }

    /// The same flag, deprecated in favour of something else.
    #[must_use]
    pub const fn deprecated(mut self, instead: &'static str) -> Self {
        self.deprecated = Some(instead);
        self
    }

    /// The same flag, left out of the usage text.
    #[must_use]
    pub const fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }
}

/// A flag's value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Text(String),
    Bool(bool),
    Int(i64),
    Uint(u64),
    Duration(GoDuration),
    List(Vec<String>),
}

/// Why the command line is wrong; exit code 2 after the text and the usage on stderr.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// A command line that parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Go on with these values.
    Values(Values),
    /// `-h`, `-help` or `--help`: print the usage on stderr and exit with 0.
    Help,
}

/// The values of all declared flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Values {
    values: BTreeMap<&'static str, (Value, bool)>,
    notices: Vec<String>,
}

/// Parses the arguments (without the program's name) against a table of flags, as most services do.
///
/// # Errors
/// An unknown flag, a missing or unreadable value, in `pflag`'s words.
///
/// # Panics
/// If a default in the table does not parse: a mistake of the table, found by any test that parses.
pub fn parse<S: AsRef<str>>(
    table: &[Flag],
    args: impl IntoIterator<Item = S>,
) -> Result<Outcome, UsageError> {
    parse_as(Dialect::Lenient, table, args)
}

pub use dialect::{Dialect, parse_as, usage_as};
pub use usage::{markdown, usage};

impl Values {
    fn defaults(table: &[Flag]) -> Self {
        let values = table
            .iter()
            .map(|flag| {
                let value = if flag.default.is_empty() {
                    zero(flag.kind)
                } else {
                    parse_value(flag.kind, flag.default).expect("a default of the table parses")
                };
                (flag.name, (value, false))
            })
            .collect();
        Self {
            values,
            notices: Vec::new(),
        }
    }

    fn set(&mut self, flag: &Flag, text: &str) -> Result<(), String> {
        let value = parse_value(flag.kind, text)?;
        if let Some(instead) = flag.deprecated {
            self.notices
                .push(format!("Flag --{} has been deprecated, {instead}", flag.name));
        }
        let slot = self
            .values
            .get_mut(flag.name)
            .expect("every flag of the table has a slot");
        match (&mut *slot, value) {
            // The first use replaces the default, later ones add.
            ((Value::List(list), true), Value::List(more)) => list.extend(more),
            (slot, value) => *slot = (value, true),
        }
        Ok(())
    }

    fn get(&self, name: &str) -> &Value {
        let Some((value, _)) = self.values.get(name) else {
            panic!("flag --{name} is not in the table");
        };
        value
    }

    /// Whether the flag was given.
    pub fn given(&self, name: &str) -> bool {
        self.values.get(name).is_some_and(|(_, given)| *given)
    }

    /// Whether the flag was given with something other than empty, `false` or zero.
    pub fn in_use(&self, name: &str) -> bool {
        self.given(name)
            && match self.get(name) {
                Value::Text(text) => !text.is_empty(),
                Value::Bool(value) => *value,
                Value::Int(value) => *value != 0,
                Value::Uint(value) => *value != 0,
                Value::Duration(value) => *value != GoDuration::ZERO,
                Value::List(list) => !list.is_empty(),
            }
    }

    /// Notices about deprecated flags that were given, for stderr.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// The value of a [`Kind::Text`] flag.
    ///
    /// # Panics
    /// Like all getters: if the table does not declare the flag with this kind.
    pub fn text(&self, name: &str) -> &str {
        match self.get(name) {
            Value::Text(text) => text,
            _ => panic!("flag --{name} is no text"),
        }
    }

    /// The value of a [`Kind::Bool`] flag.
    pub fn bool(&self, name: &str) -> bool {
        match self.get(name) {
            Value::Bool(value) => *value,
            _ => panic!("flag --{name} is no boolean"),
        }
    }

    /// The value of a [`Kind::Int`] flag.
    pub fn int(&self, name: &str) -> i64 {
        match self.get(name) {
            Value::Int(value) => *value,
            _ => panic!("flag --{name} is no integer"),
        }
    }

    /// The value of a [`Kind::Uint`] flag.
    pub fn uint(&self, name: &str) -> u64 {
        match self.get(name) {
            Value::Uint(value) => *value,
            _ => panic!("flag --{name} is no unsigned integer"),
        }
    }

    /// The value of a [`Kind::Duration`] flag.
    pub fn duration(&self, name: &str) -> GoDuration {
        match self.get(name) {
            Value::Duration(value) => *value,
            _ => panic!("flag --{name} is no duration"),
        }
    }

    /// The values of a [`Kind::List`] flag.
    pub fn list(&self, name: &str) -> &[String] {
        match self.get(name) {
            Value::List(list) => list,
            _ => panic!("flag --{name} is no list"),
        }
    }
}

const fn zero(kind: Kind) -> Value {
    match kind {
        Kind::Text => Value::Text(String::new()),
        Kind::Bool => Value::Bool(false),
        Kind::Int => Value::Int(0),
        Kind::Uint => Value::Uint(0),
        Kind::Duration => Value::Duration(GoDuration::ZERO),
        Kind::List => Value::List(Vec::new()),
    }
}

fn parse_value(kind: Kind, text: &str) -> Result<Value, String> {
    Ok(match kind {
        Kind::Text => Value::Text(text.to_owned()),
        Kind::Bool => Value::Bool(numbers::parse_bool(text)?),
        Kind::Int => Value::Int(numbers::parse_int(text)?),
        Kind::Uint => Value::Uint(numbers::parse_uint(text)?),
        Kind::Duration => Value::Duration(GoDuration::parse(text).map_err(|error| error.to_string())?),
        Kind::List => Value::List(numbers::parse_csv(text)?),
    })
}

#[cfg(test)]
mod tests;
