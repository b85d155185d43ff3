//! SQL LIKE patterns: `%` any text, `_` any one character, `\` takes the next character as it is.

/// Whether the whole text matches; case matters.
pub(crate) fn like(pattern: &str, text: &str) -> bool {
    let pattern = parse(pattern);
    let text: Vec<char> = text.chars().collect();
    // The classic greedy match: on a mismatch, let the last `%` swallow one more character.
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(Part::Any) => {
                retry = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(Part::One) => {
                p += 1;
                t += 1;
                continue;
            }
            Some(Part::Char(c)) if *c == text[t] => {
                p += 1;
                t += 1;
                continue;
            }
            _ => {}
        }
        let Some((after, swallowed)) = retry else {
            return false;
        };
        retry = Some((after, swallowed + 1));
        p = after;
        t = swallowed + 1;
    }
    pattern[p..].iter().all(|part| *part == Part::Any)
}

#[derive(Debug, PartialEq)]
enum Part {
    Any,
    One,
    Char(char),
}

fn parse(pattern: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        parts.push(match c {
            '%' => Part::Any,
            '_' => Part::One,
            '\\' => Part::Char(chars.next().unwrap_or('\\')),
            c => Part::Char(c),
        });
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wildcards_and_escapes_match_as_in_sql() {
        for (pattern, text, expected) in [
            ("a%", "abc", true),
            ("a%", "a", true),
            ("%c", "abc", true),
            ("a_c", "abc", true),
            ("a_c", "ac", false),
            ("a\\_c", "a_c", true),
            ("a\\_c", "abc", false),
            ("100\\%", "100%", true),
            ("%b%b%", "abcb", true),
            ("%b%b%", "abc", false),
            ("", "", true),
            ("é_", "éü", true),
            ("A", "a", false),
        ] {
            assert_eq!(like(pattern, text), expected, "{pattern} {text}");
        }
    }

    /// The definition, written as a recursion.
    fn slow(pattern: &[Part], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((Part::Any, rest)) => (0..=text.len()).any(|n| slow(rest, &text[n..])),
            Some((Part::One, rest)) => !text.is_empty() && slow(rest, &text[1..]),
            Some((Part::Char(c), rest)) => text.first() == Some(c) && slow(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn the_fast_match_equals_the_definition(pattern in "[ab%_\\\\]{0,7}", text in "[ab%]{0,8}") {
            let chars: Vec<char> = text.chars().collect();
            prop_assert_eq!(like(&pattern, &text), slow(&parse(&pattern), &chars));
        }
    }
}
