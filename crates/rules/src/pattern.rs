//! Regular expressions with the meaning they have in Go.

use regex::{Regex, RegexBuilder};

/// How much memory a compiled pattern may take.
const SIZE_LIMIT: usize = 1 << 18;

/// Compiles a pattern.
///
/// # Errors
/// If it is none, or too large.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(&translate(pattern))
        .size_limit(SIZE_LIMIT)
        .nest_limit(100)
        .build()
        .map_err(|error| format!("error parsing regexp: {error}"))
}

/// In Go, `\d`, `\w`, `\s` and `\b` know ASCII only, and a bracket within a class is a plain character.
fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut letters = pattern.chars().peekable();
    let mut in_class = false;
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => {
                let Some(escaped) = letters.next() else {
                    out.push('\\');
                    break;
                };
                match ascii_class(escaped, in_class) {
                    Some(class) => out.push_str(class),
                    None => out.extend(['\\', escaped]),
                }
            }
            '[' if !in_class => {
                in_class = true;
                out.push('[');
                if letters.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                // A closing bracket in the first place is a plain character.
                if letters.next_if_eq(&']').is_some() {
                    out.push_str("\\]");
                }
            }
            // `[:alpha:]` keeps its meaning.
            '[' if letters.peek() == Some(&':') => {
                out.push('[');
                for inner in letters.by_ref() {
                    out.push(inner);
                    if inner == ']' {
                        break;
                    }
                }
            }
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            // Set operations are unknown to Go.
            '[' | '&' | '~' if in_class => out.extend(['\\', letter]),
            other => out.push(other),
        }
    }
    out
}

const fn ascii_class(escaped: char, in_class: bool) -> Option<&'static str> {
    Some(match (escaped, in_class) {
        ('d', false) => "[0-9]",
        ('D', false) => "[^0-9]",
        ('w', false) => "[0-9A-Za-z_]",
        ('W', false) => "[^0-9A-Za-z_]",
        ('s', false) => "[\\t\\n\\f\\r ]",
        ('S', false) => "[^\\t\\n\\f\\r ]",
        ('b', false) => "(?-u:\\b)",
        ('d', true) => "0-9",
        ('w', true) => "0-9A-Za-z_",
        ('s', true) => "\\t\\n\\f\\r ",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn classes_know_ascii_only() {
        for (pattern, yes, no) in [
            (r"^\d$", "5", "٥"),
            (r"^\w$", "a", "é"),
            (r"^[\w.]$", ".", "é"),
            (r"^[[a]$", "[", "b"),
            (r"^[]a]$", "]", "b"),
            (r"^[^]a]$", "b", "]"),
            (r"^[a&&b]$", "&", "c"),
            (r"^[[:digit:]]$", "5", "a"),
            (r"^\D$", "é", "5"),
            (r"\bé", "aé", "é"),
        ] {
            let regex = compile(pattern).unwrap();
            assert!(regex.is_match(yes), "{pattern} {yes}");
            assert!(!regex.is_match(no), "{pattern} {no}");
        }
        assert!(compile("[").is_err());
        assert!(compile("(?:a{1000}){1000}").is_err());
    }

    proptest! {
        #[test]
        fn no_pattern_panics(pattern in r"[\[\]^a&~\\dwsb:()*+{}0-9-]{0,24}") {
            let _ = compile(&pattern);
        }
    }
}
