use super::*;

fn breaker(max_requests: u32, interval: u64, trip: Option<&str>) -> Arc<CircuitBreaker> {
    Arc::new(CircuitBreaker::new(
        "b",
        Arc::new(BreakerTemplate {
            max_requests,
            interval: Duration::from_secs(interval),
            timeout: Duration::from_secs(60),
            trip: trip.map(|text| Trip::parse(text).unwrap()),
        }),
    ))
}

fn call(breaker: &Arc<CircuitBreaker>, success: bool) -> Result<(), Refusal> {
    breaker.acquire().map(|permit| permit.report(success))
}

async fn pass(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn it_opens_after_six_failures_in_a_row_unless_told_otherwise() {
    let breaker = breaker(1, 0, None);
    for _ in 0..5 {
        call(&breaker, false).unwrap();
    }
    call(&breaker, true).unwrap();
    for _ in 0..5 {
        call(&breaker, false).unwrap();
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
    assert_eq!(breaker.counts().total_failures, 10);
    call(&breaker, false).unwrap();
    assert_eq!(
        (breaker.state(), call(&breaker, true)),
        (BreakerState::Open, Err(Refusal::Open))
    );
}

#[tokio::test(start_paused = true)]
async fn it_probes_after_its_timeout_and_closes_on_enough_successes() {
    let breaker = breaker(2, 0, Some("consecutiveFailures > 0"));
    call(&breaker, false).unwrap();
    pass(60).await;
    assert_eq!(breaker.state(), BreakerState::Open);
    pass(1).await;
    let (one, two) = (breaker.acquire().unwrap(), breaker.acquire().unwrap());
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    assert_eq!(breaker.acquire().unwrap_err(), Refusal::TooManyRequests);
    one.report(true);
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    two.report(true);
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn one_failed_probe_opens_it_again() {
    let breaker = breaker(2, 0, Some("consecutiveFailures > 0"));
    call(&breaker, false).unwrap();
    pass(61).await;
    call(&breaker, true).unwrap();
    call(&breaker, false).unwrap();
    assert_eq!(breaker.state(), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_given_up_counts_as_failed() {
    let breaker = breaker(1, 0, Some("consecutiveFailures > 0"));
    call(&breaker, false).unwrap();
    pass(61).await;
    drop(breaker.acquire().unwrap());
    assert_eq!(breaker.state(), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn counts_are_cleared_each_interval_while_closed() {
    let breaker = breaker(1, 10, Some("totalFailures >= 3"));
    call(&breaker, false).unwrap();
    call(&breaker, false).unwrap();
    pass(11).await;
    call(&breaker, false).unwrap();
    assert_eq!(
        (breaker.state(), breaker.counts().total_failures),
        (BreakerState::Closed, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn results_of_an_earlier_state_do_not_count() {
    let breaker = breaker(1, 0, Some("consecutiveFailures > 0"));
    let late = breaker.acquire().unwrap();
    call(&breaker, false).unwrap();
    pass(61).await;
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    late.report(false);
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
}
