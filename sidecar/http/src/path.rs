//! Path cleaning and parameter decoding as Go's router does it (contract `http-api`, section 1).

use std::borrow::Cow;

/// The escaped path with `//`, `/./` and `/../` collapsed, always starting with `/`; a trailing slash is kept.
pub(crate) fn clean(path: &str) -> Cow<'_, str> {
    if is_clean(path) {
        return Cow::Borrowed(path);
    }
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    let mut cleaned = String::with_capacity(path.len());
    for segment in &segments {
        cleaned.push('/');
        cleaned.push_str(segment);
    }
    // Go's path.Clean drops the trailing slash, and chi's CleanPath leaves it so.
    if cleaned.is_empty() {
        cleaned.push('/');
    }
    Cow::Owned(cleaned)
}

fn is_clean(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else {
        return false;
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    rest.is_empty() && path == "/"
        || !rest.is_empty() && rest.split('/').all(|s| !matches!(s, "" | "." | ".."))
}

/// A percent escape that is not two hex digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid URL escape \"{0}\"")]
pub(crate) struct BadEscape(pub(crate) String);

/// Go's `url.QueryUnescape`: percent escapes decoded, `+` is a space. Bytes that are not UTF-8 become U+FFFD.
///
/// # Errors
/// The offending escape, as Go prints it.
pub(crate) fn query_unescape(text: &str) -> Result<String, BadEscape> {
    unescape(text, true)
}

/// Go's `url.PathUnescape`: as [`query_unescape`], but `+` stays.
///
/// # Errors
/// The offending escape, as Go prints it.
pub(crate) fn path_unescape(text: &str) -> Result<String, BadEscape> {
    unescape(text, false)
}

fn unescape(text: &str, plus_is_space: bool) -> Result<String, BadEscape> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|b| *b == b'%' || plus_is_space && *b == b'+') {
        return Ok(text.to_owned());
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let digits = bytes
                    .get(at + 1..at + 3)
                    .and_then(|pair| Some(hex(pair[0])? << 4 | hex(pair[1])?));
                let Some(byte) = digits else {
                    let end = bytes.len().min(at + 3);
                    return Err(BadEscape(String::from_utf8_lossy(&bytes[at..end]).into_owned()));
                };
                out.push(byte);
                at += 3;
            }
            b'+' if plus_is_space => {
                out.push(b' ');
                at += 1;
            }
            byte => {
                out.push(byte);
                at += 1;
            }
        }
    }
    Ok(String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// The query's `key=value` pairs as Go's `url.ParseQuery` reads them: pairs that do not decode, and pairs with a
/// semicolon, are left out.
pub(crate) fn query_pairs(query: &str) -> impl Iterator<Item = (String, String)> + '_ {
    query
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.contains(';'))
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((query_unescape(key).ok()?, query_unescape(value).ok()?))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_follows_go() {
        for (path, cleaned) in [
            ("/v1.0/x/../healthz", "/v1.0/healthz"),
            ("//v1.0//healthz", "/v1.0/healthz"),
            ("/v1.0/healthz/", "/v1.0/healthz/"),
            ("/", "/"),
            ("/..", "/"),
            ("/a/./b", "/a/b"),
            ("/a//", "/a"),
            ("", "/"),
        ] {
            assert_eq!(clean(path), cleaned, "{path}");
        }
    }

    #[test]
    fn unescaping_follows_go() {
        assert_eq!(query_unescape("a+b%2Fc").unwrap(), "a b/c");
        assert_eq!(path_unescape("a+b%2Fc").unwrap(), "a+b/c");
        assert_eq!(
            query_unescape("a%ZZb").unwrap_err().to_string(),
            "invalid URL escape \"%ZZ\""
        );
        assert_eq!(
            query_unescape("a%2").unwrap_err().to_string(),
            "invalid URL escape \"%2\""
        );
    }

    #[test]
    fn first_wins_is_left_to_the_caller_and_odd_pairs_are_skipped() {
        let pairs: Vec<_> = query_pairs("a=1&b=%ZZ&c;d=2&e&a=3").collect();
        assert_eq!(
            pairs,
            [
                ("a".into(), "1".into()),
                ("e".into(), String::new()),
                ("a".into(), "3".into())
            ] as [(String, String); 3]
        );
    }
}
