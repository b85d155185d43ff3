//! Operations as a tree of path segments, searched in the order of listing, without going back.

use super::OperationRule;

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct OperationTree {
    root: Segment,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Segment {
    pattern: String,
    rule: Option<OperationRule>,
    below: Vec<Segment>,
}

impl OperationTree {
    /// Adds a rule; of two rules for one operation the first stays. Operations start with a slash.
    pub(super) fn insert(&mut self, operation: &str, rule: OperationRule) {
        let mut node = &mut self.root;
        for part in operation.split('/').skip(1) {
            let at = match node.below.iter().position(|below| below.pattern == part) {
                Some(at) => at,
                None => {
                    node.below.push(Segment {
                        pattern: part.to_owned(),
                        ..Segment::default()
                    });
                    node.below.len() - 1
                }
            };
            node = &mut node.below[at];
        }
        node.rule.get_or_insert(rule);
    }

    /// The rule of the first node on the way that has one; a request that ends at a node without a rule takes the one
    /// of a wildcard below it.
    pub(super) fn find(&self, operation: &str) -> Option<&OperationRule> {
        let mut node = &self.root;
        let mut parts = operation.split('/').skip(1).peekable();
        while let Some(part) = parts.next() {
            let is_last = parts.peek().is_none();
            node = node.child(part, is_last)?;
            if node.rule.is_some() {
                return node.rule.as_ref();
            }
        }
        node.child("*", true)?.rule.as_ref()
    }
}

impl Segment {
    fn child(&self, part: &str, is_last: bool) -> Option<&Self> {
        self.below.iter().find(|below| match below.pattern.as_str() {
            pattern if pattern == part => true,
            // Stands for a last segment only.
            "*" => is_last,
            "**" => true,
            pattern => glob(pattern.as_bytes(), part.as_bytes()),
        })
    }
}

/// `*` stands for any run of characters, none included. Linear in the texts' product, without recursion.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on after the last star failed to be long enough.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p + 1, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((after_star, start)) = retry {
            retry = Some((after_star, start + 1));
            p = after_star;
            t = start + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_inside_a_segment_match_any_run() {
        for (pattern, text, want) in [
            ("get*", "get", true),
            ("get*", "getall", true),
            ("get*", "fget", false),
            ("*get", "forget", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("a**", "a", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(
                glob(pattern.as_bytes(), text.as_bytes()),
                want,
                "{pattern} {text}"
            );
        }
    }
}
