//! What applies to one call, and running the call under it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use thiserror::Error;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::breaker::{BreakerState, CircuitBreaker, Permit, Refusal};
use crate::deadline::deadline;
use crate::names::Direction;
use crate::retry::RetryPolicy;

/// A policy's own failure, in place of the call's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// The last attempt took too long.
    #[error("context deadline exceeded")]
    Timeout,
    /// The circuit breaker is open.
    #[error("circuit breaker is open")]
    CircuitOpen,
    /// The circuit breaker is half-open and probing already.
    #[error("too many requests")]
    TooManyRequests,
}

/// A failed attempt: the error, and what decides whether it is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure<E> {
    /// The error.
    pub error: E,
    /// HTTP status or gRPC code; `None` = always worth a retry.
    pub code: Option<i32>,
    /// Never tried again.
    pub permanent: bool,
}

impl<E> Failure<E> {
    /// A failure without a code.
    pub const fn new(error: E) -> Self {
        Self {
            error,
            code: None,
            permanent: false,
        }
    }

    /// A failure with an HTTP status or gRPC code.
    pub const fn with_code(error: E, code: i32) -> Self {
        Self {
            error,
            code: Some(code),
            permanent: false,
        }
    }

    /// A failure that is not tried again.
    pub const fn permanent(error: E) -> Self {
        Self {
            error,
            code: None,
            permanent: true,
        }
    }
}

impl<E> From<E> for Failure<E> {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}

/// Parts of a policy, as metrics name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyKind {
    /// `timeout`
    Timeout,
    /// `retry`
    Retry,
    /// `circuitbreaker`
    CircuitBreaker,
}

impl PolicyKind {
    /// The spelling of metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Retry => "retry",
            Self::CircuitBreaker => "circuitbreaker",
        }
    }
}

/// What metrics count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A policy was found for a call (`resiliency_count`).
    Executed,
    /// It took effect: a timeout, a retry, a change of a breaker's state (`resiliency_activations_total`).
    Activated,
}

/// Labels of a policy's metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Labels<'a> {
    /// Name of the last loaded resource.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Which part of the policy.
    pub policy: PolicyKind,
    /// Which way the call goes.
    pub direction: Direction,
    /// `app_<id>`, `actor_<type>` or `<ComponentType>_<name>`.
    pub target: &'a str,
    /// State of the breaker, for breakers only.
    pub state: Option<BreakerState>,
}

/// Told about policies at work.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn observe(&self, event: Event, labels: Labels<'_>);
}

/// Whom a policy tells what it does.
#[derive(Clone)]
pub(crate) struct Report {
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) resource: Arc<(String, String)>,
    pub(crate) direction: Direction,
    pub(crate) target: String,
}

/// What applies to one call. Cheap to clone; [`Policy::NONE`] applies nothing.
#[derive(Clone, Default)]
pub struct Policy {
    pub(crate) parts: Option<Arc<Parts>>,
}

/// Behind one pointer, so that no policy is a null pointer.
#[derive(Clone, Default)]
pub(crate) struct Parts {
    pub(crate) name: String,
    pub(crate) timeout: Option<Duration>,
    pub(crate) retry: Option<Arc<RetryPolicy>>,
    pub(crate) breaker: Option<Arc<CircuitBreaker>>,
    pub(crate) report: Option<Report>,
}

impl Parts {
    fn tell(&self, event: Event, policy: PolicyKind, state: Option<BreakerState>) {
        if let Some(report) = &self.report {
            report.observer.observe(
                event,
                Labels {
                    name: &report.resource.0,
                    namespace: &report.resource.1,
                    policy,
                    direction: report.direction,
                    target: &report.target,
                    state,
                },
            );
        }
    }

    /// Counts the parts that were found.
    pub(crate) fn tell_executed(&self) {
        if self.timeout.is_some() {
            self.tell(Event::Executed, PolicyKind::Timeout, None);
        }
        if self.retry.is_some() {
            self.tell(Event::Executed, PolicyKind::Retry, None);
        }
        if let Some(breaker) = &self.breaker {
            self.tell(Event::Executed, PolicyKind::CircuitBreaker, Some(breaker.state()));
        }
    }
}

