//! Method names: normalised once, before anything decides about them (contract `service-invocation`, section 2).

use std::borrow::Cow;

use super::InvokeError;

/// Rejects what no method name may hold, then cleans the path lexically; a leading `/` is kept.
///
/// # Errors
/// `#`, `?`, NUL and control characters.
pub fn normalize(method: &str) -> Result<Cow<'_, str>, InvokeError> {
    if method.contains(['#', '?', '\0']) {
        return Err(InvokeError::invalid_method(method, None));
    }
    if let Some(position) = method.find(|c: char| c < ' ' || c == '\x7f') {
        return Err(InvokeError::invalid_method(method, Some(position)));
    }
    Ok(outrigger_model::path::clean(method))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_without_leaving_the_root() {
        for (method, clean) in [
            ("items", "items"),
            ("x/../items", "items"),
            ("../../items", "items"),
            ("a//b/./c", "a/b/c"),
            ("/a/../b", "/b"),
            ("..", ""),
            (".", ""),
            ("a/", "a"),
            ("%2e%2e/\"*\\", "%2e%2e/\"*\\"),
        ] {
            assert_eq!(normalize(method).unwrap(), clean, "{method}");
        }
    }

    #[test]
    fn control_characters_and_query_marks_are_refused() {
        for method in ["a#b", "a?b", "a\0b", "a\x1fb", "a\x7fb"] {
            assert!(normalize(method).is_err(), "{method:?}");
        }
    }
}
