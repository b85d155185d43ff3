//! Names of locks as the stores see them: `lock||<prefix>||<id>`.

use std::sync::Arc;

/// Separates the parts of a stored name.
const SEPARATOR: &str = "||";
const START: &str = "lock||";

/// What stands between `lock||` and the id; `None` = nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockPrefix(Option<Arc<str>>);

/// A part of a name may not contain the separator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("input key/keyPrefix '{0}' can't contain '||'")]
pub struct IllegalName(String);

impl LockPrefix {
    /// From the metadata `keyPrefix` (`None` = default), the component's name and the app id.
    ///
    /// # Errors
    /// A literal that contains the separator.
    pub fn new(strategy: Option<&str>, component: &str, app_id: &str) -> Result<Self, IllegalName> {
        let given = strategy.unwrap_or_default();
        if given.contains(SEPARATOR) {
            return Err(IllegalName(given.to_owned()));
        }
        let strategy = given.to_lowercase();
        let prefix = match strategy.as_str() {
            "" | "appid" => app_id,
            "name" => component,
            "none" => return Ok(Self(None)),
            literal => literal,
        };
        Ok(Self(Some(prefix.into())))
    }

    /// The stored name for a caller's id.
    ///
    /// # Errors
    /// An id that contains the separator.
    pub fn stored(&self, id: &str) -> Result<String, IllegalName> {
        if id.contains(SEPARATOR) {
            return Err(IllegalName(id.to_owned()));
        }
        Ok(match &self.0 {
            Some(prefix) => format!("{START}{prefix}{SEPARATOR}{id}"),
            None => format!("{START}{id}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_strategy() {
        for (strategy, want) in [
            (None, "lock||app1||r"),
            (Some(""), "lock||app1||r"),
            (Some("AppId"), "lock||app1||r"),
            (Some("name"), "lock||store||r"),
            (Some("none"), "lock||r"),
            (Some("Shared"), "lock||shared||r"),
        ] {
            let prefix = LockPrefix::new(strategy, "store", "app1").unwrap();
            assert_eq!(prefix.stored("r").unwrap(), want, "{strategy:?}");
        }
    }

    #[test]
    fn the_separator_is_refused_in_prefix_and_id() {
        let text = |name: &str| format!("input key/keyPrefix '{name}' can't contain '||'");
        assert_eq!(
            LockPrefix::new(Some("a||b"), "store", "app1")
                .unwrap_err()
                .to_string(),
            text("a||b")
        );
        let prefix = LockPrefix::new(None, "store", "app1").unwrap();
        assert_eq!(prefix.stored("x||y").unwrap_err().to_string(), text("x||y"));
    }
}
