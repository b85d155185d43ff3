//! `middleware.http.routerchecker`: refuses requests whose URI does not match a rule.

use async_trait::async_trait;
use http::{Request, Response, StatusCode};
use outrigger_components_api::middleware::{Body, HttpMiddleware, Next, refuse};
use outrigger_components_api::{InitContext, InitError};
use outrigger_model::path;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use regex::Regex;

/// What a path holds in escapes only.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@')
    .remove(b'%');

/// A rule for URIs.
#[derive(Debug)]
pub struct RouterChecker {
    rule: Regex,
}

impl RouterChecker {
    /// Reads `rule`, a regular expression that path and query must contain a match of. So must they in every spelling
    /// that what is behind may read the path in, decoded or with its escapes: `/open/%2e%2e/secret` gets past no rule
    /// that is about `/open`.
    ///
    /// # Errors
    /// It is no regular expression.
    pub fn new(context: &InitContext) -> Result<Self, InitError> {
        let rule = context.properties.get("rule").unwrap_or_default();
        let rule = Regex::new(rule)
            .map_err(|error| InitError(format!("rule {rule:?} is no regular expression: {error}")))?;
        Ok(Self { rule })
    }
}

impl RouterChecker {
    fn admits(&self, path: &str, query: Option<&str>) -> bool {
        let is_match = |path: &str| match query {
            None => self.rule.is_match(path),
            Some(query) => self.rule.is_match(&format!("{path}?{query}")),
        };
        // A reading has no slash at its end.
        let slash = if path.len() > 1 && path.ends_with('/') {
            "/"
        } else {
            ""
        };
        is_match(path)
            && path::every_reading(path, |reading| {
                let escaped = utf8_percent_encode(reading, ESCAPED);
                is_match(reading) || is_match(&format!("{reading}{slash}")) || is_match(&escaped.to_string())
            })
    }
}

#[async_trait]
impl HttpMiddleware for RouterChecker {
    async fn handle(&self, request: Request<Body>, next: Next<'_>) -> Response<Body> {
        let uri = request.uri();
        if self.admits(uri.path(), uri.query()) {
            next(request).await
        } else {
            refuse(StatusCode::BAD_REQUEST, "invalid router")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_components_api::testing::init_context;

    #[test]
    fn a_rule_holds_for_what_a_path_means() {
        let checker = |rule| RouterChecker::new(&init_context("rc", [("rule", rule)])).unwrap();
        let open = checker("^/v1.0/invoke/a/method/open");
        for (path, admitted) in [
            ("/v1.0/invoke/a/method/open", true),
            ("/v1.0/invoke/a/method/open/x%20y", true),
            ("/v1.0/invoke/a/method/secret", false),
            ("/v1.0/invoke/a/method/open/../secret", false),
            ("/v1.0/invoke/a/method/open/%2e%2e/secret", false),
            ("/v1.0/invoke/a/method/open%2f%252e%252e%2fsecret", false),
        ] {
            assert_eq!(open.admits(path, None), admitted, "{path}");
        }
        // A rule that knows escapes only goes on to let them pass, and one that knows none to refuse them.
        let (escaped, plain) = (checker("^/[A-Za-z%0-9/]+$"), checker("^/[A-Za-z0-9/ ]+$"));
        assert!(escaped.admits("/a%20b", None) && !escaped.admits("/a b", None));
        assert!(plain.admits("/ab", None) && !plain.admits("/a%20b", None));
        assert!(checker("state").admits("/x", Some("state")));
        assert!(checker("^/x/.*/$").admits("/x/y//", None));
    }
}
