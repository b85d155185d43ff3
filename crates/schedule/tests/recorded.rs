//! Replays what was recorded from Dapr's own parsers and schedule arithmetic.
#![allow(clippy::unwrap_used)] // in helpers of tests too

use outrigger_schedule::{Begin, DurationParts, JobSpec, JobTimes, Timestamp, duration, parse_rfc3339};
use serde_json::{Value, json};

fn cases(text: &str) -> Vec<Value> {
    serde_json::from_str::<Vec<Value>>(text).unwrap()
}

fn time(value: &Value) -> Timestamp {
    parse_rfc3339(value.as_str().unwrap()).unwrap()
}

/// 9999-12-31T23:59:59Z becomes the latest time the library knows, about a day earlier: nobody will see the difference.
const EXCEPTION: &str = "time-151";

/// Cases of `duration.json` for Go durations are replayed in `crates/model`.
#[test]
fn every_recorded_duration_and_point_in_time_reads_as_in_the_reference() {
    let mut replayed = 0;
    for case in cases(include_str!("../testdata/duration.json")) {
        let text = case["input"]["text"].as_str().unwrap();
        let got = match case["input"]["parser"].as_str().unwrap() {
            "iso8601" => DurationParts::parse_iso8601(text).map(parts),
            "iso8601 or go" => DurationParts::parse(text).map(parts),
            "point in time" => duration::parse_point_in_time(text, time(&case["input"]["offset"]))
                .map(|at| json!({ "time": at.to_string() })),
            "go" => continue,
            other => panic!("unknown parser {other}"),
        };
        let got = got.unwrap_or_else(|error| json!({ "error": error.to_string() }));
        replayed += 1;
        if case["id"] == EXCEPTION {
            assert_eq!(got, json!({ "time": Timestamp::MAX.to_string() }));
            continue;
        }
        assert_eq!(got, case["output"], "{}: {text:?}", case["id"]);
    }
    assert_eq!(replayed, 351);
}

fn parts(parts: DurationParts) -> Value {
    json!({
        "years": parts.years,
        "months": parts.months,
        "days": parts.days,
        "nanoseconds": parts.nanos.to_string(),
        "repetitions": parts.repetitions,
    })
}

#[test]
fn every_recorded_job_ticks_as_in_the_reference() {
    let cases = cases(include_str!("../testdata/schedule.json"));
    assert_eq!(cases.len(), 187);
    for case in cases {
        assert_eq!(
            replay(&case["input"]),
            case["output"],
            "{}: {}",
            case["id"],
            case["input"]
        );
    }
}

fn replay(input: &Value) -> Value {
    let text = |name: &str| input[name].as_str();
    let spec = JobSpec {
        schedule: text("schedule"),
        due_time: text("due_time"),
        ttl: text("ttl"),
        repeats: input["repeats"]
            .as_u64()
            .map(|repeats| u32::try_from(repeats).unwrap()),
    };
    let times = match JobTimes::new(spec, time(&input["now"])) {
        Ok(times) => times,
        Err(error) => return json!({ "error": error.to_string() }),
    };
    let wanted = usize::try_from(input["count"].as_u64().unwrap()).unwrap();
    let mut triggers = Vec::new();
    let mut last = None;
    let mut more = true;
    while triggers.len() < wanted {
        let Some(next) = times.next(u32::try_from(triggers.len()).unwrap(), last) else {
            more = false;
            break;
        };
        triggers.push(next.to_string());
        last = Some(next);
    }
    if more {
        more = times.next(u32::try_from(triggers.len()).unwrap(), last).is_some();
    }
    let mut out = json!({ "more": more, "triggers": triggers });
    let (name, begin) = match times.begin {
        Begin::Start(at) => ("start", at),
        Begin::DueTime(at) => ("due_time", at),
    };
    out[name] = json!(begin.to_string());
    if let Some(expiration) = times.expiration {
        out["expiration"] = json!(expiration.to_string());
    }
    out
}