impl Policy {
    /// Nothing applies.
    pub const NONE: Self = Self { parts: None };

    /// Only retries.
    pub fn of_retry(name: impl Into<String>, retry: RetryPolicy) -> Self {
        Self {
            parts: Some(Arc::new(Parts {
                name: name.into(),
                retry: Some(Arc::new(retry)),
                ..Parts::default()
            })),
        }
    }

    /// Whether nothing applies.
    pub const fn is_none(&self) -> bool {
        self.parts.is_none()
    }

    /// Whether a failed call may be tried again, so that its request must be kept.
    pub fn has_retry(&self) -> bool {
        let retry = self.parts.as_ref().and_then(|parts| parts.retry.as_ref());
        retry.is_some_and(|retry| retry.max_retries != Some(0))
    }

    /// Time limit of an attempt.
    pub fn timeout(&self) -> Option<Duration> {
        self.parts.as_ref().and_then(|parts| parts.timeout)
    }

    /// The breaker in use.
    pub fn breaker(&self) -> Option<&Arc<CircuitBreaker>> {
        self.parts.as_ref().and_then(|parts| parts.breaker.as_ref())
    }

    /// The same for calls that cannot be made again: without its retries.
    #[must_use]
    pub fn without_retry(self) -> Self {
        match &self.parts {
            Some(parts) if parts.retry.is_some() => Self {
                parts: Some(Arc::new(Parts {
                    retry: None,
                    ..Parts::clone(parts)
                })),
            },
            _ => self,
        }
    }

    /// Runs a call: each attempt within the time limit and if the breaker lets it through; failed attempts again as
    /// long as the retry policy says so. `call` is given the number of the attempt, from 1; `convert` turns a
    /// policy's own failure into the call's error type.
    ///
    /// Dropping the returned future gives the call up; an attempt that the breaker let through then counts as failed.
    ///
    /// # Errors
    /// The last attempt's error, or the policy's own.
    pub fn run<T, E, F, Fut>(
        &self,
        call: F,
        convert: impl Fn(PolicyError) -> E,
    ) -> impl Future<Output = Result<T, E>>
    where
        F: FnMut(u32) -> Fut,
        Fut: Future<Output = Result<T, Failure<E>>>,
    {
        self.drive(call, convert, |value, permit, _| {
            if let (Some(permit), Some(parts)) = (permit, &self.parts) {
                report(parts, permit, true);
            }
            value
        })
    }

