//! `middleware.http.ratelimit`: a token bucket for each caller's address and path.
//!
//! The caller is the other end of the connection, as in Dapr, where the limiter's defaults ask for it before
//! `X-Forwarded-For` and `X-Real-IP`: what a caller writes into a header gives it no bucket of its own. An IPv6 caller is
//! its /64 network, of which it may have all addresses. Callers over a Unix socket share one bucket, `0.0.0.0`.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use outrigger_components_api::metadata::OptionType;
use outrigger_components_api::middleware::{Body, HttpMiddleware, Next, RemoteAddress, refuse};
use outrigger_components_api::{InitContext, InitError};
use tokio::time::Instant;

use crate::paths::canonical;

/// Callers that are told apart in the time that an empty bucket takes to fill; beyond them, new ones share one bucket,
/// so that nobody can fill the memory.
const MOST_CALLERS: usize = 100_000;
const DEFAULT: f64 = 100.0;

/// A limit of requests in a second.
#[derive(Debug)]
pub struct RateLimit {
    per_second: f64,
    /// As the caller is told it.
    limit_text: HeaderValue,
    /// Makes keys that nobody can foresee out of addresses and paths of whatever length.
    hasher: RandomState,
    buckets: Mutex<Buckets>,
}

/// Buckets in two generations: those used since a moment, and those used before it only. When it is as long ago as an
/// empty bucket takes to fill, the older ones are all full again, and are forgotten at once.
#[derive(Debug)]
struct Buckets {
    since: Instant,
    used: HashMap<u64, Bucket>,
    before: HashMap<u64, Bucket>,
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
        let properties = &context.properties;
        properties.note(&["maxRequestsPerSecond"], OptionType::Number);
        let text = properties.get("maxRequestsPerSecond").unwrap_or_default();
        let per_second = match text {
            "" => properties.default_of("maxRequestsPerSecond", DEFAULT),
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
            hasher: RandomState::new(),
            buckets: Mutex::new(Buckets {
                since: Instant::now(),
                used: HashMap::new(),
                before: HashMap::new(),
            }),
        })
    }

    /// The most tokens a bucket holds: a second's worth, at least one.
    fn burst(&self) -> f64 {
        self.per_second.floor().max(1.0)
    }

    /// How long an empty bucket takes to fill.
    fn filling(&self) -> Duration {
        Duration::from_secs_f64((self.burst() / self.per_second).min(1e9))
    }

    /// Takes a token; the ones that are left, or `None` if there was none.
    fn take(&self, caller: IpAddr, path: &str) -> Option<f64> {
        let key = self.hasher.hash_one((caller, canonical(path)));
        let (now, burst) = (Instant::now(), self.burst());
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let forgotten = buckets.turn(now, self.filling());
        let known = buckets.used.get(&key).copied();
        let known = known.or_else(|| buckets.before.remove(&key));
        let (key, bucket) = match known {
            None if buckets.used.len() >= MOST_CALLERS => (0, buckets.used.get(&0).copied()),
            known => (key, known),
        };
        let tokens = bucket.map_or(burst, |bucket| {
            let gained = now.duration_since(bucket.since).as_secs_f64() * self.per_second;
            (bucket.tokens + gained).min(burst)
        });
        let left = (tokens >= 1.0).then_some(tokens - 1.0);
        let tokens = left.unwrap_or(tokens);
        buckets.used.insert(key, Bucket { tokens, since: now });
        drop(buckets);
        // Not while others wait.
        drop(forgotten);
        left
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

impl Buckets {
    /// Begins a new generation when it is time; the one that is of no use any more.
    fn turn(&mut self, now: Instant, filling: Duration) -> HashMap<u64, Bucket> {
        if now.duration_since(self.since) < filling {
            return HashMap::new();
        }
        self.since = now;
        let used = std::mem::take(&mut self.used);
        std::mem::replace(&mut self.before, used)
    }
}

/// Who calls, as far as buckets go.
fn caller(remote: Option<RemoteAddress>) -> IpAddr {
    match remote.map(|remote| remote.0.ip().to_canonical()) {
        Some(IpAddr::V6(address)) => {
            let network = u128::from(address) & (u128::MAX << 64);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        Some(address) => address,
        None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}

#[async_trait]
impl HttpMiddleware for RateLimit {
    async fn handle(&self, request: Request<Body>, next: Next<'_>) -> Response<Body> {
        let remote_address = request.extensions().get::<RemoteAddress>().copied();
        let forwarded = request.headers().get("x-forwarded-for").cloned();
        let remote = remote_address.map_or_else(|| "0.0.0.0".to_owned(), |remote| remote.0.to_string());
        // A bucket is for one caller and one path, as in Dapr.
        let left = self.take(caller(remote_address), request.uri().path());
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
    use outrigger_components_api::middleware::full;
    use outrigger_components_api::testing::init_context;

    use super::*;

    const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    fn limit(text: &str) -> RateLimit {
        RateLimit::new(&init_context("rl", [("maxRequestsPerSecond", text)])).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn callers_have_buckets_of_their_own_that_fill_with_time() {
        let limit = limit("2");
        assert!(limit.take(A, "/").is_some() && limit.take(A, "/").is_some());
        assert!(limit.take(A, "/").is_none());
        assert!(limit.take(B, "/").is_some() && limit.take(A, "/x").is_some());
        tokio::time::advance(Duration::from_millis(500)).await;
        assert!(limit.take(A, "/").is_some());
        assert!(limit.take(A, "/").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_below_one_still_lets_a_first_request_pass() {
        let limit = limit("0.01");
        assert!(limit.take(A, "/").is_some());
        tokio::time::advance(Duration::from_secs(99)).await;
        assert!(limit.take(A, "/").is_none());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(limit.take(A, "/").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_is_forgotten_when_it_is_full_again_and_not_before() {
        let limit = limit("0.1");
        let held = || {
            let buckets = limit.buckets.lock().unwrap();
            buckets.used.len() + buckets.before.len()
        };
        assert!(limit.take(A, "/").is_some());
        for _ in 0..30 {
            tokio::time::advance(Duration::from_secs(3)).await;
            limit.take(B, "/");
        }
        assert_eq!(held(), 1, "only the one that is used");
        assert!(limit.take(A, "/").is_some());
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(limit.take(A, "/").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn many_callers_do_not_fill_the_memory_and_share_what_is_left() {
        let limit = limit("1");
        for n in 0..MOST_CALLERS + 5 {
            let passed = limit.take(A, &format!("/{n}")).is_some();
            assert_eq!(passed, n <= MOST_CALLERS, "{n}");
        }
        assert!(limit.buckets.lock().unwrap().used.len() <= MOST_CALLERS + 1);
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(1)).await;
            limit.take(B, "/");
        }
        let buckets = limit.buckets.lock().unwrap();
        assert_eq!(buckets.used.len() + buckets.before.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn no_header_and_no_spelling_of_a_path_makes_a_new_caller() {
        let limit = limit("1");
        let mut statuses = Vec::new();
        for (n, path) in ["/a", "//a", "/%61", "/a/", "/x/../a", "/%2561"]
            .iter()
            .enumerate()
        {
            let mut request = Request::get(*path)
                .header("x-forwarded-for", format!("1.2.3.{n}"))
                .header("x-real-ip", format!("1.2.3.{n}"))
                .body(full(""))
                .unwrap();
            let remote = format!("[2001:db8::{n}]:{}", 1000 + n).parse().unwrap();
            request.extensions_mut().insert(RemoteAddress(remote));
            let next: Next<'_> = Box::new(|_| Box::pin(async { Response::new(full("")) }));
            statuses.push(limit.handle(request, next).await.status().as_u16());
        }
        assert_eq!(statuses, [200, 429, 429, 429, 429, 429]);
    }

    #[test]
    fn an_address_is_known_in_either_form() {
        let of = |text: &str| caller(Some(RemoteAddress(text.parse().unwrap())));
        assert_eq!(of("10.0.0.1:5"), A);
        assert_eq!(of("[::ffff:10.0.0.1]:7"), A);
        assert_eq!(of("[2001:db8:0:1::5]:7"), of("[2001:db8:0:1:ffff::]:7"));
        assert_ne!(of("[2001:db8:0:1::5]:7"), of("[2001:db8:0:2::5]:7"));
        assert_eq!(caller(None), IpAddr::V4(Ipv4Addr::UNSPECIFIED));
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
