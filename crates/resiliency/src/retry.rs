//! Retries: which failures, how often, after which pauses (contract `config-resources`, section 9.2).

use std::time::Duration;

use tokio::time::Instant;

/// How pauses grow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pauses {
    /// Always the same.
    Constant(Duration),
    /// Growing by a factor, each drawn at random around the current interval.
    Exponential(Exponential),
}

/// Growing pauses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exponential {
    /// The first interval.
    pub initial: Duration,
    /// What the interval grows by.
    pub multiplier: f64,
    /// A pause lies within this share of the interval around it.
    pub randomization: f64,
    /// The longest interval.
    pub max_interval: Duration,
    /// No retry that would start later than this after the first try; zero = no limit.
    pub max_elapsed: Duration,
}

impl Exponential {
    /// Upstream's defaults: 500 ms, factor 1.5, half around, at most 60 s each and 15 min in all.
    pub const DEFAULT: Self = Self {
        initial: Duration::from_millis(500),
        multiplier: 1.5,
        randomization: 0.5,
        max_interval: Duration::from_secs(60),
        max_elapsed: Duration::from_mins(15),
    };
}

/// A retry policy.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Pauses between tries.
    pub pauses: Pauses,
    /// Retries after the first try; `None` = for ever.
    pub max_retries: Option<u32>,
    /// Which failures are worth it.
    pub matching: Matching,
}

impl RetryPolicy {
    /// Constant pauses and so many retries, whatever the failure.
    pub const fn constant(pause: Duration, max_retries: u32) -> Self {
        Self {
            pauses: Pauses::Constant(pause),
            max_retries: Some(max_retries),
            matching: Matching::ALL,
        }
    }

    /// The pauses of one call.
    pub fn start(&self) -> Backoff<'_> {
        Backoff {
            policy: self,
            retries: 0,
            interval: match &self.pauses {
                Pauses::Constant(pause) => *pause,
                Pauses::Exponential(exponential) => exponential.initial,
            },
            started: Instant::now(),
        }
    }
}

/// Which codes are retried. A failure without a code always is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matching {
    /// `None` = all.
    http: Option<Vec<(i32, i32)>>,
    /// `None` = all.
    grpc: Option<Vec<(i32, i32)>>,
}

const HTTP_CODES: (i32, i32) = (100, 599);
const GRPC_CODES: (i32, i32) = (0, 16);

impl Matching {
    /// Every failure.
    pub const ALL: Self = Self {
        http: None,
        grpc: None,
    };

    /// From comma-separated codes and `a-b` ranges; an empty list stands for all codes.
    ///
    /// # Errors
    /// Names the part that is no code or range of the protocol.
    pub fn parse(http: &str, grpc: &str) -> Result<Self, String> {
        Ok(Self {
            http: parse_codes(http, HTTP_CODES)?,
            grpc: parse_codes(grpc, GRPC_CODES)?,
        })
    }

    /// Whether a failure with this code is retried: 0 to 16 are gRPC codes, 100 to 599 HTTP statuses, others are not.
    pub fn is_retried(&self, code: i32) -> bool {
        let within = |(low, high): (i32, i32)| (low..=high).contains(&code);
        let ranges = if within(GRPC_CODES) {
            &self.grpc
        } else if within(HTTP_CODES) {
            &self.http
        } else {
            return false;
        };
        ranges
            .as_ref()
            .is_none_or(|ranges| ranges.iter().any(|range| within(*range)))
    }
}

fn parse_codes(text: &str, valid: (i32, i32)) -> Result<Option<Vec<(i32, i32)>>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let parts = text.split(',').filter(|part| !part.is_empty());
    parts
        .map(|part| parse_range(part, valid))
        .collect::<Result<_, _>>()
        .map(Some)
}

fn parse_range(part: &str, valid: (i32, i32)) -> Result<(i32, i32), String> {
    let (start_text, end_text) = part.split_once('-').unwrap_or((part, part));
    if end_text.contains('-') {
        return Err(format!("invalid pattern {part}, more than one '-' exists"));
    }
    let code = |which: &str, text: &str| {
        let code: i32 = text.parse().map_err(|_| {
            format!("failed to parse {which} code {text} from pattern {part} to int, must be a number without blanks")
        })?;
        if (valid.0..=valid.1).contains(&code) {
            Ok(code)
        } else {
            Err(format!(
                "invalid pattern {part}, {which} code {code} is not valid"
            ))
        }
    };
    let (start, end) = (code("start", start_text)?, code("end", end_text)?);
    if end < start {
        return Err(format!(
            "invalid pattern {part}, start value should not bigger than end value"
        ));
    }
    Ok((start, end))
}

