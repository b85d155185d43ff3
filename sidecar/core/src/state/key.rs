//! Keys as the stores see them (contract `state`, section 1).

use std::borrow::Cow;
use std::sync::Arc;

use outrigger_model::{ApiError, ErrorDetail, GrpcCode};

/// Separates the prefix from the caller's key.
pub const SEPARATOR: &str = "||";

/// What stands before the separator; `None` = keys are stored as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPrefix(Option<Arc<str>>);

/// A literal prefix may not contain the separator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("input key/keyPrefix '{0}' can't contain '||'")]
pub struct IllegalPrefix(String);

impl KeyPrefix {
    /// From the metadata `keyPrefix` (`None` = default), the component's name and the app's identity.
    ///
    /// # Errors
    /// A literal that contains the separator.
    pub fn new(
        strategy: Option<&str>,
        component: &str,
        app_id: &str,
        raw_namespace: &str,
    ) -> Result<Self, IllegalPrefix> {
        let strategy = strategy.unwrap_or_default().to_lowercase();
        let prefix = match strategy.as_str() {
            "" | "appid" => app_id.to_owned(),
            "namespace" if raw_namespace.is_empty() => app_id.to_owned(),
            "namespace" => format!("{raw_namespace}.{app_id}"),
            "name" => component.to_owned(),
            "none" => String::new(),
            literal if literal.contains(SEPARATOR) => return Err(IllegalPrefix(literal.to_owned())),
            literal => literal.to_owned(),
        };
        Ok(Self((!prefix.is_empty()).then(|| prefix.into())))
    }

    /// The stored key for a caller's key.
    ///
    /// # Errors
    /// A key that contains the separator.
    pub fn stored(&self, store: &str, key: &str) -> Result<String, ApiError> {
        if key.contains(SEPARATOR) {
            return Err(illegal_key(store, key));
        }
        Ok(match &self.0 {
            Some(prefix) => format!("{prefix}{SEPARATOR}{key}"),
            None => key.to_owned(),
        })
    }
}

/// The caller's key of a stored key: the second part, or all of it if there is no separator.
pub fn original(stored: &str) -> Cow<'_, str> {
    let mut parts = stored.splitn(3, SEPARATOR);
    let first = parts.next().unwrap_or_default();
    Cow::Borrowed(parts.next().unwrap_or(first))
}

/// The rich error for an illegal key (contract `errors`, section 5.1).
pub fn illegal_key(store: &str, key: &str) -> ApiError {
    let message = format!("input key/keyPrefix '{key}' can't contain '||'");
    ApiError::rich(
        Some("ERR_MALFORMED_REQUEST"),
        400,
        GrpcCode::InvalidArgument,
        message.clone(),
        vec![
            ErrorDetail::BadRequest {
                field: key.to_owned(),
                description: message,
            },
            ErrorDetail::ResourceInfo {
                resource_type: "state".into(),
                resource_name: store.to_owned(),
                description: String::new(),
            },
            ErrorDetail::reason("DAPR_STATE_ILLEGAL_KEY"),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies_give_the_contracts_keys() {
        let key = |strategy: Option<&str>, namespace: &str| {
            KeyPrefix::new(strategy, "store", "app1", namespace)
                .unwrap()
                .stored("store", "k")
                .unwrap()
        };
        assert_eq!(key(None, "ns1"), "app1||k");
        assert_eq!(key(Some("AppId"), "ns1"), "app1||k");
        assert_eq!(key(Some("namespace"), "ns1"), "ns1.app1||k");
        assert_eq!(key(Some("namespace"), ""), "app1||k");
        assert_eq!(key(Some("name"), "ns1"), "store||k");
        assert_eq!(key(Some("none"), "ns1"), "k");
        assert_eq!(key(Some("LitEral"), "ns1"), "literal||k");
        assert!(KeyPrefix::new(Some("a||b"), "store", "app1", "").is_err());
    }

    #[test]
    fn the_second_part_of_a_stored_key_is_the_callers() {
        assert_eq!(original("app1||k"), "k");
        assert_eq!(original("k"), "k");
        assert_eq!(original("a||b||c"), "b");
    }

    #[test]
    fn a_key_with_the_separator_is_refused() {
        let prefix = KeyPrefix::new(None, "store", "app1", "").unwrap();
        assert_eq!(
            prefix.stored("store", "a||b").unwrap_err().error_code(),
            "ERR_MALFORMED_REQUEST"
        );
    }
}
