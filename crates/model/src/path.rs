//! What a path may come to mean. Whoever stands behind a check may decode escapes again, or resolve `..` in what it decoded;
//! so a decision about a path is one about all of its readings.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Escapes within escapes that are followed. Nobody needs more than two of them.
const DEEPEST: usize = 8;

/// The path without empty segments, `.` and `..`, which never leads out of the root. A leading slash is kept, a trailing
/// one is not.
pub fn clean(path: &str) -> Cow<'_, str> {
    let rest = path.strip_prefix('/').unwrap_or(path);
    if rest.split('/').all(|segment| !matches!(segment, "" | "." | "..")) {
        return Cow::Borrowed(path);
    }
    let mut segments: Vec<&str> = Vec::new();
    for segment in rest.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    let joined = segments.join("/");
    Cow::Owned(if rest.len() == path.len() {
        joined
    } else {
        format!("/{joined}")
    })
}

/// Whether something holds of a path as it is written, cleaned, and after each decoding of its escapes, as often as
/// there is something to decode; each is asked about, in this order, until it does not hold. `false` for a path with
/// escapes within escapes within escapes (more than eight times), whatever it would mean.
pub fn every_reading(path: &str, mut holds: impl FnMut(&str) -> bool) -> bool {
    let cleaned = clean(path);
    if !holds(path) || cleaned != path && !holds(&cleaned) {
        return false;
    }
    if !path.contains('%') {
        return true;
    }
    // One reader decodes to the end and then cleans, another cleans after each decoding; `a%2fb/%2e%2e` differs.
    let (mut decoded, mut tidy) = (path.to_owned(), cleaned.into_owned());
    for _ in 0..DEEPEST {
        let (next, next_tidy) = (decode(&decoded), decode(&tidy));
        if next == decoded && next_tidy == tidy {
            return true;
        }
        decoded = next;
        tidy = clean(&next_tidy).into_owned();
        let cleaned = clean(&decoded);
        if !holds(&cleaned) || cleaned != tidy && !holds(&tidy) {
            return false;
        }
    }
    decode(&decoded) == decoded && decode(&tidy) == tidy
}

/// The last of a path's readings: decoded as often as there is something to decode, and cleaned. `None` where
/// [`every_reading`] says `false`.
pub fn canonical(path: &str) -> Option<String> {
    let mut last = String::new();
    every_reading(path, |reading| {
        reading.clone_into(&mut last);
        true
    })
    .then_some(last)
}

/// Decodes once. A percent sign that starts no escape stays, and so do escapes of bytes that make no text.
fn decode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let bytes = Cow::<[u8]>::from(percent_encoding::percent_decode_str(text));
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(path: &str) -> (Vec<String>, bool) {
        let mut seen = Vec::new();
        let all = every_reading(path, |reading| {
            seen.push(reading.to_owned());
            true
        });
        (seen, all)
    }

    #[test]
    fn paths_are_cleaned_without_leaving_the_root() {
        for (path, cleaned) in [
            ("items", "items"),
            ("x/../items", "items"),
            ("../../items", "items"),
            ("a//b/./c", "a/b/c"),
            ("/a/../b", "/b"),
            ("//a", "/a"),
            ("..", ""),
            ("/..", "/"),
            ("a/", "a"),
        ] {
            assert_eq!(clean(path), cleaned, "{path}");
        }
    }

    #[test]
    fn every_way_to_read_a_path_is_asked_about() {
        for (path, expected) in [
            ("/a", &["/a"][..]),
            ("//a/", &["//a/", "/a"]),
            ("/%61", &["/%61", "/a"]),
            ("/%2561", &["/%2561", "/%61", "/a"]),
            ("/a/%252e%252e/b", &["/a/%252e%252e/b", "/a/%2e%2e/b", "/b"]),
            // The one reader is at `b`, the other goes up from `q` only.
            ("p%252fq/%2e%2e/b", &["p%252fq/%2e%2e/b", "b", "p/b", "b"]),
            ("/%zz%61", &["/%zz%61", "/%zza"]),
            ("/%ff%2561", &["/%ff%2561", "/%FF%61", "/%FFa"]),
        ] {
            assert_eq!(
                readings(path),
                (expected.iter().map(|text| (*text).to_owned()).collect(), true),
                "{path}"
            );
        }
    }

    #[test]
    fn escapes_are_followed_to_their_end_or_nothing_holds() {
        let nested = |depth: usize| format!("/%{}61", "25".repeat(depth));
        assert_eq!(canonical(&nested(7)).as_deref(), Some("/a"));
        assert_eq!(canonical(&nested(8)), None);
        assert!(!every_reading(&nested(5000), |_| true));
    }

    proptest::proptest! {
        #[test]
        fn the_last_reading_has_nothing_left_to_decode_or_clean(path in "[a./%25ef0-9é]{0,24}") {
            if let Some(last) = canonical(&path) {
                proptest::prop_assert!(clean(&last) == last.as_str(), "{last:?}");
                proptest::prop_assert_eq!(canonical(&last), Some(last));
            }
        }
    }
}
