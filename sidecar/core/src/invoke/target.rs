//! Whom a call is for (contract `service-invocation`, section 2).

use super::InvokeError;

/// A parsed target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target<'a> {
    /// An app, in this or another namespace.
    App {
        /// App id.
        id: &'a str,
        /// Given namespace.
        namespace: Option<&'a str>,
    },
    /// `http://…` or `https://…`
    Url(&'a str),
}

/// Splits `id.namespace`; URLs are not split.
///
/// # Errors
/// An empty id, or more than one dot.
pub fn parse(target: &str) -> Result<Target<'_>, InvokeError> {
    if target.is_empty() {
        return Err(InvokeError::internal("app id is empty"));
    }
    if target.starts_with("http://") || target.starts_with("https://") {
        return Ok(Target::Url(target));
    }
    let mut parts = target.split('.');
    let id = parts.next().unwrap_or_default();
    let namespace = parts.next();
    if parts.next().is_some() {
        return Err(InvokeError::internal(format!("invalid app id {target}")));
    }
    Ok(Target::App { id, namespace })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_namespaces_and_urls_are_told_apart() {
        assert_eq!(
            parse("a").unwrap(),
            Target::App {
                id: "a",
                namespace: None
            }
        );
        assert_eq!(
            parse("a.ns").unwrap(),
            Target::App {
                id: "a",
                namespace: Some("ns")
            }
        );
        assert_eq!(parse("http://a.b.c").unwrap(), Target::Url("http://a.b.c"));
        assert!(parse("a.b.c").is_err());
        assert!(parse("").is_err());
    }
}
