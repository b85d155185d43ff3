//! Cross-origin requests (contract `http-api`, section 1.2).

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Response};
use outrigger_sidecar_core::Body;
use outrigger_sidecar_core::invoke::headers::canonical;

const METHODS: [&str; 7] = ["HEAD", "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// The origins of `--allowed-origins`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    any: bool,
    origins: Vec<String>,
}

impl Cors {
    /// From the flag's values; `None` = no processing at all.
    pub fn new(allowed_origins: &[String]) -> Option<Self> {
        let origins: Vec<String> = allowed_origins
            .iter()
            .map(|o| o.trim().to_lowercase())
            .filter(|o| !o.is_empty())
            .collect();
        (!origins.is_empty()).then(|| Self {
            any: origins.iter().any(|o| o == "*"),
            origins,
        })
    }

    fn allows(&self, origin: &str) -> bool {
        self.any
            || self.origins.iter().any(|known| match known.split_once('*') {
                // One wildcard inside an origin, as the reference's library has it.
                Some((head, tail)) => {
                    let origin = origin.to_lowercase();
                    origin.len() >= head.len() + tail.len()
                        && origin.starts_with(head)
                        && origin.ends_with(tail)
                }
                None => known.eq_ignore_ascii_case(origin),
            })
    }

    /// The answer to a preflight; other requests go on.
    pub(crate) fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Response<Body>> {
        if method != Method::OPTIONS || !headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        let mut response = Response::new(Body::Empty);
        let out = response.headers_mut();
        for vary in [
            "Origin",
            "Access-Control-Request-Method",
            "Access-Control-Request-Headers",
        ] {
            out.append(VARY, HeaderValue::from_static(vary));
        }
        let text = |name| {
            headers
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
        };
        let (Some(origin), Some(wanted)) = (text(ORIGIN), text(ACCESS_CONTROL_REQUEST_METHOD)) else {
            return Some(response);
        };
        let wanted = wanted.to_uppercase();
        if origin.is_empty() || !self.allows(origin) || !METHODS.contains(&wanted.as_str()) {
            return Some(response);
        }
        out.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.origin_value(origin));
        if let Ok(value) = HeaderValue::from_str(&wanted) {
            out.insert(ACCESS_CONTROL_ALLOW_METHODS, value);
        }
        let requested = requested_headers(text(ACCESS_CONTROL_REQUEST_HEADERS).unwrap_or_default());
        if let Some(value) = HeaderValue::from_str(&requested)
            .ok()
            .filter(|_| !requested.is_empty())
        {
            out.insert(ACCESS_CONTROL_ALLOW_HEADERS, value);
        }
        Some(response)
    }

    /// Marks the answer to an ordinary request.
    pub(crate) fn mark(&self, method: &Method, origin: Option<&HeaderValue>, out: &mut HeaderMap) {
        out.append(VARY, HeaderValue::from_static("Origin"));
        let Some(origin) = origin
            .and_then(|origin| origin.to_str().ok())
            .filter(|origin| !origin.is_empty())
        else {
            return;
        };
        if self.allows(origin) && METHODS.contains(&method.as_str()) {
            out.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.origin_value(origin));
        }
    }

    fn origin_value(&self, origin: &str) -> HeaderValue {
        if self.any {
            return HeaderValue::from_static("*");
        }
        HeaderValue::from_str(origin).unwrap_or_else(|_| HeaderValue::from_static("null"))
    }
}

/// The requested header names in canonical form, joined as the reference joins them.
fn requested_headers(list: &str) -> String {
    list.split([',', ' '])
        .filter(|name| !name.is_empty())
        .map(canonical)
        .collect::<Vec<_>>()
        .join(", ")
}
