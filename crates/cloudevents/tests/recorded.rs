//! Every recorded event, byte by byte.
#![allow(clippy::unwrap_used, reason = "test helpers are outside of #[test] functions")]

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{Timestamp, ZonedDateTime, tz::TimeZone};
use outrigger_cloudevents::{Event, EventInput, build};
use outrigger_gojson::Numbers;
use serde_json::Value;

const NOW: &str = "2026-01-02T03:04:05Z";

fn now() -> ZonedDateTime {
    NOW.parse::<Timestamp>().unwrap().to_zoned_datetime(TimeZone::UTC)
}

/// The time to live that the metadata of the recorded cases ask for.
fn ttl(metadata: &BTreeMap<String, String>) -> Option<Duration> {
    match metadata.get("ttlInSeconds").map(String::as_str) {
        None | Some("-1") => None,
        Some("1m") => Some(Duration::from_secs(60)),
        Some(seconds) => Some(Duration::from_secs(seconds.parse().unwrap())),
    }
}

/// The recording's placeholders as words that JSON does not escape.
fn cases(json: &str) -> Vec<Value> {
    let json = json
        .replace("<uuid>", "UUID")
        .replace("<traceparent>", "PARENT")
        .replace("<span>", "SPAN");
    serde_json::from_str(&json).unwrap()
}

fn text<'a>(case: &'a Value, name: &str) -> &'a str {
    case[name].as_str().unwrap_or_default()
}

fn publish(case: &Value, app_id: &str, pubsub_name: &str) -> Result<Event, String> {
    let metadata = serde_json::from_value(case["metadata"].clone()).unwrap();
    let now = now();
    let input = EventInput {
        id: "UUID",
        app_id,
        topic: text(case, "topic"),
        pubsub_name,
        data: &STANDARD.decode(text(case, "data")).unwrap(),
        data_content_type: text(case, "content_type"),
        trace_parent: text(case, "trace_parent"),
        trace_state: text(case, "trace_state"),
        metadata: &metadata,
        ttl: ttl(&metadata),
        now: &now,
    };
    build(&input).map_err(|error| error.to_string())
}

#[test]
fn every_recorded_publication_becomes_the_recorded_event() {
    let cases = cases(include_str!("../testdata/published.json"));
    assert!(cases.len() > 70);
    for case in cases {
        let got = publish(&case, "app1", "ps").map(|event| String::from_utf8(event.to_json()).unwrap());
        let expected = match case["event"].as_str() {
            Some(event) => {
                let lives = ttl(&serde_json::from_value(case["metadata"].clone()).unwrap());
                let end = now().timestamp() + lives.unwrap_or_default();
                let end = format!("\"expiration\":\"{}\"", outrigger_cloudevents::format_utc(end));
                Ok(event
                    .replace("\"expiration\":\"<time>\"", &end)
                    .replace("<time>", NOW))
            }
            None => Err(text(&case, "error").to_owned()),
        };
        assert_eq!(got, expected, "{}", case["id"]);
    }
}

#[test]
fn every_recorded_publication_reaches_a_grpc_app_as_recorded() {
    let cases = cases(include_str!("../testdata/delivered.json"));
    assert!(cases.len() > 25);
    for case in cases {
        let id = &case["id"];
        let expected = &case["message"];
        let event = Event::parse(&publish(&case, "papp", "pubsub").unwrap().to_json()).unwrap();
        assert_eq!(event.id(), text(expected, "id"), "{id}");
        assert_eq!(event.source(), text(expected, "source"), "{id}");
        assert_eq!(event.event_type(), text(expected, "type"), "{id}");
        assert_eq!(event.spec_version(), text(expected, "spec_version"), "{id}");
        assert_eq!(
            event.data_content_type(),
            text(expected, "data_content_type"),
            "{id}"
        );
        assert_eq!(
            STANDARD.encode(event.data_bytes().unwrap()),
            text(expected, "data"),
            "{id}"
        );
        let extensions: outrigger_gojson::Value = event
            .extensions()
            .map(|(name, value)| (name, value.clone()))
            .collect();
        let extensions = outrigger_gojson::to_string(&extensions, Numbers::Float64, false);
        let mut extensions: Value = serde_json::from_str(&extensions).unwrap();
        let mut expected = expected["extensions"].clone();
        for name in ["time", "expiration"] {
            if expected[name] == "<time>" {
                assert!(extensions[name].is_string(), "{id}");
                expected[name] = extensions[name].take();
                extensions[name] = expected[name].clone();
            }
        }
        // The recording tells every number of a Struct as a double.
        if expected["num"].is_number() {
            expected["num"] = extensions["num"].clone();
        }
        assert_eq!(extensions, expected, "{id}");
    }
}