    /// As [`Self::run`], for a call whose success is only the beginning of an answer: the time limit goes on, and the
    /// breaker waits for how the answer ends.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_open<T, E, F, Fut>(
        &self,
        call: F,
        convert: impl Fn(PolicyError) -> E,
    ) -> impl Future<Output = Result<(T, Open), E>>
    where
        F: FnMut(u32) -> Fut,
        Fut: Future<Output = Result<T, Failure<E>>>,
    {
        self.drive(call, convert, |value, permit, until| {
            let parts = self.parts.clone();
            let open = Open {
                parts,
                permit,
                until,
                timer: None,
            };
            (value, open)
        })
    }

    async fn drive<T, E, F, Fut, R>(
        &self,
        mut call: F,
        convert: impl Fn(PolicyError) -> E,
        finish: impl FnOnce(T, Option<Permit>, Option<Instant>) -> R,
    ) -> Result<R, E>
    where
        F: FnMut(u32) -> Fut,
        Fut: Future<Output = Result<T, Failure<E>>>,
    {
        let parts = self.parts.as_deref();
        let retry = parts.and_then(|parts| parts.retry.as_deref());
        let mut backoff = retry.map(RetryPolicy::start);
        let mut attempt: u32 = 0;
        loop {
            attempt = attempt.saturating_add(1);
            let permit = match parts.map_or(Ok(None), acquire) {
                Ok(permit) => permit,
                // A closed gate ends the retries as well.
                Err(refusal) => return Err(convert(refusal)),
            };
            let limit = parts.and_then(|parts| parts.timeout);
            let until = limit.and_then(|limit| Instant::now().checked_add(limit));
            let result = match deadline(call(attempt), until).await {
                Some(result) => result,
                None => {
                    if let Some(parts) = parts {
                        parts.tell(Event::Activated, PolicyKind::Timeout, None);
                    }
                    Err(Failure::new(convert(PolicyError::Timeout)))
                }
            };
            let failure = match result {
                Ok(value) => {
                    if let (Some(parts), true) = (parts, attempt > 1) {
                        tracing::info!("Recovered processing operation {}.", parts.name);
                    }
                    return Ok(finish(value, permit, until));
                }
                Err(failure) => failure,
            };
            if let (Some(permit), Some(parts)) = (permit, parts) {
                report(parts, permit, false);
            }
            let (Some(parts), Some(retry), Some(backoff)) = (parts, retry, &mut backoff) else {
                return Err(failure.error);
            };
            let is_retried = failure.code.is_none_or(|code| retry.matching.is_retried(code));
            let pause = match backoff.next_pause() {
                Some(pause) if is_retried && !failure.permanent => pause,
                _ => return Err(failure.error),
            };
            tracing::info!(
                "Error processing operation {}. Retrying in {}…",
                parts.name,
                outrigger_model::GoDuration::from(pause)
            );
            drop(failure);
            tokio::time::sleep(pause).await;
            parts.tell(Event::Activated, PolicyKind::Retry, None);
        }
    }
}

/// What of a policy still applies to an answer that has begun: its time limit, and a breaker that waits for how it ends.
///
/// Whoever reads the answer asks [`Self::poll_expired`] and says how it ended by [`Self::end`]. One that is dropped
/// before was given up by its reader, which says nothing against the target.
#[derive(Default)]
pub struct Open {
    parts: Option<Arc<Parts>>,
    permit: Option<Permit>,
    until: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Open {
    /// Whether nothing applies any more.
    pub const fn is_none(&self) -> bool {
        self.permit.is_none() && self.until.is_none()
    }

    /// Ready when the time is up, which is told to the observer and counts as the answer's failure; not to be asked again.
    pub fn poll_expired(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(until) = self.until else {
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        ready!(timer.as_mut().poll(context));
        self.until = None;
        if let Some(parts) = &self.parts {
            parts.tell(Event::Activated, PolicyKind::Timeout, None);
        }
        self.end(false);
        Poll::Ready(())
    }

    /// The answer has ended; only the first word counts.
    pub fn end(&mut self, success: bool) {
        if let (Some(permit), Some(parts)) = (self.permit.take(), &self.parts) {
            report(parts, permit, success);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.end(true);
    }
}

fn acquire(parts: &Parts) -> Result<Option<Permit>, PolicyError> {
    let Some(breaker) = &parts.breaker else {
        return Ok(None);
    };
    breaker.acquire().map(Some).map_err(|refusal| match refusal {
        Refusal::Open => PolicyError::CircuitOpen,
        Refusal::TooManyRequests => PolicyError::TooManyRequests,
    })
}

fn report(parts: &Parts, permit: Permit, success: bool) {
    let before = permit.state_before();
    permit.report(success);
    if let Some(breaker) = &parts.breaker {
        let state = breaker.state();
        if state != before {
            parts.tell(Event::Activated, PolicyKind::CircuitBreaker, Some(state));
        }
    }
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(parts) = &self.parts else {
            return f.write_str("Policy::NONE");
        };
        f.debug_struct("Policy")
            .field("name", &parts.name)
            .field("timeout", &parts.timeout)
            .field("retry", &parts.retry)
            .field("breaker", &parts.breaker.as_ref().map(|breaker| breaker.name()))
            .finish()
    }
}

#[cfg(test)]
mod tests;
