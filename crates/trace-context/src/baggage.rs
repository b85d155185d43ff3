//! W3C baggage is checked, never changed (contract `observability`, section 4.2).

use http::HeaderMap;
use thiserror::Error;

/// Header of the baggage.
pub const BAGGAGE: &str = "baggage";

/// Limits of the W3C recommendation.
const MAX_MEMBERS: usize = 180;
const MAX_BYTES: usize = 8192;

/// Why a baggage header is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BaggageError {
    /// More than 180 members or 8192 bytes.
    #[error("baggage is too large: at most 180 members and 8192 bytes")]
    TooLarge,
    /// A member without `=`.
    #[error("invalid baggage list-member: {0:?}")]
    Member(String),
    /// A key that is not a token.
    #[error("invalid key: {0:?}")]
    Key(String),
    /// A value with characters that must be percent-encoded.
    #[error("invalid value: {0:?}")]
    Value(String),
}

/// All `baggage` header values joined by commas; `None` when there is none.
pub fn joined(headers: &HeaderMap) -> Option<String> {
    let mut values = headers
        .get_all(BAGGAGE)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let first = values.next()?;
    Some(values.fold(first, |all, value| all + "," + &value))
}

/// Checks the headers' baggage.
///
/// # Errors
/// The first offence.
pub fn check(headers: &HeaderMap) -> Result<(), BaggageError> {
    if !headers.contains_key(BAGGAGE) {
        return Ok(());
    }
    joined(headers).map_or(Ok(()), |text| check_text(&text))
}

/// Checks a baggage text.
///
/// # Errors
/// The first offence.
pub fn check_text(text: &str) -> Result<(), BaggageError> {
    if text.trim().is_empty() {
        return Ok(());
    }
    if text.len() > MAX_BYTES || text.split(',').count() > MAX_MEMBERS {
        return Err(BaggageError::TooLarge);
    }
    text.split(',').try_for_each(check_member)
}

fn check_member(member: &str) -> Result<(), BaggageError> {
    let pair = member.split(';').next().unwrap_or_default();
    let (key, value) = pair
        .split_once('=')
        .ok_or_else(|| BaggageError::Member(member.to_owned()))?;
    let (key, value) = (key.trim(), value.trim());
    if key.is_empty() || !key.bytes().all(is_token) {
        return Err(BaggageError::Key(key.to_owned()));
    }
    if !value.bytes().all(is_value) {
        return Err(BaggageError::Value(value.to_owned()));
    }
    Ok(())
}

/// RFC 7230 token characters.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

/// baggage-octet of the recommendation.
const fn is_value(byte: u8) -> bool {
    matches!(byte, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_baggage_passes_and_bad_baggage_names_the_offence() {
        for text in ["", "a=1", "a=1,b=2;prop=x", " a = 1 ", "k=v%20w"] {
            assert_eq!(check_text(text), Ok(()), "{text}");
        }
        assert!(matches!(check_text("a"), Err(BaggageError::Member(_))));
        assert!(matches!(check_text("a b=1"), Err(BaggageError::Key(_))));
        assert!(matches!(check_text("a=\"1\""), Err(BaggageError::Value(_))));
        assert_eq!(check_text(&"a=1,".repeat(200)), Err(BaggageError::TooLarge));
    }
}
