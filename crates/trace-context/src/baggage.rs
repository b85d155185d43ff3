//! W3C baggage (contract `observability`, section 4.2): checked with the rules and texts of OpenTelemetry's Go library,
//! which Dapr passes on to callers.

use std::borrow::Cow;

use http::HeaderMap;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use thiserror::Error;

/// Header of the baggage.
pub const BAGGAGE: &str = "baggage";

/// Limits of the W3C recommendation.
const MAX_MEMBERS: usize = 180;
const MAX_MEMBER_BYTES: usize = 4096;
const MAX_BYTES: usize = 8192;

/// Why a baggage header is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BaggageError {
    /// More than 8192 bytes.
    #[error("baggage-string too large: {0}")]
    TooLarge(usize),
    /// A member of more than 4096 bytes.
    #[error("list-member too large: {0}")]
    MemberTooLarge(usize),
    /// More than 180 different members.
    #[error("too many list-members in baggage-string")]
    TooMany,
    /// A member without `=`.
    #[error("invalid baggage list-member: {0:?}")]
    Member(String),
    /// A property that is neither a key nor a key with a value.
    #[error("invalid baggage list-member property: {0:?}")]
    Property(String),
    /// A key that is not a token.
    #[error("invalid key: {0:?}")]
    Key(String),
    /// A value with characters that must be percent-encoded.
    #[error("invalid value: {0:?}")]
    Value(String),
    /// A value with a percent sign that encodes nothing.
    #[error("invalid value: invalid URL escape {0:?}")]
    Escape(String),
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
    members(text).map(drop)
}

/// A baggage text as OpenTelemetry writes it again after reading it: no blanks, values encoded where they must be, of
/// members with the same key the last one. The order stays (in Go it is random). Encoding can make it longer than what is
/// accepted, as it does there.
///
/// # Errors
/// The first offence.
pub fn rewrite(text: &str) -> Result<String, BaggageError> {
    let members: Vec<String> = members(text)?.iter().map(Member::write).collect();
    Ok(members.join(","))
}

/// A member: key, value and properties, all of them valid.
struct Member<'a> {
    key: &'a str,
    value: &'a str,
    properties: Vec<(&'a str, Option<&'a str>)>,
}

impl Member<'_> {
    fn write(&self) -> String {
        let mut out = format!("{}={}", self.key, encode(self.value));
        for (key, value) in &self.properties {
            out.push(';');
            out.push_str(key);
            if let Some(value) = value {
                out.push('=');
                out.push_str(&encode(value));
            }
        }
        out
    }
}

fn members(text: &str) -> Result<Vec<Member<'_>>, BaggageError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    if text.len() > MAX_BYTES {
        return Err(BaggageError::TooLarge(text.len()));
    }
    let mut members: Vec<Member<'_>> = Vec::new();
    for member in text.split(',').map(member) {
        let member = member?;
        match members.iter().position(|other| other.key == member.key) {
            Some(same) => members[same] = member,
            // Stops at once: looking for repetitions among thousands of members would cost more than it is worth.
            None if members.len() == MAX_MEMBERS => return Err(BaggageError::TooMany),
            None => members.push(member),
        }
    }
    Ok(members)
}

fn member(member: &str) -> Result<Member<'_>, BaggageError> {
    if member.len() > MAX_MEMBER_BYTES {
        return Err(BaggageError::MemberTooLarge(member.len()));
    }
    let mut parts = member.split(';');
    let pair = parts.next().unwrap_or_default();
    let properties = parts.map(property).collect::<Result<_, _>>()?;
    let Some((key, value)) = pair.split_once('=') else {
        return Err(BaggageError::Member(member.to_owned()));
    };
    let key = key.trim();
    if !is_key(key) {
        return Err(BaggageError::Key(key.to_owned()));
    }
    if !value.trim().bytes().all(is_value) {
        return Err(BaggageError::Value(value.to_owned()));
    }
    let value = value.trim();
    check_escapes(value)?;
    Ok(Member {
        key,
        value,
        properties,
    })
}

