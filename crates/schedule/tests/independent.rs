//! Properties, and the ticks of an implementation that shares nothing with ours: `croner` with `chrono-tz`.
#![allow(clippy::unwrap_used)] // in helpers of tests too

use chrono::{DateTime, TimeZone as _, Timelike as _};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds};
use outrigger_schedule::{JobSpec, JobTimes, Schedule, Timestamp};
use proptest::prelude::*;

const ZONES: [&str; 8] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "Pacific/Apia",
    "Africa/Casablanca",
];

fn field(min: u32, max: u32) -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just("*".to_owned()),
        4 => (min..=max).prop_map(|value| value.to_string()),
        2 => (min..=max, min..=max).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        2 => (2..=max).prop_map(|step| format!("*/{step}")),
        1 => proptest::collection::vec(min..=max, 2..4)
            .prop_map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
    ]
}

/// An expression in which not both kinds of day are restricted, since croner reads a `*/2` there differently.
fn expression() -> impl Strategy<Value = String> {
    let days = prop_oneof![
        field(1, 31).prop_map(|day| format!("{day} * *")),
        (field(1, 28), field(1, 12)).prop_map(|(day, month)| format!("{day} {month} *")),
        field(0, 6).prop_map(|weekday| format!("* * {weekday}")),
        Just("29 2 *".to_owned()),
        Just("31 * *".to_owned()),
    ];
    (field(0, 59), field(0, 59), field(0, 23), days)
        .prop_map(|(second, minute, hour, days)| format!("{second} {minute} {hour} {days}"))
}

