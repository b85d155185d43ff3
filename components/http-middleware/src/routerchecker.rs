//! `middleware.http.routerchecker`: refuses requests whose URI does not match a rule.

use async_trait::async_trait;
use http::{Request, Response, StatusCode};
use outrigger_components_api::middleware::{Body, HttpMiddleware, Next, refuse};
use outrigger_components_api::{InitContext, InitError};
use regex::Regex;

/// A rule for URIs.
#[derive(Debug)]
pub struct RouterChecker {
    rule: Regex,
}

impl RouterChecker {
    /// Reads `rule`, a regular expression that path and query must contain a match of.
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

#[async_trait]
impl HttpMiddleware for RouterChecker {
    async fn handle(&self, request: Request<Body>, next: Next<'_>) -> Response<Body> {
        let uri = request.uri();
        let target = uri.path_and_query().map_or(uri.path(), |target| target.as_str());
        if self.rule.is_match(target) {
            next(request).await
        } else {
            refuse(StatusCode::BAD_REQUEST, "invalid router")
        }
    }
}
