//! Topic names and the filters that match them.

/// Whether a topic may be published to.
///
/// # Errors
/// Why not: the broker would cut the connection.
pub(crate) fn check_topic(topic: &str) -> Result<(), String> {
    if topic.is_empty() {
        return Err("topic name is empty".to_owned());
    }
    if topic.contains(['+', '#', '\0']) || topic.len() > usize::from(u16::MAX) {
        return Err(format!(
            "invalid topic name {topic:?}: it must not hold '+', '#' or NUL"
        ));
    }
    Ok(())
}

/// The filter without `$share/<group>/`.
pub(crate) fn bare(filter: &str) -> &str {
    filter
        .strip_prefix("$share/")
        .and_then(|rest| rest.split_once('/'))
        .map_or(filter, |(_, rest)| rest)
}

/// Whether a filter that was subscribed to covers a topic: `+` is one level, `#` all further ones.
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    let mut topic_levels = topic.split('/');
    let mut levels = bare(filter).split('/').peekable();
    while let Some(level) = levels.next() {
        if level == "#" {
            return true;
        }
        match topic_levels.next() {
            // `a/#` covers `a` as well.
            None => return false,
            Some(part) if level == "+" || level == part => {}
            Some(_) => return false,
        }
        if levels.peek() == Some(&"#") && topic_levels.clone().next().is_none() {
            return true;
        }
    }
    topic_levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_by_level() {
        for (filter, topic, expected) in [
            ("a", "a", true),
            ("a", "a/b", false),
            ("a/+", "a/b", true),
            ("a/+", "a/b/c", false),
            ("a/+", "a/", true),
            ("a/#", "a/b/c", true),
            ("a/#", "a", true),
            ("a/#", "ab", false),
            ("#", "x/y", true),
            ("+/b", "x/b", true),
            ("+", "x/b", false),
            ("$share/g/a/+", "a/b", true),
            ("$share/g/a", "a", true),
            ("a/b", "a", false),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_filter_without_wildcards_matches_itself_only(a in "[a-c/]{1,6}", b in "[a-c/]{1,6}") {
            assert_eq!(matches(&a, &b), a == b);
        }
    }
}
