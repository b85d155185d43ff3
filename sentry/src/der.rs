//! Writing DER: the few shapes that certificates are made of. Each function returns a whole element.

use std::time::SystemTime;

use jiff::Timestamp;

const SEQUENCE: u8 = 0x30;

/// Tag, length, content.
pub(crate) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 6);
    out.push(tag);
    let length = content.len();
    if let Ok(short @ 0..=127) = u8::try_from(length) {
        out.push(short);
    } else {
        let bytes = length.to_be_bytes();
        let skip = bytes.iter().take_while(|byte| **byte == 0).count();
        let long = &bytes[skip..];
        // A length never has more than eight bytes.
        out.push(0x80 | u8::try_from(long.len()).unwrap_or(8));
        out.extend_from_slice(long);
    }
    out.extend_from_slice(content);
    out
}

pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    element(SEQUENCE, &parts.concat())
}

pub(crate) fn set(parts: &[&[u8]]) -> Vec<u8> {
    element(0x31, &parts.concat())
}

/// An unsigned number, most significant byte first.
pub(crate) fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let skip = bytes.iter().take_while(|byte| **byte == 0).count();
    let bytes = &bytes[skip..];
    match bytes.first() {
        None => element(2, &[0]),
        // The highest bit would make it negative.
        Some(first) if first & 0x80 != 0 => element(2, &[&[0], bytes].concat()),
        Some(_) => element(2, bytes),
    }
}

/// An object identifier whose content is encoded already.
pub(crate) fn oid(content: &[u8]) -> Vec<u8> {
    element(6, content)
}

pub(crate) fn octets(content: &[u8]) -> Vec<u8> {
    element(4, content)
}

pub(crate) const fn truth() -> [u8; 3] {
    [1, 1, 0xff]
}

/// A bit string of whole bytes.
pub(crate) fn bits(content: &[u8]) -> Vec<u8> {
    element(3, &[&[0], content].concat())
}

/// Named bits: DER wants trailing zeros gone.
pub(crate) fn flags(byte: u8) -> Vec<u8> {
    let unused = u8::try_from(byte.trailing_zeros().min(7)).unwrap_or(0);
    element(3, &[unused, byte])
}

/// `[n]` around whole elements.
pub(crate) fn explicit(n: u8, content: &[u8]) -> Vec<u8> {
    element(0xa0 | n, content)
}

/// `[n]` in place of the tag of a primitive element.
pub(crate) fn implicit(n: u8, content: &[u8]) -> Vec<u8> {
    element(0x80 | n, content)
}

/// A text as Go writes it: `PrintableString` if its characters allow, else `UTF8String`.
pub(crate) fn text(text: &str) -> Vec<u8> {
    let printable = |b: u8| b.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&b);
    let tag = if text.bytes().all(printable) { 0x13 } else { 0x0c };
    element(tag, text.as_bytes())
}

/// `UTCTime` until 2049, `GeneralizedTime` from then on, to the second.
pub(crate) fn time(time: SystemTime) -> Vec<u8> {
    let time = Timestamp::try_from(time).unwrap_or(Timestamp::MAX);
    // 1950 to 2049 in UTC.
    let (format, tag) = if (-631_152_000..2_524_608_000).contains(&time.as_second()) {
        ("%y%m%d%H%M%SZ", 0x17)
    } else {
        ("%Y%m%d%H%M%SZ", 0x18)
    };
    element(tag, time.strftime(format).to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn lengths_numbers_and_times_are_as_der_wants_them() {
        assert_eq!(element(4, &[7; 3]), [4, 3, 7, 7, 7]);
        assert_eq!(element(4, &[0; 200])[..3], [4, 0x81, 200]);
        assert_eq!(element(4, &[0; 300])[..4], [4, 0x82, 1, 44]);
        assert_eq!(unsigned(&[0, 0, 5]), [2, 1, 5]);
        assert_eq!(unsigned(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(unsigned(&[]), [2, 1, 0]);
        assert_eq!(flags(0b1000_0000), [3, 2, 7, 0x80]);
        assert_eq!(flags(0b1000_0110), [3, 2, 1, 0b1000_0110]);
        let at = |seconds| time(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0)[2..], *b"700101000000Z");
        assert_eq!(at(2_524_607_999)[2..], *b"491231235959Z");
        assert_eq!(at(2_524_608_000), [&[0x18, 15], &b"20500101000000Z"[..]].concat());
    }

    #[test]
    fn texts_that_no_printable_string_can_hold_are_utf8() {
        assert_eq!(text("spiffe://a.b/ns/c-d")[0], 0x13);
        assert_eq!(text("a_b")[0], 0x0c);
    }
}