fn property(property: &str) -> Result<(&str, Option<&str>), BaggageError> {
    let blank = [' ', '\t'];
    let (key, value) = match property.split_once('=') {
        Some((key, value)) => (key.trim_matches(blank), Some(value.trim_matches(blank))),
        None => (property.trim_matches(blank), None),
    };
    let fine = |value: &str| value.bytes().all(is_value) && check_escapes(value).is_ok();
    if !is_key(key) || !value.is_none_or(fine) {
        return Err(BaggageError::Property(property.to_owned()));
    }
    Ok((key, value))
}

/// Every percent sign has to be followed by two hexadecimal digits.
fn check_escapes(value: &str) -> Result<(), BaggageError> {
    for (at, _) in value.match_indices('%') {
        // A value is ASCII, so any cut is between characters.
        let escape = &value[at..value.len().min(at + 3)];
        if escape.len() < 3 || !escape[1..].bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(BaggageError::Escape(escape.to_owned()));
        }
    }
    Ok(())
}

/// Everything that [`is_value`] refuses, and the percent sign.
const ENCODED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'%')
    .add(b',')
    .add(b';')
    .add(b'\\');

/// Decodes a value and encodes what must be. What decodes to no UTF-8 becomes U+FFFD.
fn encode(value: &str) -> Cow<'_, str> {
    if !value.contains('%') {
        return Cow::Borrowed(value);
    }
    let decoded = percent_decode_str(value).decode_utf8_lossy();
    Cow::Owned(utf8_percent_encode(&decoded, ENCODED).to_string())
}

fn is_key(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(is_token)
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
    use proptest::prelude::*;

    #[test]
    fn good_baggage_passes() {
        for text in [
            "",
            "a=1",
            "a=1,b=2;prop=x;flag ; k = v ",
            " a = 1 ",
            "k=v%20w",
            "a=",
            "a=b=c",
            "a=1;p=",
        ] {
            assert_eq!(check_text(text), Ok(()), "{text}");
        }
        // Members with the same key count once.
        assert_eq!(check_text(&["a=1"; 200].join(",")), Ok(()));
    }

    #[test]
    fn bad_baggage_is_refused_in_opentelemetrys_words() {
        let many: Vec<String> = (0..181).map(|number| format!("k{number}=1")).collect();
        for (text, error) in [
            ("not a baggage", "invalid baggage list-member: \"not a baggage\""),
            ("a=1,", "invalid baggage list-member: \"\""),
            (" ", "invalid baggage list-member: \" \""),
            ("a b=1", "invalid key: \"a b\""),
            ("=1", "invalid key: \"\""),
            ("a= \"1\"", "invalid value: \" \\\"1\\\"\""),
            ("a=%zz", "invalid value: invalid URL escape \"%zz\""),
            ("a=x%2", "invalid value: invalid URL escape \"%2\""),
            ("a=1;", "invalid baggage list-member property: \"\""),
            ("a=1;b c", "invalid baggage list-member property: \"b c\""),
            ("a=1;b=%", "invalid baggage list-member property: \"b=%\""),
            (&many.join(","), "too many list-members in baggage-string"),
            (
                &("a=".to_owned() + &"x".repeat(4095)),
                "list-member too large: 4097",
            ),
            (&"a=1,".repeat(2049), "baggage-string too large: 8196"),
        ] {
            assert_eq!(check_text(text).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn rewriting_drops_blanks_repetitions_and_needless_escapes() {
        assert_eq!(
            rewrite(" a = %41%20%c3%a9%ff ; p ; q = 1 ,b=2,a=3;x").as_deref(),
            Ok("a=3;x,b=2")
        );
        assert_eq!(
            rewrite("k= %41%20%c3%a9%ff%25 ; p").as_deref(),
            Ok("k=A%20%C3%A9%EF%BF%BD%25;p")
        );
    }

    proptest! {
        #[test]
        fn what_passes_can_be_rewritten_and_passes_again(text in "[a-c=;, %41\"\\\\é]{0,24}") {
            if let Ok(rewritten) = rewrite(&text) {
                prop_assert_eq!(rewrite(&rewritten), Ok(rewritten));
            }
        }
    }
}
