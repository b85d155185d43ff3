//! The three ways in which Dapr's programs read their command line.

use super::{Flag, Kind, Outcome, UsageError, Values};
use crate::quote::quote;

/// How a command line is read, and in what words it is refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Dialect {
    /// `pflag`, after one leading dash of a long name has been made two: daprd, sentry, placement, injector.
    #[default]
    Lenient,
    /// `pflag` as it is, where one dash begins single letters: scheduler.
    Strict,
    /// Go's own `flag` package: one dash or two, its own words, the first other word ends the flags: operator.
    Plain,
}

/// What to do with an argument.
enum Arg<'a> {
    /// A flag: what follows the dashes.
    Flag(&'a str),
    Help,
    Ignored,
    End,
}

impl Dialect {
    fn classify<'a>(self, arg: &'a str) -> Result<Arg<'a>, UsageError> {
        if arg == "--" {
            return Ok(Arg::End);
        }
        if let Some(body) = arg.strip_prefix("--") {
            return Ok(Arg::Flag(body));
        }
        let Some(body) = arg.strip_prefix('-').filter(|body| !body.is_empty()) else {
            // A lone dash or a word is no flag.
            return Ok(if self == Self::Plain {
                Arg::End
            } else {
                Arg::Ignored
            });
        };
        let long = body.chars().nth(1).is_some();
        match (self, body.chars().next()) {
            (Self::Plain, _) => Ok(Arg::Flag(body)),
            (Self::Lenient, _) if long => Ok(Arg::Flag(body)),
            (_, Some('h')) => Ok(Arg::Help),
            (_, letter) => Err(UsageError(format!(
                "unknown shorthand flag: '{}' in {arg}",
                letter.unwrap_or_default()
            ))),
        }
    }

    fn bad_syntax(self, arg: &str, body: &str) -> String {
        match self {
            Self::Plain => format!("bad flag syntax: {arg}"),
            Self::Lenient | Self::Strict => format!("bad flag syntax: --{body}"),
        }
    }

    fn unknown(self, name: &str) -> String {
        match self {
            Self::Plain => format!("flag provided but not defined: -{name}"),
            Self::Lenient | Self::Strict => format!("unknown flag: --{name}"),
        }
    }

    fn missing(self, name: &str) -> String {
        match self {
            Self::Plain => format!("flag needs an argument: -{name}"),
            Self::Lenient | Self::Strict => format!("flag needs an argument: --{name}"),
        }
    }

    fn invalid(self, flag: &Flag, text: &str, cause: &str) -> String {
        let (name, text) = (flag.name, quote(text));
        if self != Self::Plain {
            return format!("invalid argument {text} for \"--{name}\" flag: {cause}");
        }
        let cause = if cause.ends_with("value out of range") {
            "value out of range"
        } else {
            "parse error"
        };
        if flag.kind == Kind::Bool {
            format!("invalid boolean value {text} for -{name}: {cause}")
        } else {
            format!("invalid value {text} for flag -{name}: {cause}")
        }
    }
}

/// Parses the arguments (without the program's name) against a table of flags.
///
/// # Errors
/// An unknown flag, a missing or unreadable value, in the dialect's words.
///
/// # Panics
/// If a default in the table does not parse: a mistake of the table, found by any test that parses.
pub fn parse_as<S: AsRef<str>>(
    dialect: Dialect,
    table: &[Flag],
    args: impl IntoIterator<Item = S>,
) -> Result<Outcome, UsageError> {
    let mut values = Values::defaults(table);
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let arg = arg.as_ref();
        let body = match dialect.classify(arg)? {
            Arg::Flag(body) => body,
            Arg::Help => return Ok(Outcome::Help),
            Arg::Ignored => continue,
            Arg::End => break,
        };
        if body.starts_with(['-', '=']) || body.is_empty() {
            return Err(UsageError(dialect.bad_syntax(arg, body)));
        }
        let (name, inline) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        let Some(flag) = table.iter().find(|flag| flag.name == name) else {
            if name == "help" || (dialect == Dialect::Plain && name == "h") {
                return Ok(Outcome::Help);
            }
            return Err(UsageError(dialect.unknown(name)));
        };
        let text = match inline {
            Some(text) => text,
            None if flag.kind == Kind::Bool => "true".to_owned(),
            None => match args.next() {
                Some(text) => text.as_ref().to_owned(),
                None => return Err(UsageError(dialect.missing(name))),
            },
        };
        values
            .set(flag, &text)
            .map_err(|cause| UsageError(dialect.invalid(flag, &text, &cause)))?;
    }
    Ok(Outcome::Values(values))
}

/// The usage text of a program that reads its command line in this dialect.
pub fn usage_as(dialect: Dialect, program: &str, table: &[Flag]) -> String {
    match dialect {
        Dialect::Plain => super::usage::plain(program, table),
        Dialect::Lenient | Dialect::Strict => super::usage::usage(program, table),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Flag] = &[
        Flag::new("port", Kind::Int, "80", "The port"),
        Flag::new("on", Kind::Bool, "true", "Whether"),
        Flag::new("name", Kind::Text, "", "What"),
    ];

    fn refusal(dialect: Dialect, args: &[&str]) -> String {
        match parse_as(dialect, TABLE, args) {
            Err(error) => error.0,
            Ok(outcome) => panic!("{args:?} is accepted: {outcome:?}"),
        }
    }

    #[test]
    fn each_dialect_refuses_in_its_own_words() {
        use Dialect::{Lenient, Plain, Strict};
        for (dialect, args, want) in [
            (Lenient, &["-nope"][..], "unknown flag: --nope"),
            (Strict, &["-nope"], "unknown shorthand flag: 'n' in -nope"),
            (Plain, &["--nope=1"], "flag provided but not defined: -nope"),
            (Lenient, &["--port"], "flag needs an argument: --port"),
            (Plain, &["--port"], "flag needs an argument: -port"),
            (
                Strict,
                &["--on=maybe"],
                "invalid argument \"maybe\" for \"--on\" flag: strconv.ParseBool: parsing \"maybe\": invalid syntax",
            ),
            (
                Plain,
                &["--on=maybe"],
                "invalid boolean value \"maybe\" for -on: parse error",
            ),
            (
                Plain,
                &["-port", "x"],
                "invalid value \"x\" for flag -port: parse error",
            ),
            (
                Plain,
                &["-port=99999999999999999999"],
                "invalid value \"99999999999999999999\" for flag -port: value out of range",
            ),
            (Plain, &["---x"], "bad flag syntax: ---x"),
            (Lenient, &["---x"], "bad flag syntax: ---x"),
        ] {
            assert_eq!(refusal(dialect, args), want, "{dialect:?} {args:?}");
        }
    }

    #[test]
    fn help_is_understood_in_every_dialect() {
        for dialect in [Dialect::Lenient, Dialect::Strict, Dialect::Plain] {
            for arg in ["-h", "-help", "--help"] {
                assert_eq!(
                    parse_as(dialect, TABLE, [arg]),
                    Ok(Outcome::Help),
                    "{dialect:?} {arg}"
                );
            }
        }
    }

    #[test]
    fn a_word_ends_the_flags_of_the_plain_dialect_only() {
        let port = |dialect, args: &[&str]| match parse_as(dialect, TABLE, args) {
            Ok(Outcome::Values(values)) => values.int("port"),
            other => panic!("{other:?}"),
        };
        assert_eq!(port(Dialect::Plain, &["word", "--port", "1"]), 80);
        assert_eq!(port(Dialect::Lenient, &["word", "--port", "1"]), 1);
        assert_eq!(port(Dialect::Plain, &["-port=1"]), 1);
    }
}
