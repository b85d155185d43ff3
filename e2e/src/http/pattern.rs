//! Placeholders in recorded texts.
//!
//! The recorder replaced values that vary by placeholders. Instead of doing the same to what we observe, which would
//! also hide values that must not vary (an id the request itself named), a recorded text is taken as a pattern:
//! `<uuid>` matches any UUID and nothing else.

use std::collections::BTreeMap;

use regex::Regex;

/// Placeholders whose values vary in every run: name and what they match.
const SHAPES: [(&str, &str); 13] = [
    (
        "uuid",
        "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    ),
    ("traceparent", "00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]"),
    ("span", "[0-9a-f]{16}"),
    (
        "time",
        // RFC 3339, or as Go prints a time.
        r"\d{4}-\d\d-\d\d(?:T\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)| \d\d:\d\d:\d\d(?:\.\d+)? [+-]\d{4} \S+)",
    ),
    ("port", r"\d{1,5}"),
    ("host-ip", r"(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f:]*:[0-9a-f:]*)"),
    ("version", r"v?\d[0-9A-Za-z.+-]*|edge|unknown"),
    // Those of the gRPC vectors.
    ("host", r"\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f:]*:[0-9a-f:]*"),
    (
        "go-time",
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? [+-]\d{4} \S+(?: m=\S+)?",
    ),
    (
        "http-date",
        r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z][a-z] \d{4} \d\d:\d\d:\d\d GMT",
    ),
    ("trace-bin", "[A-Za-z0-9+/=]+"),
    ("ignored", ".*"),
    (
        "not resolved",
        "couldn't find service: .+|timeout waiting for address for app id .+",
    ),
];

/// The values of this run, by name of their placeholder: `app-port`, `app-port:callee`, `tmp`, `hostname`, ...
#[derive(Debug, Clone, Default)]
pub struct Values {
    known: BTreeMap<String, String>,
}

impl Values {
    /// Values by name without the angle brackets.
    #[must_use]
    pub fn new(known: BTreeMap<String, String>) -> Self {
        Self { known }
    }

    /// Whether `actual` is what the recorded text `expected` describes.
    #[must_use]
    pub fn matches(&self, expected: &str, actual: &str) -> bool {
        if expected == actual {
            return true;
        }
        if !expected.contains('<') {
            return false;
        }
        let mut pattern = String::from(r"(?s)\A");
        let mut encoded = Vec::new();
        let mut varies = false;
        let mut rest = expected;
        while let Some(at) = rest.find('<') {
            pattern.push_str(&regex::escape(&rest[..at]));
            rest = &rest[at..];
            if let Some((shape, length)) = self.placeholder(rest, &mut encoded) {
                pattern.push_str(&shape);
                rest = &rest[length..];
                varies = true;
            } else {
                pattern.push('<');
                rest = &rest[1..];
            }
        }
        if !varies {
            return false;
        }
        pattern.push_str(&regex::escape(rest));
        pattern.push_str(r"\z");
        let pattern = Regex::new(&pattern).expect("escaped text and fixed shapes make a pattern");
        let Some(found) = pattern.captures(actual) else {
            return false;
        };
        encoded
            .iter()
            .enumerate()
            .all(|(index, inner)| self.matches_encoded(inner, &found[index + 1]))
    }

    /// The pattern of the placeholder at the start of `text` and its length in `text`.
    fn placeholder<'t>(&self, text: &'t str, encoded: &mut Vec<&'t str>) -> Option<(String, usize)> {
        if let Some(inner) = text.strip_prefix("<base64:") {
            let end = closing(inner)?;
            encoded.push(&inner[..end]);
            return Some(("([A-Za-z0-9+/=_-]*)".to_owned(), "<base64:".len() + end + 1));
        }
        let name = &text[1..text.find('>')?];
        let length = name.len() + 2;
        if let Some(value) = self.known.get(name) {
            return Some((regex::escape(value), length));
        }
        let (_, shape) = SHAPES.iter().find(|(n, _)| *n == name)?;
        Some((format!("(?:{shape})"), length))
    }

    fn matches_encoded(&self, expected: &str, base64: &str) -> bool {
        let decoded = super::vector::unbase64(base64).and_then(|bytes| String::from_utf8(bytes).ok());
        decoded.is_some_and(|text| super::compare::same_text(self, expected, &text))
    }
}

/// Where the `>` is that closes a bracket opened before `text`.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 1;
    for (at, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Values {
        let known = [
            ("app-port", "1234"),
            ("app-port:b", "99"),
            ("tmp", "/tmp/x.y"),
            ("hostname", "box"),
        ];
        Values::new(
            known
                .into_iter()
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
                .collect(),
        )
    }

    #[test]
    fn text_without_placeholders_must_be_equal() {
        let v = values();
        assert!(v.matches("a.c", "a.c"));
        assert!(!v.matches("a.c", "abc"));
        assert!(v.matches("<b>1</b>", "<b>1</b>"));
        assert!(!v.matches("<b>1</b>", "<b>2</b>"));
    }

    #[test]
    fn placeholders_match_their_shape_and_nothing_else() {
        let v = values();
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(v.matches("<traceparent>", trace));
        assert!(!v.matches("<traceparent>", &trace[1..]));
        assert!(v.matches("00-0af7651916cd43dd8448eb211c80319c-<span>-01", trace));
        assert!(!v.matches("00-1af7651916cd43dd8448eb211c80319c-<span>-01", trace));
        assert!(v.matches("id <uuid>!", "id 123e4567-e89b-12d3-a456-426614174000!"));
        assert!(!v.matches("id <uuid>!", "id 123e4567-e89b-12d3-a456-42661417400!"));
        assert!(v.matches("<time>", "2026-11-23T20:15:25Z"));
        assert!(v.matches("<time>", "2026-11-23T20:15:25.123456789+01:00"));
        assert!(!v.matches("<time>", "2026-11-23 20:15:25"));
        assert!(v.matches(
            "for=<host-ip>;by=<host-ip>;host=<hostname>",
            "for=10.0.0.1;by=10.0.0.1;host=box"
        ));
        assert!(!v.matches("for=<host-ip>;host=<hostname>", "for=10.0.0.1;host=other"));
        assert!(v.matches("127.0.0.1:<port>-><app-port>", "127.0.0.1:40000->1234"));
        assert!(v.matches("<version>", "1.18.0-rc.1"));
    }

    #[test]
    fn values_of_the_run_are_matched_exactly() {
        let v = values();
        assert!(v.matches("http://127.0.0.1:<app-port:b>/x", "http://127.0.0.1:99/x"));
        assert!(!v.matches("http://127.0.0.1:<app-port>/x", "http://127.0.0.1:99/x"));
        assert!(v.matches("open <tmp>/store", "open /tmp/x.y/store"));
        assert!(!v.matches("open <tmp>/store", "open /tmp/xzy/store"));
    }

    #[test]
    fn base64_is_decoded_and_its_text_matched() {
        use base64::Engine as _;
        let v = values();
        let encode = |t: &str| base64::engine::general_purpose::STANDARD.encode(t);
        let expected = "d: <base64:{\"id\":\"<uuid>\",\"n\":1}>";
        let right = encode("{\"id\":\"123e4567-e89b-12d3-a456-426614174000\",\"n\":1}");
        assert!(v.matches(expected, &format!("d: {right}")));
        let wrong = encode("{\"id\":\"123e4567-e89b-12d3-a456-426614174000\",\"n\":2}");
        assert!(!v.matches(expected, &format!("d: {wrong}")));
        assert!(!v.matches(expected, "d: AAAA"));
    }
}
