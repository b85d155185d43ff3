//! Base64 as Go's `base64.StdEncoding` reads it: padded, line breaks do not count, and what the last character has too
//! many bits of is not looked at.

use std::borrow::Cow;

use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{DecodeError, Engine as _};

const GO: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// The bytes that a text stands for.
///
/// # Errors
/// Where the text is no base64, counted in bytes.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, usize> {
    let is_break = |c: char| matches!(c, '\r' | '\n');
    let one_line: Cow<'_, str> = if text.contains(is_break) {
        text.replace(is_break, "").into()
    } else {
        text.into()
    };
    GO.decode(&*one_line).map_err(|error| {
        let at = match error {
            DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => at,
            DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => one_line.len(),
        };
        // Back to where it was before the breaks were taken out.
        let mut kept = text.char_indices().filter(|(_, c)| !is_break(*c));
        kept.nth(at).map_or(text.len(), |(found, _)| found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_go_reads_them() {
        for (text, want) in [
            ("", Ok(&b""[..])),
            ("aGk=", Ok(b"hi")),
            ("aG\r\nk=\n", Ok(b"hi")),
            // Bits beyond the last byte.
            ("aGl=", Ok(b"hi")),
            ("aGk", Err(3)),
            ("a\nG!=", Err(3)),
            ("aGé=", Err(2)),
            ("a-_=", Err(1)),
        ] {
            assert_eq!(decode(text).as_deref().map_err(|at| *at), want, "{text:?}");
        }
    }
}
