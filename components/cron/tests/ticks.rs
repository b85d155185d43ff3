//! Ticks under a virtual clock.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use outrigger_components_api::bindings::InputBinding as _;
use outrigger_components_api::testing::bindings::{Events, input_suite};
use outrigger_components_api::testing::init_context;
use outrigger_components_cron::{Clock, Cron};

fn cron(schedule: &str) -> Cron {
    let context = init_context("tick", [("schedule", schedule)]);
    let clock = Clock::starting_at("2025-01-30T22:47:13.5Z".parse().unwrap());
    Cron::new(&context, clock).unwrap()
}

#[tokio::test(start_paused = true)]
async fn every_tick_calls_the_app_whatever_it_answers() {
    let binding = cron("@every 2s");
    let events = Events::failing_first(2);
    let reading = binding.read(events.clone()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(7)).await;
    let seen = events.events();
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[0].data, None);
    assert_eq!(seen[0].metadata["timeZone"], "Local");
    assert_eq!(seen[1].metadata["readTimeUTC"], "2025-01-30 22:47:17 +0000 UTC");
    reading.close().await;
}

#[tokio::test(start_paused = true)]
async fn reading_keeps_its_promises() {
    input_suite(Arc::new(cron("* * * * * *")), |_| {
        tokio::time::sleep(Duration::from_secs(1))
    })
    .await;
}

#[test]
fn a_schedule_is_needed() {
    let error = Cron::new(&init_context("tick", []), Clock::wall()).unwrap_err();
    assert!(error.0.starts_with("schedule not set"), "{error}");
}
