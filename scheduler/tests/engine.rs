//! The engine in virtual time, against ticks that `croner` and `chrono-tz` expect, while replicas die, pause and
//! overtake each other, streams break and the store loses calls.
#![allow(clippy::unwrap_used)] // in helpers of tests too

#[path = "engine/world.rs"]
mod world;

use chrono::{NaiveDate, TimeZone as _};
use chrono_tz::Tz;
use croner::parser::{CronParser, Seconds};
use outrigger_proto::common::v1::job_failure_policy::Policy;
use outrigger_proto::common::v1::{JobFailurePolicy, JobFailurePolicyConstant, JobFailurePolicyDrop};
use outrigger_proto::scheduler::v1::Job;
use outrigger_schedule::Timestamp;
use outrigger_scheduler::engine::Nanos;
use proptest::prelude::*;

use world::{Expected, SECOND, Weather, World};

const MINUTE: Nanos = 60 * SECOND;
const DAY: Nanos = 24 * 60 * MINUTE;
const CALM: Weather = Weather {
    delay: 0,
    failures: 0,
    lost: 0,
    cut: 0,
};

fn policy(retries: Option<(u32, Nanos)>) -> Option<JobFailurePolicy> {
    let policy = match retries {
        None => Policy::Drop(JobFailurePolicyDrop {}),
        Some((max, pause)) => Policy::Constant(JobFailurePolicyConstant {
            interval: Some(prost_types::Duration {
                seconds: pause / SECOND,
                nanos: i32::try_from(pause % SECOND).unwrap(),
            }),
            max_retries: Some(max),
        }),
    };
    Some(JobFailurePolicy { policy: Some(policy) })
}

/// The ticks of a cron expression of whole minutes: every minute whose reading of the clock matches.
fn cron_ticks(zone: Tz, fields: &str, start: Nanos, end: Nanos) -> Vec<Nanos> {
    let cron = CronParser::builder()
        .seconds(Seconds::Required)
        .dom_and_dow(true)
        .build()
        .parse(fields)
        .unwrap();
    let first = (start / MINUTE + 1) * MINUTE;
    (first..=end)
        .step_by(usize::try_from(MINUTE).unwrap())
        .filter(|at| {
            let local = zone.timestamp_opt(at / SECOND, 0).unwrap();
            cron.is_time_matching(&local.naive_local().and_utc()).unwrap()
        })
        .collect()
}

fn period_ticks(period: Nanos, first: Nanos, end: Nanos) -> Vec<Nanos> {
    let step = usize::try_from(period).unwrap();
    (first..=end).step_by(step).collect()
}

/// Cuts ticks at a number and a lifetime.
fn bounded(
    mut ticks: Vec<Nanos>,
    repeats: Option<u32>,
    expiration: Option<Nanos>,
    end: Nanos,
) -> (Vec<Nanos>, bool) {
    let mut is_whole = false;
    if let Some(expiration) = expiration.filter(|expiration| *expiration <= end) {
        ticks.retain(|tick| *tick <= expiration);
        is_whole = true;
    }
    if let Some(repeats) = repeats.filter(|repeats| ticks.len() >= *repeats as usize) {
        ticks.truncate(repeats as usize);
        is_whole = true;
    }
    (ticks, is_whole)
}

fn at(year: i32, month: u32, day: u32) -> Nanos {
    let date = NaiveDate::from_ymd_opt(year, month, day)
        .unwrap()
        .and_hms_opt(0, 0, 7)
        .unwrap();
    date.and_utc().timestamp_nanos_opt().unwrap()
}

/// Days around which calendars are hard: changes of the clock, ends of months, leap days.
fn hard_days() -> impl Strategy<Value = Nanos> {
    prop_oneof![
        Just(at(2027, 3, 27)),
        Just(at(2027, 10, 30)),
        Just(at(2027, 3, 13)),
        Just(at(2027, 11, 6)),
        Just(at(2027, 4, 3)),
        Just(at(2028, 2, 27)),
        Just(at(2027, 2, 27)),
        Just(at(2027, 4, 29)),
        Just(at(2027, 12, 30)),
        Just(at(2096, 2, 28)),
    ]
}

fn fields() -> impl Strategy<Value = String> {
    let minute = prop_oneof![Just("0"), Just("30"), Just("*/20"), Just("59")];
    let hour = prop_oneof![
        Just("*".to_owned()),
        Just("*/6".to_owned()),
        (0u32..4).prop_map(|hour| hour.to_string()),
        Just("23".to_owned())
    ];
    let days = prop_oneof![
        4 => Just("* * *"),
        1 => Just("31 * *"),
        1 => Just("29 2 *"),
        1 => Just("30 * *"),
        1 => Just("1 * *"),
        1 => Just("* * 0"),
        1 => Just("* * 1-5"),
    ];
    (minute, hour, days).prop_map(|(minute, hour, days)| format!("0 {minute} {hour} {days}"))
}

