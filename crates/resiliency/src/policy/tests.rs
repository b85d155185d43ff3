use std::sync::Mutex;

use tokio::time::{Instant, sleep};

use super::*;
use crate::breaker::{BreakerTemplate, Trip};
use crate::retry::{Matching, Pauses};

const PAUSE: Duration = Duration::from_secs(2);

fn policy(timeout: Option<u64>, retry: Option<RetryPolicy>, trip: Option<&str>) -> Policy {
    let template = |text| BreakerTemplate {
        max_requests: 1,
        interval: Duration::ZERO,
        timeout: Duration::from_secs(60),
        trip: Some(Trip::parse(text).unwrap()),
    };
    Policy {
        parts: Some(Arc::new(Parts {
            name: "test".into(),
            timeout: timeout.map(Duration::from_secs),
            retry: retry.map(Arc::new),
            breaker: trip.map(|text| Arc::new(CircuitBreaker::new("b", Arc::new(template(text))))),
            report: None,
        })),
    }
}

fn text(error: PolicyError) -> String {
    error.to_string()
}

/// Runs a call that fails with these until they are used up; returns the result and the attempts.
async fn run(policy: &Policy, failures: Vec<Failure<String>>) -> (Result<u32, String>, u32) {
    let mut attempts = 0;
    let mut failures = failures.into_iter();
    let call = |attempt| {
        attempts = attempt;
        let result = match failures.next() {
            Some(failure) => Err(failure),
            None => Ok(attempt),
        };
        async { result }
    };
    let result = policy.run(call, text).await;
    (result, attempts)
}

fn failures(count: usize) -> Vec<Failure<String>> {
    vec![Failure::new("no".to_owned()); count]
}

#[tokio::test(start_paused = true)]
async fn without_a_policy_a_call_runs_once() {
    assert_eq!(run(&Policy::NONE, vec![]).await, (Ok(1), 1));
    assert_eq!(run(&Policy::NONE, failures(1)).await, (Err("no".into()), 1));
    assert!(Policy::NONE.is_none() && !Policy::NONE.has_retry() && Policy::NONE.timeout().is_none());
}

#[test]
fn a_call_without_a_policy_carries_little_around() {
    let bare = async { Ok::<_, Failure<String>>(()) };
    let future = Policy::NONE.run(|_| std::future::ready(Ok::<_, Failure<String>>(())), text);
    assert!(size_of_val(&future) < 400, "{}", size_of_val(&future));
    drop(bare);
}

#[tokio::test(start_paused = true)]
async fn retries_wait_and_end_with_the_last_error() {
    let policy = policy(None, Some(RetryPolicy::constant(PAUSE, 2)), None);
    let started = Instant::now();
    assert_eq!(run(&policy, failures(2)).await, (Ok(3), 3));
    assert_eq!(started.elapsed(), 2 * PAUSE);
    assert_eq!(run(&policy, failures(3)).await, (Err("no".into()), 3));
    assert!(policy.has_retry());
}

