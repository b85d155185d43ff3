//! Logging of API calls (`--enable-api-logging`, Configuration `spec.logging.apiLogging`).

use http::{HeaderMap, Method};

/// What is logged of each call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ApiLog {
    /// Log the route's pattern instead of the path.
    pub obfuscate_urls: bool,
    /// Leave out calls of `/healthz`.
    pub omit_health_checks: bool,
}

impl ApiLog {
    pub(crate) fn write(&self, method: &Method, path: &str, headers: &HeaderMap) {
        if self.omit_health_checks && path.contains("/healthz") {
            return;
        }
        let path = if self.obfuscate_urls { group(path) } else { path };
        let useragent = headers
            .get(http::header::USER_AGENT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        tracing::info!(target: "dapr.runtime.http-info", method = %method, useragent, "HTTP API Called: {method} {path}");
    }
}

/// The first two segments: enough to know the API, without the caller's names.
fn group(path: &str) -> &str {
    let end = path.match_indices('/').nth(3).map_or(path.len(), |(at, _)| at);
    &path[..end]
}
