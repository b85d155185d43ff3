//! `middleware.http.ratelimit`: a token bucket for each caller's address and path.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use outrigger_components_api::middleware::{Body, HttpMiddleware, Next, RemoteAddress, refuse};
use outrigger_components_api::{InitContext, InitError};
use tokio::time::Instant;

/// Buckets that are full again are forgotten when there are this many.
const SWEEP_AT: usize = 1024;
/// Callers that are told apart; beyond them, new ones share one bucket, so that nobody can fill the memory.
const MOST_CALLERS: usize = 100_000;
const DEFAULT: f64 = 100.0;

/// A limit of requests in a second.
#[derive(Debug)]
pub struct RateLimit {
    per_second: f64,
    /// As the caller is told it.
    limit_text: HeaderValue,
    buckets: Mutex<HashMap<String, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    since: Instant,
}

impl RateLimit {
    /// Reads `maxRequestsPerSecond`, a number above zero.
    ///
    /// # Errors
    /// It is none.
    pub fn new(context: &InitContext) -> Result<Self, InitError> {
        let text = context.properties.get("maxRequestsPerSecond").unwrap_or_default();
        let per_second = match text {
            "" => DEFAULT,
            text => text.parse().map_err(|_| {
                InitError(format!(
                    "maxRequestsPerSecond {text:?} is no number: give e.g. 10 or 0.5"
                ))
            })?,
        };
        if !(per_second > 0.0 && per_second.is_finite()) {
            return Err(InitError::new(
                "metadata property maxRequestsPerSecond must be a positive value",
            ));
        }
        // Dapr tells the number with two decimals.
        let limit_text = HeaderValue::from_str(&format!("{per_second:.2}"))
            .map_err(|error| InitError(error.to_string()))?;
        Ok(Self {
            per_second,
            limit_text,
            buckets: Mutex::default(),
        })
    }

    /// The most tokens a bucket holds: a second's worth, at least one.
    fn burst(&self) -> f64 {
        self.per_second.floor().max(1.0)
    }

    /// Takes a token; the ones that are left, or `None` if there was none.
    fn take(&self, caller: &str) -> Option<f64> {
        let (now, burst) = (Instant::now(), self.burst());
        let filled = |bucket: &Bucket| {
            let gained = now.duration_since(bucket.since).as_secs_f64() * self.per_second;
            (bucket.tokens + gained).min(burst)
        };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= SWEEP_AT && !buckets.contains_key(caller) {
            buckets.retain(|_, bucket| filled(bucket) < burst);
        }
        let shared = buckets.len() >= MOST_CALLERS && !buckets.contains_key(caller);
        let caller = if shared { "" } else { caller };
        let bucket = buckets.entry(caller.to_owned()).or_insert(Bucket {
            tokens: burst,
            since: now,
        });
        let tokens = filled(bucket);
        *bucket = Bucket { tokens, since: now };
        if tokens < 1.0 {
            return None;
        }
        bucket.tokens -= 1.0;
        Some(bucket.tokens)
    }

    fn mark(&self, headers: &mut HeaderMap, left: f64, remote: &str, forwarded: Option<&HeaderValue>) {
        let whole = |number: f64| HeaderValue::from_str(&format!("{:.0}", number.floor().max(0.0)));
        let mut put = |name: &'static str, value: HeaderValue| {
            headers.insert(HeaderName::from_static(name), value);
        };
        put("x-rate-limit-limit", self.limit_text.clone());
        put("x-rate-limit-duration", HeaderValue::from_static("1"));
        if let Ok(remote) = HeaderValue::from_str(remote) {
            put("x-rate-limit-request-remote-addr", remote);
        }
        if let Some(forwarded) = forwarded {
            put("x-rate-limit-request-forwarded-for", forwarded.clone());
        }
        if let (Ok(limit), Ok(left)) = (whole(self.per_second), whole(left)) {
            put("ratelimit-limit", limit);
            put("ratelimit-reset", HeaderValue::from_static("1"));
            put("ratelimit-remaining", left);
        }
    }
}

/// Who calls: what a proxy in front says, else the connection's other end.
fn caller(headers: &HeaderMap, remote: Option<RemoteAddress>) -> String {
    for name in ["x-forwarded-for", "x-real-ip"] {
        let first = headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.split(',').next())
            .map(str::trim)
            .and_then(|text| text.parse::<IpAddr>().ok());
        if let Some(address) = first {
            return address.to_string();
        }
    }
    remote.map_or_else(|| "0.0.0.0".to_owned(), |remote| remote.0.ip().to_string())
}

#[async_trait]
impl HttpMiddleware for RateLimit {
    async fn handle(&self, request: Request<Body>, next: Next<'_>) -> Response<Body> {
        let remote = request.extensions().get::<RemoteAddress>().copied();
        let forwarded = request.headers().get("x-forwarded-for").cloned();
        let caller = caller(request.headers(), remote);
        let remote = remote.map_or_else(|| "0.0.0.0".to_owned(), |remote| remote.0.to_string());
        // A bucket is for one caller and one path, as in Dapr.
        let left = self.take(&format!("{caller} {}", request.uri().path()));
        let mut response = match left {
            Some(_) => next(request).await,
            None => refuse(
                StatusCode::TOO_MANY_REQUESTS,
                "You have reached maximum request limit.",
            ),
        };
        self.mark(
            response.headers_mut(),
            left.unwrap_or(0.0),
            &remote,
            forwarded.as_ref(),
        );
        response
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use outrigger_components_api::testing::init_context;

    fn limit(text: &str) -> RateLimit {
        RateLimit::new(&init_context("rl", [("maxRequestsPerSecond", text)])).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn callers_have_buckets_of_their_own_that_fill_with_time() {
        let limit = limit("2");
        assert!(limit.take("a").is_some() && limit.take("a").is_some());
        assert!(limit.take("a").is_none());
        assert!(limit.take("b").is_some());
        tokio::time::advance(Duration::from_millis(500)).await;
        assert!(limit.take("a").is_some());
        assert!(limit.take("a").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_below_one_still_lets_a_first_request_pass() {
        let limit = limit("0.01");
        assert!(limit.take("a").is_some());
        tokio::time::advance(Duration::from_secs(99)).await;
        assert!(limit.take("a").is_none());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(limit.take("a").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn many_callers_do_not_fill_the_memory() {
        let limit = limit("1");
        for n in 0..SWEEP_AT * 2 {
            limit.take(&n.to_string());
            if n == SWEEP_AT - 1 {
                tokio::time::advance(Duration::from_secs(2)).await;
            }
        }
        assert!(limit.buckets.lock().unwrap().len() <= SWEEP_AT);
    }

    #[test]
    fn limits_that_are_none_are_refused() {
        for text in ["0", "-1", "x", "NaN", "inf"] {
            let context = init_context("rl", [("maxRequestsPerSecond", text)]);
            assert!(
                RateLimit::new(&context)
                    .unwrap_err()
                    .0
                    .contains("maxRequestsPerSecond"),
                "{text}"
            );
        }
    }
}
