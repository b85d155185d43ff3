//! Who may create pods with a sidecar (contract `injector`, section 5).

use std::collections::HashSet;

/// Controllers that create pods for others.
const BUILT_IN: &[&str] = &[
    "kube-system:replicaset-controller",
    "kube-system:replication-controller",
    "kube-system:deployment-controller",
    "kube-system:cronjob-controller",
    "kube-system:job-controller",
    "kube-system:statefulset-controller",
    "kube-system:daemon-set-controller",
    "openshift-operator-lifecycle-manager:olm-operator-serviceaccount",
    "tekton-pipelines:tekton-pipelines-controller",
    "mirrord:mirrord-operator",
];

/// Administrators may always.
const MASTERS: &str = "system:masters";

/// The accounts that may create pods with a sidecar.
#[derive(Debug, Clone)]
pub struct AllowedAccounts {
    patterns: Vec<(String, String)>,
    uids: HashSet<String>,
}

/// An entry that is no pair of globs; the text says what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadPattern(pub String);

impl AllowedAccounts {
    /// The built-in ones and those of comma separated lists of `namespace:name` globs.
    ///
    /// # Errors
    /// The first entry that is no such pair.
    pub fn new(lists: &[String]) -> Result<Self, BadPattern> {
        let mut patterns = Vec::new();
        let entries = lists.iter().flat_map(|list| list.split(',')).map(str::trim);
        for entry in BUILT_IN
            .iter()
            .copied()
            .chain(entries.filter(|entry| !entry.is_empty()))
        {
            let pair = match entry.split(':').collect::<Vec<_>>()[..] {
                [namespace, name] => (namespace.trim().to_owned(), name.trim().to_owned()),
                _ => {
                    return Err(BadPattern(format!(
                        "{entry:?} should be namespace:name, where * and ? are wildcards"
                    )));
                }
            };
            for glob in [&pair.0, &pair.1] {
                if !glob_is_valid(glob) {
                    return Err(BadPattern(format!("{glob:?} in {entry:?} is no valid pattern")));
                }
            }
            patterns.push(pair);
        }
        Ok(Self {
            patterns,
            uids: HashSet::new(),
        })
    }

    /// Whether a service account is one of them; its UID then counts too.
    pub fn names(&self, namespace: &str, name: &str) -> bool {
        self.patterns
            .iter()
            .any(|(namespaces, names)| glob(namespaces, namespace) && glob(names, name))
    }

    /// The UIDs of the accounts found at start.
    pub fn set_uids(&mut self, uids: HashSet<String>) {
        self.uids = uids;
    }

    /// Whether this user, as the API server describes it, may create pods with a sidecar.
    pub fn allows(&self, username: &str, uid: &str, groups: &[&str]) -> bool {
        let by_name = username
            .strip_prefix("system:serviceaccount:")
            .and_then(|rest| rest.split_once(':'))
            .is_some_and(|(namespace, name)| self.names(namespace, name));
        by_name || (!uid.is_empty() && self.uids.contains(uid)) || groups.contains(&MASTERS)
    }
}

/// Go's `path.Match`: `*`, `?`, `[class]`, `\` escapes; none of them matches `/`.
fn glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    matches(&pattern, &text)
}

fn matches(pattern: &[char], text: &[char]) -> bool {
    let Some((&first, rest)) = pattern.split_first() else {
        return text.is_empty();
    };
    match first {
        '*' => (0..=text.len())
            .take_while(|&taken| !text[..taken].contains(&'/'))
            .any(|taken| matches(rest, &text[taken..])),
        '?' => text.first().is_some_and(|&c| c != '/') && matches(rest, &text[1..]),
        '[' => match (class(rest), text.split_first()) {
            (Some((class, rest)), Some((&c, text))) => class(c) && matches(rest, text),
            _ => false,
        },
        '\\' => match (rest.split_first(), text.split_first()) {
            (Some((want, rest)), Some((c, text))) => want == c && matches(rest, text),
            _ => false,
        },
        literal => text.first() == Some(&literal) && matches(rest, &text[1..]),
    }
}

type Class<'a> = Box<dyn Fn(char) -> bool + 'a>;

/// Reads a class after its `[`; returns it and what follows.
fn class(pattern: &[char]) -> Option<(Class<'_>, &[char])> {
    let (negated, pattern) = match pattern.split_first() {
        Some(('^', rest)) => (true, rest),
        _ => (false, pattern),
    };
    let end = pattern.iter().position(|&c| c == ']').filter(|&end| end > 0)?;
    let (body, rest) = (&pattern[..end], &pattern[end + 1..]);
    let mut ranges = Vec::new();
    let mut i = 0;
    while i < body.len() {
        if i + 2 < body.len() && body[i + 1] == '-' {
            ranges.push((body[i], body[i + 2]));
            i += 3;
        } else {
            ranges.push((body[i], body[i]));
            i += 1;
        }
    }
    let class = move |c: char| ranges.iter().any(|&(low, high)| low <= c && c <= high) != negated;
    Some((Box::new(class), rest))
}

fn glob_is_valid(pattern: &str) -> bool {
    let chars: Vec<char> = pattern.chars().collect();
    let mut i = 0;
    while i < chars.len() {
        match chars[i] {
            '[' => match class(&chars[i + 1..]) {
                Some((_, rest)) => i = chars.len() - rest.len(),
                None => return false,
            },
            '\\' if i + 1 == chars.len() => return false,
            '\\' => i += 2,
            _ => i += 1,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_listed_accounts_and_administrators_may() {
        let mut allowed = AllowedAccounts::new(&["team:deployer,ci:runner-*".into(), " ,".into()]).unwrap();
        allowed.set_uids(HashSet::from(["u".to_owned()]));
        let sa = |name: &str| format!("system:serviceaccount:{name}");
        assert!(allowed.allows(&sa("kube-system:job-controller"), "", &[]));
        assert!(allowed.allows(&sa("ci:runner-7"), "", &[]));
        assert!(allowed.allows("alice", "", &["a", "system:masters"]));
        assert!(allowed.allows("somebody", "u", &[]));
        assert!(!allowed.allows(&sa("ci2:runner-7"), "", &[]));
        assert!(!allowed.allows("alice", "", &["a"]));
        assert!(!allowed.allows("team:deployer", "", &[]));
    }

    #[test]
    fn patterns_are_gos() {
        for (pattern, text, want) in [
            ("a*c", "abbc", true),
            ("a*", "a/b", false),
            ("a?", "ab", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            (r"\*", "*", true),
            ("", "", true),
        ] {
            assert_eq!(glob(pattern, text), want, "{pattern} {text}");
        }
        for bad in ["a", "a:b:c", "a:[", r"a:\"] {
            assert!(AllowedAccounts::new(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