fn zone() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(
        &[
            "UTC",
            "Europe/Berlin",
            "America/New_York",
            "Australia/Lord_Howe",
            "Asia/Kolkata",
            "America/Sao_Paulo",
        ][..],
    )
}

/// A job of any kind with its ticks up to an end.
fn add_job(world: &mut World, name: &str, what: &What, end: Nanos) {
    let (now, end) = (world.now, end + 60 * MINUTE);
    let mut job = Job {
        repeats: what.repeats,
        failure_policy: policy(what.retries),
        ..Job::default()
    };
    let due = what.due.map(|due| now + due);
    job.due_time = what.due.map(|due| format!("{due}ns"));
    let expiration = what.ttl.map(|ttl| due.unwrap_or(now) + ttl);
    job.ttl = what.ttl.map(|ttl| format!("{ttl}ns"));
    let from = due.unwrap_or(now);
    let mut ticks: Vec<Nanos> = due.into_iter().collect();
    match &what.schedule {
        Ticking::Once => (job.repeats, job.ttl) = (None, None),
        Ticking::Every(period) => {
            job.schedule = Some(format!("@every {period}ns"));
            ticks.extend(period_ticks(*period, from + period, end));
        }
        Ticking::Cron(zone, fields) => {
            job.schedule = Some(format!("TZ={zone} {fields}"));
            ticks.extend(cron_ticks(zone.parse().unwrap(), fields, from, end));
        }
    }
    // More than will be seen, so that the world always knows the next one.
    let (ticks, is_whole) = match what.schedule {
        Ticking::Once => (vec![from], true),
        _ => bounded(ticks, job.repeats, job.ttl.as_ref().and(expiration), end),
    };
    if ticks.is_empty() {
        return; // nothing to see before the end, or refused because it never ticks
    }
    let expected = Expected {
        ticks,
        is_whole,
        retries: what.retries,
    };
    world.schedule(name, &job, None, expected);
}