/// Whether a time's clock reading in a zone matches, by chrono's zones and croner's fields.
fn is_a_match(cron: &Cron, zone: Tz, at: i64) -> bool {
    let local: DateTime<Tz> = zone.timestamp_opt(at, 0).unwrap();
    cron.is_time_matching(&local.naive_local().and_utc()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn ticks_in_utc_are_those_of_another_implementation(
        expression in expression(),
        start in 0i64..4_000_000_000,
    ) {
        let theirs = CronParser::builder()
            .seconds(Seconds::Required)
            .dom_and_dow(true)
            .build()
            .parse(&expression)
            .unwrap();
        let ours = Schedule::parse(&expression).unwrap();
        let mut at = chrono::Utc.timestamp_opt(start, 0).unwrap();
        for _ in 0..8 {
            let next = ours.next(Timestamp::from_second(at.timestamp()).unwrap());
            let Some(next) = next else {
                // Nothing in nine years: theirs finds nothing near either.
                let far = match theirs.find_next_occurrence(&at, false) {
                    Ok(found) => found.timestamp() - at.timestamp() > 8 * 366 * 86_400,
                    Err(_) => true,
                };
                prop_assert!(far);
                break;
            };
            let expected = theirs.find_next_occurrence(&at, false).unwrap();
            prop_assert_eq!(next.as_second(), expected.timestamp(), "{} after {}", expression, at);
            at = expected;
        }
    }

    /// Around changes of the clock no two implementations agree on what is right, so here the rule itself is
    /// checked, with chrono's time zones and croner's matching: every tick matches, and nothing before it does.
    #[test]
    fn ticks_around_clock_changes_are_exactly_the_clock_readings_that_match(
        minute in prop_oneof![Just("0"), Just("*/15"), Just("30"), Just("45")],
        hour in prop_oneof![Just("*".to_owned()), (0u32..4).prop_map(|hour| hour.to_string()), Just("23".to_owned())],
        zone in proptest::sample::select(&ZONES[..]),
        days in 0i64..20_000,
    ) {
        let expression = format!("0 {minute} {hour} * * *");
        let tz: Tz = zone.parse().unwrap();
        let theirs = CronParser::builder()
            .seconds(Seconds::Required)
            .build()
            .parse(&expression)
            .unwrap();
        let schedule = Schedule::parse(&format!("TZ={zone} {expression}")).unwrap();
        // Start shortly before a change, if the zone has one near.
        let mut at = days * 86_400;
        let near = jiff::tz::TimeZone::get(zone).unwrap();
        if let Some(change) = near.following(Timestamp::from_second(at).unwrap()).next() {
            at = change.timestamp().as_second() - 2 * 3600;
        }
        for _ in 0..4 {
            let next = schedule.next(Timestamp::from_second(at).unwrap()).unwrap().as_second();
            prop_assert!(next > at && next <= at + 3 * 86_400);
            prop_assert!(is_a_match(&theirs, tz, next));
            // Offsets change in steps of minutes, so only whole minutes can match a second of 0.
            let first = at - at.rem_euclid(60) + 60;
            for candidate in (first..next).step_by(60) {
                let local = tz.timestamp_opt(candidate, 0).unwrap();
                prop_assert!(local.second() != 0 || !is_a_match(&theirs, tz, candidate),
                    "{} in {} passed over {}", expression, zone, local);
            }
            at = next;
        }
    }

    #[test]
    fn no_text_panics_and_ticks_go_forward(schedule in "\\PC{0,24}", due in "\\PC{0,12}", ttl in "\\PC{0,12}", now: i64) {
        let now = Timestamp::from_second(now % 100_000_000_000).unwrap();
        for spec in [
            JobSpec { schedule: Some(&schedule), ..JobSpec::default() },
            JobSpec { due_time: Some(&due), ..JobSpec::default() },
            JobSpec { schedule: Some("@daily"), due_time: Some(&due), ttl: Some(&ttl), repeats: Some(2) },
        ] {
            if let Ok(times) = JobTimes::new(spec, now) {
                let _ = times.next(0, None);
            }
        }
    }

    #[test]
    fn durations_written_at_random_never_panic(text in "(R-?[0-9]{0,20}/)?P([0-9]{1,20}[YMWD]){0,4}(T([0-9]{1,20}[HMS]){0,4})?", now: u32) {
        let now = Timestamp::from_second(i64::from(now)).unwrap();
        let spec = JobSpec { due_time: Some(&text), ..JobSpec::default() };
        let _ = JobTimes::new(spec, now).map(|times| times.next(0, None));
    }

    #[test]
    fn no_tick_is_before_its_predecessor_or_beyond_the_number_of_repetitions(
        period in 1i64..100_000, repeats in 1u32..20, ttl in 1i64..1_000_000, due in 0i64..1000,
    ) {
        let (schedule, due, ttl) = (format!("@every {period}ms"), format!("{due}ms"), format!("{ttl}ms"));
        let spec = JobSpec {
            schedule: Some(&schedule),
            due_time: Some(&due),
            ttl: Some(&ttl),
            repeats: Some(repeats),
        };
        let times = JobTimes::new(spec, Timestamp::from_second(1_700_000_000).unwrap()).unwrap();
        let (mut count, mut last) = (0, None);
        while let Some(next) = times.next(count, last) {
            prop_assert!(last.is_none_or(|last| next > last));
            prop_assert!(count == 0 || !times.has_expired(next));
            (count, last) = (count + 1, Some(next));
        }
        prop_assert!(count <= repeats);
    }
}

#[test]
fn a_leap_day_is_found_across_a_century_without_one() {
    let schedule = Schedule::parse("0 0 0 29 2 *").unwrap();
    let next = schedule.next("2096-03-01T00:00:00Z".parse().unwrap()).unwrap();
    assert_eq!(next.to_string(), "2104-02-29T00:00:00Z");
}

#[test]
fn schedules_that_go_nowhere_are_told_apart() {
    let now = Timestamp::from_second(1_700_000_000).unwrap();
    let check = |text: &str| {
        Schedule::parse(text)
            .unwrap()
            .check(now)
            .map_err(|error| error.to_string())
    };
    assert_eq!(
        check("0 0 0 30 2 *").unwrap_err(),
        "schedule never fires: no date matches within nine years, such as the 30th of February"
    );
    assert_eq!(
        check("@every -1s").unwrap_err(),
        "period of the schedule is negative: -1s"
    );
    assert_eq!(check("@every 0s"), Ok(()));
    assert_eq!(check("0 0 0 29 2 *"), Ok(()));
}

#[test]
fn times_that_do_not_fit_are_refused_by_name() {
    let now = Timestamp::from_second(1_700_000_000).unwrap();
    let fail = |spec| JobTimes::new(spec, now).unwrap_err().to_string();
    let due = |due_time| JobSpec {
        due_time: Some(due_time),
        ..JobSpec::default()
    };
    assert_eq!(
        fail(due("PT99999999999S")),
        "due time is out of range: PT99999999999S"
    );
    assert_eq!(fail(due("P9999Y")), "due time is out of range: P9999Y");
    assert_eq!(
        fail(JobSpec {
            schedule: Some("@daily"),
            ttl: Some("P99999999M"),
            ..JobSpec::default()
        }),
        "ttl is out of range: P99999999M"
    );
}