#[tokio::test(start_paused = true)]
async fn the_time_limit_goes_on_while_an_answer_is_read_and_the_breaker_hears_of_it() {
    let policy = policy(Some(5), None, Some("totalFailures > 100"));
    let counts = || policy.breaker().unwrap().counts();
    let open = || async {
        let call = |attempt| async move {
            sleep(PAUSE).await;
            Ok::<_, Failure<String>>(attempt)
        };
        policy.run_open(call, text).await.unwrap().1
    };
    let started = Instant::now();
    let mut stalled = open().await;
    assert!(!stalled.is_none() && counts().total_successes == 0);
    std::future::poll_fn(|cx| stalled.poll_expired(cx)).await;
    assert_eq!(started.elapsed().as_secs(), 5);
    stalled.end(true);
    drop(stalled);
    assert_eq!((counts().total_failures, counts().total_successes), (1, 0));
    open().await.end(false);
    assert_eq!((counts().total_failures, counts().total_successes), (2, 0));
    drop(open().await);
    assert_eq!((counts().total_failures, counts().total_successes), (2, 1));
    let nothing = Policy::NONE.run_open(|_| async { Ok::<_, Failure<String>>(()) }, text);
    assert!(nothing.await.unwrap().1.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_cannot_be_made_again_keeps_the_rest_of_its_policy() {
    let retrying = policy(
        Some(5),
        Some(RetryPolicy::constant(PAUSE, 2)),
        Some("totalFailures > 1"),
    );
    let policy = retrying.without_retry();
    assert!(!policy.has_retry() && policy.timeout().is_some());
    assert_eq!(run(&policy, failures(1)).await, (Err("no".into()), 1));
    assert_eq!(policy.breaker().unwrap().counts().total_failures, 1);
}

#[tokio::test(start_paused = true)]
async fn permanent_failures_and_codes_that_are_not_listed_are_not_retried() {
    let retry = RetryPolicy {
        pauses: Pauses::Constant(PAUSE),
        max_retries: Some(5),
        matching: Matching::parse("500", "14").unwrap(),
    };
    let policy = policy(None, Some(retry), None);
    let no = || "no".to_owned();
    for (failure, attempts) in [
        (Failure::permanent(no()), 1),
        (Failure::with_code(no(), 500), 2),
        (Failure::with_code(no(), 404), 1),
        (Failure::with_code(no(), 14), 2),
        (Failure::with_code(no(), 13), 1),
        (Failure::new(no()), 2),
    ] {
        let (_, made) = run(&policy, vec![failure.clone()]).await;
        assert_eq!(made, attempts, "{failure:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_timeout_is_for_each_attempt_and_its_failure_is_retried() {
    let policy = policy(Some(1), Some(RetryPolicy::constant(PAUSE, 1)), None);
    let started = Instant::now();
    let slow = |_| async {
        sleep(Duration::from_secs(10)).await;
        Ok::<(), Failure<String>>(())
    };
    assert_eq!(
        policy.run(slow, text).await,
        Err("context deadline exceeded".into())
    );
    assert_eq!(
        started.elapsed(),
        Duration::from_secs(1) + PAUSE + Duration::from_secs(1)
    );
    let quick = |_| async {
        sleep(Duration::from_millis(999)).await;
        Ok::<(), Failure<String>>(())
    };
    assert_eq!(policy.run(quick, text).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_ends_the_retries() {
    let policy = policy(
        None,
        Some(RetryPolicy::constant(PAUSE, 10)),
        Some("consecutiveFailures > 1"),
    );
    assert_eq!(
        run(&policy, failures(5)).await,
        (Err("circuit breaker is open".into()), 2)
    );
    assert_eq!(
        run(&policy, vec![]).await,
        (Err("circuit breaker is open".into()), 0)
    );
    tokio::time::advance(Duration::from_secs(61)).await;
    let probe = policy.breaker().unwrap().acquire().unwrap();
    assert_eq!(run(&policy, vec![]).await, (Err("too many requests".into()), 0));
    probe.report(true);
    assert_eq!(run(&policy, vec![]).await, (Ok(1), 1));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_counts_as_a_failure_for_the_breaker() {
    let policy = policy(Some(1), None, Some("totalFailures > 0"));
    let slow = |_| async {
        sleep(Duration::from_secs(10)).await;
        Ok::<(), Failure<String>>(())
    };
    assert!(policy.run(slow, text).await.is_err());
    assert_eq!(policy.breaker().unwrap().state(), BreakerState::Open);
}

#[derive(Default)]
struct Seen(Mutex<Vec<String>>);

impl Observer for Seen {
    fn observe(&self, event: Event, labels: Labels<'_>) {
        let state = labels.state.map_or("", BreakerState::name);
        let line = format!(
            "{event:?} {} {} {} {} {state}",
            labels.policy.name(),
            labels.direction.name(),
            labels.target,
            labels.name
        );
        self.0.lock().unwrap().push(line.trim_end().to_owned());
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_hears_of_what_was_found_and_what_took_effect() {
    let seen = Arc::new(Seen::default());
    let resource: outrigger_resources::Resiliency = outrigger_resources::yaml::from_str(
        "metadata: {name: res}\nspec: {policies: {timeouts: {t: 1s}, retries: {r: {duration: 1s, maxRetries: 1}}, \
         circuitBreakers: {c: {trip: totalFailures > 1}}}, targets: {apps: {a: {timeout: t, retry: r, circuitBreaker: c}}}}",
    )
    .unwrap();
    let (resiliency, warnings) = crate::Resiliency::new(&[resource], Some(seen.clone()));
    assert!(warnings.is_empty(), "{warnings:?}");
    let policy = resiliency.app("a", "a:m");
    run(&policy, failures(2)).await.0.unwrap_err();
    assert_eq!(
        *seen.0.lock().unwrap(),
        [
            "Executed timeout outbound app_a res",
            "Executed retry outbound app_a res",
            "Executed circuitbreaker outbound app_a res closed",
            "Activated retry outbound app_a res",
            "Activated circuitbreaker outbound app_a res open",
        ]
    );
}