#[derive(Debug, Clone)]
enum Ticking {
    Once,
    Every(Nanos),
    Cron(&'static str, String),
}

#[derive(Debug, Clone)]
struct What {
    schedule: Ticking,
    due: Option<Nanos>,
    repeats: Option<u32>,
    ttl: Option<Nanos>,
    retries: Option<(u32, Nanos)>,
}

/// Jobs whose ticks are minutes or more apart, or seconds apart.
fn what(calendar: bool) -> impl Strategy<Value = What> {
    let unit = if calendar { MINUTE } else { SECOND };
    let schedule = if calendar {
        (zone(), fields())
            .prop_map(|(zone, fields)| Ticking::Cron(zone, fields))
            .boxed()
    } else {
        prop_oneof![
            1 => Just(Ticking::Once),
            4 => (800i64..20_000).prop_map(|millis| Ticking::Every(millis * 1_000_000)),
        ]
        .boxed()
    };
    (
        schedule,
        proptest::option::of((0i64..100).prop_map(move |count| count * unit + 1)),
        proptest::option::weighted(0.3, 1u32..30),
        proptest::option::weighted(0.3, (1i64..2000).prop_map(move |count| count * unit)),
        proptest::option::of((0u32..3, 1i64..3).prop_map(|(max, pause)| (max, pause * SECOND))),
    )
        .prop_map(move |(schedule, due, repeats, ttl, retries)| {
            let due = if matches!(schedule, Ticking::Once) {
                due.or(Some(unit))
            } else {
                due
            };
            What {
                schedule,
                due,
                repeats,
                ttl,
                retries,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Through changes of the clock, leap days and ends of months.
    #[test]
    fn every_tick_of_the_calendar_is_triggered_once_and_on_time(
        start in hard_days(),
        jobs in proptest::collection::vec(what(true), 1..6),
    ) {
        let mut world = World::new(1, start, 1, CALM);
        world.run_until(start + SECOND);
        let end = start + 5 * DAY;
        for (n, what) in jobs.iter().enumerate() {
            add_job(&mut world, &format!("job-{n}"), what, end);
        }
        world.run_until(end);
        prop_assert_eq!(world.finished(end), 0);
        prop_assert_eq!(world.duplicates, 0);
    }

    /// Failures and delays alone make no duplicates.
    #[test]
    fn failed_triggers_are_repeated_as_their_policy_says_and_no_tick_is_passed_over(
        seed: u64,
        jobs in proptest::collection::vec(what(false), 1..12),
    ) {
        let weather = Weather { delay: 300_000_000, failures: 300, ..CALM };
        let start = at(2027, 1, 1);
        let mut world = World::new(seed, start, 1, weather);
        let last = start + 5 * MINUTE;
        for (n, what) in jobs.iter().enumerate() {
            add_job(&mut world, &format!("job-{n}"), what, last);
        }
        world.run_until(last);
        world.weather = CALM;
        world.run_until(last + 2 * MINUTE);
        world.finished(last);
        prop_assert_eq!(world.duplicates, 0);
    }

    /// The promise of the service: nothing lost, nothing silent, duplicates only where something was under way.
    #[test]
    fn no_tick_is_lost_while_replicas_die_and_pause_and_calls_are_lost(
        seed: u64,
        jobs in proptest::collection::vec(what(false), 1..25),
        faults in proptest::collection::vec((0i64..15, 0u8..3, 1i64..9), 4..16),
    ) {
        let weather = Weather { delay: 200_000_000, failures: 50, lost: 100, cut: 20 };
        let start = at(2027, 1, 1);
        let mut world = World::new(seed, start, 3, weather);
        world.calm_since = Nanos::MAX;
        let end = start + 10 * MINUTE;
        for (n, what) in jobs.iter().enumerate() {
            add_job(&mut world, &format!("job-{n}"), what, end - MINUTE);
        }
        for (wait, kind, long) in faults {
            world.run_until(world.now + wait * SECOND);
            let victim = world.pick(3);
            match kind {
                0 => {
                    world.kill(victim);
                    // The others notice when its lease ends.
                    world.run_until(world.now + 3 * SECOND);
                    world.agree();
                    world.run_until(world.now + long * SECOND);
                    world.start(victim);
                    world.agree();
                }
                1 => {
                    // Shorter than its lease: nobody notices. Longer: the others take over while it still believes.
                    world.pause(victim, long * SECOND);
                    if long > 3 {
                        world.run_until(world.now + 3 * SECOND);
                        world.agree();
                        world.run_until(world.now + (long - 3) * SECOND);
                        world.agree();
                    }
                }
                _ => world.agree(),
            }
        }
        world.run_until(world.now + 12 * SECOND);
        world.agree();
        world.weather = CALM;
        // Retries of what failed before are over by then.
        world.run_until(world.now + 15 * SECOND);
        world.calm_since = world.now;
        world.run_until(end.max(world.now + MINUTE));
        let lateness = world.finished(end - MINUTE);
        prop_assert!(lateness < 5 * SECOND, "{} ms late once it was calm", lateness / 1_000_000);
        world.explained();
    }
}

/// How many triggers there are at once after five minutes away, of a job of every ten seconds, and in the minute after.
fn after_downtime(misfire: Option<&str>) -> (usize, usize) {
    let start = at(2027, 1, 1);
    let mut world = World::new(1, start, 1, CALM);
    world.is_strict = false;
    let job = Job {
        schedule: Some("@every 10s".to_owned()),
        ..Job::default()
    };
    let expected = Expected {
        ticks: Vec::new(),
        is_whole: false,
        retries: None,
    };
    world.schedule("job", &job, misfire, expected);
    world.run_until(start + 5 * SECOND);
    world.kill(0);
    world.run_until(start + 305 * SECOND);
    assert_eq!(world.deliveries, 0);
    world.start(0);
    world.agree();
    world.run_until(start + 306 * SECOND);
    let at_once = world.deliveries;
    world.run_until(start + 366 * SECOND);
    (at_once, world.deliveries - at_once)
}

#[test]
fn ticks_that_were_missed_are_fired_as_the_job_s_policy_says_and_the_rhythm_goes_on() {
    // Of the 30 ticks the last is five seconds late, which is not missed.
    for (misfire, at_once) in [
        (None, 30),
        (Some("all"), 30),
        (Some("all=5"), 6),
        (Some("once"), 2),
        (Some("skip"), 1),
        (Some("all=0"), 1),
    ] {
        assert_eq!(after_downtime(misfire), (at_once, 6), "{misfire:?}");
    }
}

#[test]
fn the_data_of_a_burst_is_read_before_it_is_due_and_not_all_at_a_time() {
    const JOBS: usize = 6000;
    let start = at(2027, 1, 1);
    let due = start + 60 * MINUTE;
    let weather = Weather {
        delay: 20_000_000,
        ..CALM
    };
    let mut world = World::new(1, start, 1, weather);
    world.run_until(start + SECOND);
    for n in 0..JOBS {
        let job = Job {
            due_time: Some(Timestamp::from_nanosecond(i128::from(due)).unwrap().to_string()),
            ..Job::default()
        };
        let expected = Expected {
            ticks: vec![due],
            is_whole: true,
            retries: None,
        };
        world.schedule(&format!("job-{n}"), &job, None, expected);
    }
    world.run_until(due - 15 * SECOND);
    assert_eq!(world.most_ahead, 0);
    world.run_until(due + MINUTE);
    assert_eq!(world.deliveries, JOBS);
    assert_eq!(world.late_reads, 0);
    assert!((1000..=4096).contains(&world.most_ahead), "{}", world.most_ahead);
}
