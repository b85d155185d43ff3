//! Hosts and placement replicas under partitions, delays, crashes, frozen processes, clocks that run at different speed
//! and jump, sidecars that do not answer: over many seeds no actor ever has two turns, no acknowledged call is lost,
//! and a stated time after the faults every actor can be reached from everywhere.
//!
//! The placement service is the real one without its sockets; sidecars are a model of what docs/ACTORS.md asks of
//! them. `SIM_SEEDS=5000 cargo test --release -p outrigger-placement --test simulation` runs more; `SIM_SEED=n` one.
#![allow(clippy::unwrap_used, reason = "test helpers are outside of #[test] functions")]
#![allow(deprecated, reason = "sidecars fill deprecated fields")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clocks of a simulation"
)]

mod host;
mod world;

use world::World;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn no_double_turn_no_lost_call_and_every_actor_is_reachable_again() {
    let seeds = match number("SIM_SEED") {
        Some(one) => one..one + 1,
        None => 0..number("SIM_SEEDS").unwrap_or(100),
    };
    let (mut wrong, mut calls, mut rounds, mut leaders, mut count) = (Vec::new(), 0, 0, 0, 0u64);
    for seed in seeds {
        let report = World::new(seed).run();
        count += 1;
        calls += report.acknowledged;
        rounds += report.rounds;
        leaders += report.leaders;
        if let Some(first) = report.violations.first() {
            wrong.push(format!("seed {seed}: {first}"));
        }
    }
    println!("{count} seeds: {calls} calls acknowledged, {rounds} locks sent, {leaders} leaders");
    assert!(
        calls > count * 100 && leaders >= count,
        "the simulation does something"
    );
    assert!(
        wrong.is_empty(),
        "{} of {count} seeds:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
}
