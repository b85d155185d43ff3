//! Why a text is no JSON, in Go's words.

use thiserror::Error;

/// Why a document could not be read. The texts are those of Go's `encoding/json`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// A character where the grammar allows none.
    #[error("invalid character {} {context}", quote_byte(*.byte))]
    InvalidCharacter {
        /// The byte that was met; a space stands for the end of the document inside a literal, as in Go.
        byte: u8,
        /// Where it was met: `looking for beginning of value`.
        context: &'static str,
    },
    /// The document ended within a value ([`parse`](crate::parse())).
    #[error("unexpected end of JSON input")]
    UnexpectedEnd,
    /// There is nothing but white space ([`parse_first`](crate::parse_first)).
    #[error("EOF")]
    Eof,
    /// The document ended within its first value ([`parse_first`](crate::parse_first)).
    #[error("unexpected EOF")]
    UnexpectedEof,
    /// A value of another kind than the one asked for; also a number too large for Go's `float64`.
    #[error("json: cannot unmarshal {found} into Go {target}")]
    Mismatch {
        /// The kind of value, a number with its text: `string`, `number 1e999`.
        found: String,
        /// What Go would have put it into: `value of type float64`, `struct field SetRequest.etag of type string`.
        target: String,
    },
}

impl Error {
    /// A value of a kind that Go could not put into `target` (`value of type []string`).
    pub fn mismatch(found: &crate::Value, target: impl Into<String>) -> Self {
        Self::Mismatch {
            found: found.kind().to_owned(),
            target: target.into(),
        }
    }

    /// A number beyond the range of Go's `float64`.
    pub(crate) fn float_range(number: &str) -> Self {
        Self::Mismatch {
            found: format!("number {number}"),
            target: "value of type float64".to_owned(),
        }
    }
}

/// A byte in single quotes, as Go's scanner names it: read as Latin-1, unprintable ones escaped.
fn quote_byte(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        0x07 => r"'\a'".to_owned(),
        0x08 => r"'\b'".to_owned(),
        0x0c => r"'\f'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        0x0b => r"'\v'".to_owned(),
        0x00..=0x1f | 0x7f => format!(r"'\x{byte:02x}'"),
        0x80..=0xa0 | 0xad => format!(r"'\u{byte:04x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::quote_byte;

    #[test]
    fn bytes_are_named_as_go_names_them() {
        for (byte, name) in [
            (b'x', "'x'"),
            (b'"', "'\"'"),
            (b'\'', r"'\''"),
            (b'\\', r"'\\'"),
            (0x00, r"'\x00'"),
            (b'\n', r"'\n'"),
            (0x7f, r"'\x7f'"),
            (0x80, r"'\u0080'"),
            (0xef, "'ï'"),
        ] {
            assert_eq!(quote_byte(byte), name);
        }
    }
}
