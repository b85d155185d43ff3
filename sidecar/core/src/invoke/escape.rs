//! The path of a URL as Go's `net/url` writes it: the method of a call is taken for a URL path, so escapes in it
//! count, and a text that is no path fails the call.

use std::fmt::Write as _;

/// A percent sign without two hex digits after it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid URL escape {}", outrigger_process::quote::quote(.0))]
pub struct BadEscape(String);

/// The path as it goes onto the wire: unchanged if nothing in it needs escaping, else unescaped and escaped anew.
///
/// # Errors
/// The first percent sign that starts no escape.
pub fn path(text: &str) -> Result<String, BadEscape> {
    let bytes = unescape(text)?;
    if text.bytes().all(may_stay) {
        return Ok(text.to_owned());
    }
    let mut out = String::with_capacity(text.len() + 8);
    for byte in bytes {
        if needs_escape(byte) {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        } else {
            out.push(char::from(byte));
        }
    }
    Ok(out)
}

/// Decodes escapes; bytes that make no UTF-8 keep theirs.
///
/// # Errors
/// The first percent sign that starts no escape.
pub fn decode(text: &str) -> Result<String, BadEscape> {
    let bytes = unescape(text)?;
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    Ok(out)
}

fn unescape(text: &str) -> Result<Vec<u8>, BadEscape> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'%' {
            out.push(bytes[at]);
            at += 1;
            continue;
        }
        let digit = |offset: usize| bytes.get(at + offset).and_then(|b| char::from(*b).to_digit(16));
        let (Some(high), Some(low)) = (digit(1), digit(2)) else {
            let end = bytes.len().min(at + 3);
            return Err(BadEscape(String::from_utf8_lossy(&bytes[at..end]).into_owned()));
        };
        out.push(u8::try_from(high << 4 | low).unwrap_or_default());
        at += 3;
    }
    Ok(out)
}

/// Characters that a path given in escaped form may hold as they are.
const fn may_stay(byte: u8) -> bool {
    !needs_escape(byte) || matches!(byte, b'!' | b'\'' | b'(' | b')' | b'*' | b'[' | b']' | b'%')
}

/// Characters that are escaped when a path is written.
const fn needs_escape(byte: u8) -> bool {
    !(byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'_' | b'.' | b'~' | b'$' | b'&' | b'+' | b',' | b'/' | b':' | b';' | b'=' | b'@'
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped_as_go_escapes_them() {
        for (text, expected) in [
            ("a/b", "a/b"),
            ("a b", "a%20b"),
            ("h\u{e9}", "h%C3%A9"),
            ("a%2Fb", "a%2Fb"),
            ("a%2fb c", "a/b%20c"),
            ("(x)!*'[y]", "(x)!*'[y]"),
            ("(x) \"", "%28x%29%20%22"),
            ("%FF", "%FF"),
            ("$&+,:;=@~", "$&+,:;=@~"),
            ("", ""),
        ] {
            assert_eq!(path(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn a_percent_sign_must_start_an_escape() {
        assert_eq!(path("a%b").unwrap_err().to_string(), "invalid URL escape \"%b\"");
        assert_eq!(
            path("a%zz1").unwrap_err().to_string(),
            "invalid URL escape \"%zz\""
        );
        assert!(decode("%").is_err());
    }

    #[test]
    fn bytes_that_are_no_text_keep_their_escapes() {
        assert_eq!(decode("a%20%C3%A9").unwrap(), "a \u{e9}");
        assert_eq!(decode("a%ffb").unwrap(), "a%FFb");
        assert_eq!(path(&decode("a%ffb").unwrap()).unwrap(), "a%FFb");
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_a_path_that_stays(text in "\\PC*") {
            if let Ok(written) = path(&text) {
                proptest::prop_assert!(written.is_ascii());
                proptest::prop_assert_eq!(path(&written).unwrap(), written);
            }
        }
    }
}