/// The pauses of one call.
#[derive(Debug)]
pub struct Backoff<'a> {
    policy: &'a RetryPolicy,
    retries: u32,
    interval: Duration,
    started: Instant,
}

impl Backoff<'_> {
    /// The pause before the next try; `None` = no more tries.
    pub fn next_pause(&mut self) -> Option<Duration> {
        if self.policy.max_retries.is_some_and(|max| self.retries >= max) {
            return None;
        }
        self.retries = self.retries.saturating_add(1);
        let exponential = match &self.policy.pauses {
            Pauses::Constant(pause) => return Some(*pause),
            Pauses::Exponential(exponential) => exponential,
        };
        let spread = exponential.randomization * (2.0 * rand::random::<f64>() - 1.0);
        let pause = self.interval.mul_f64((1.0 + spread).max(0.0));
        let grown = self.interval.mul_f64(exponential.multiplier.max(1.0));
        self.interval = grown.min(exponential.max_interval);
        let is_late = self.started.elapsed() + pause > exponential.max_elapsed;
        (exponential.max_elapsed.is_zero() || !is_late).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_codes_are_retried_and_codes_of_the_other_protocol_as_its_own_list_says() {
        for (http, grpc, code, want) in [
            ("", "", 500, true),
            ("", "", 14, true),
            ("", "", 600, false),
            ("", "", 17, false),
            ("", "", -1, false),
            ("500,502-504", "", 503, true),
            ("500,502-504", "", 501, false),
            ("500", "", 14, true),
            ("", "14", 13, false),
            ("", "14", 500, true),
            ("", "0-16", 0, true),
            (",500,", "", 500, true),
        ] {
            let matching = Matching::parse(http, grpc).unwrap();
            assert_eq!(matching.is_retried(code), want, "{http:?} {grpc:?} {code}");
        }
    }

    #[test]
    fn unreadable_lists_are_refused() {
        for (http, grpc, want) in [
            ("99", "", "start code 99 is not valid"),
            ("500-600", "", "end code 600 is not valid"),
            ("504-500", "", "start value should not bigger than end value"),
            ("1-2-3", "", "more than one '-'"),
            ("500, 501", "", "failed to parse start code"),
            ("", "17", "start code 17 is not valid"),
            ("", "a", "failed to parse start code a"),
        ] {
            let error = Matching::parse(http, grpc).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn constant_pauses_end_after_the_last_retry() {
        let policy = RetryPolicy::constant(Duration::from_secs(2), 2);
        let mut backoff = policy.start();
        let pauses: Vec<_> = std::iter::from_fn(|| backoff.next_pause()).collect();
        assert_eq!(pauses, [Duration::from_secs(2); 2]);
        assert_eq!(
            RetryPolicy::constant(Duration::ZERO, 0).start().next_pause(),
            None
        );
        let endless = RetryPolicy {
            max_retries: None,
            ..RetryPolicy::constant(Duration::ZERO, 0)
        };
        let mut backoff = endless.start();
        assert!((0..10_000).all(|_| backoff.next_pause().is_some()));
    }

    #[tokio::test(start_paused = true)]
    async fn exponential_pauses_grow_within_their_spread_up_to_the_longest_and_end_in_time() {
        let policy = RetryPolicy {
            pauses: Pauses::Exponential(Exponential {
                max_interval: Duration::from_secs(2),
                max_elapsed: Duration::from_secs(30),
                ..Exponential::DEFAULT
            }),
            max_retries: None,
            matching: Matching::ALL,
        };
        let mut backoff = policy.start();
        let started = Instant::now();
        let mut interval = 0.5;
        let mut count = 0;
        while let Some(pause) = backoff.next_pause() {
            let pause_seconds = pause.as_secs_f64();
            assert!(
                (interval * 0.5..=interval * 1.5).contains(&pause_seconds),
                "{pause:?} around {interval}"
            );
            interval = f64::min(interval * 1.5, 2.0);
            tokio::time::sleep(pause).await;
            count += 1;
        }
        assert!(count >= 10, "{count}");
        assert!(started.elapsed() <= Duration::from_secs(30));
        assert!(started.elapsed() >= Duration::from_secs(27));
    }
}
