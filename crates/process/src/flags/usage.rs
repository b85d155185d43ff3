//! The usage text and the documentation of a table of flags.

use std::fmt::Write as _;

use super::{Flag, Kind};

/// `Usage of <program>:` and one line per flag, sorted, without hidden and deprecated ones.
pub fn usage(program: &str, table: &[Flag]) -> String {
    let mut flags: Vec<&Flag> = table
        .iter()
        .filter(|flag| !flag.hidden && flag.deprecated.is_none())
        .collect();
    flags.sort_by_key(|flag| flag.name);
    let heads: Vec<String> = flags
        .iter()
        .map(|flag| format!("      --{}{}", flag.name, type_name(flag.kind)))
        .collect();
    let width = heads.iter().map(String::len).max().unwrap_or_default();
    let mut out = format!("Usage of {program}:\n");
    for (flag, head) in flags.iter().zip(heads) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{head:width$}   {}{}", flag.help, default_note(flag));
    }
    out
}

/// The same as Go's `flag` package writes it: one dash, the help on a line of its own.
pub(super) fn plain(program: &str, table: &[Flag]) -> String {
    let mut flags: Vec<&Flag> = table
        .iter()
        .filter(|flag| !flag.hidden && flag.deprecated.is_none())
        .collect();
    flags.sort_by_key(|flag| flag.name);
    let mut out = format!("Usage of {program}:\n");
    for flag in flags {
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "  -{}{}\n    \t{}{}",
            flag.name,
            type_name(flag.kind),
            flag.help,
            default_note(flag)
        );
    }
    out
}

/// The table as a Markdown table, for the documentation.
pub fn markdown(table: &[Flag]) -> String {
    let mut out = String::from("| Flag | Type | Default | Effect |\n|---|---|---|---|\n");
    for flag in table {
        let default = if flag.default.is_empty() {
            "–".to_owned()
        } else {
            format!("`{}`", flag.default)
        };
        let note = match flag.deprecated {
            Some(instead) => format!("Deprecated, {instead}. "),
            None => String::new(),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "| `--{}` | {} | {default} | {note}{} |",
            flag.name,
            type_name(flag.kind).trim(),
            flag.help
        );
    }
    out
}

const fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => " string",
        Kind::Bool => "",
        Kind::Int => " int",
        Kind::Uint => " uint",
        Kind::Duration => " duration",
        Kind::List => " strings",
    }
}

fn default_note(flag: &Flag) -> String {
    match (flag.default, flag.kind) {
        ("" | "0" | "0s" | "false", _) => String::new(),
        (default, Kind::Text) => format!(" (default \"{default}\")"),
        (default, Kind::List) => format!(" (default [{default}])"),
        (default, _) => format!(" (default {default})"),
    }
}
