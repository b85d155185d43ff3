//! Go's `%q`: how texts stand in Go's messages and log lines.

use std::fmt::Write as _;

/// A text in double quotes, escaped as Go does.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    push_quoted(&mut out, text);
    out
}

/// Appends a text in double quotes, escaped as Go does.
pub fn push_quoted(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            // Writing to a String cannot fail.
            '\0'..='\u{7f}' => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            _ if is_printable(c) => out.push(c),
            '\u{80}'..='\u{ffff}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            _ => {
                let _ = write!(out, "\\U{:08x}", u32::from(c));
            }
        }
    }
    out.push('"');
}

/// Whether a character beyond ASCII is shown as it is.
fn is_printable(c: char) -> bool {
    let mut escaped = c.escape_debug();
    escaped.next() != Some('\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_as_go_quotes_them() {
        for (text, want) in [
            ("", r#""""#),
            ("a b", r#""a b""#),
            ("q\"\\\n\t\r", r#""q\"\\\n\t\r""#),
            ("\u{7}\u{8}\u{b}\u{c}\u{1}\u{7f}", r#""\a\b\v\f\x01\x7f""#),
            ("é…日", r#""é…日""#),
            ("\u{85}\u{200b}\u{2028}", r#""\u0085\u200b\u2028""#),
            ("\u{e0001}", r#""\U000e0001""#),
        ] {
            assert_eq!(quote(text), want);
        }
    }
}
