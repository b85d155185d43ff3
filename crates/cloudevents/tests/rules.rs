//! The rules that the recordings do not reach.
#![allow(clippy::unwrap_used, reason = "test helpers are outside of #[test] functions")]

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{Timestamp, ZonedDateTime, tz::TimeZone};
use outrigger_cloudevents::bulk::{Content, DeliveredEntry, Delivery, EntryError, entry_bytes};
use outrigger_cloudevents::{BinaryInput, DataError, Event, EventInput, RawInput, build};
use outrigger_gojson::Value;
use proptest::prelude::*;

fn now() -> ZonedDateTime {
    "2026-01-02T03:04:05Z"
        .parse::<Timestamp>()
        .unwrap()
        .to_zoned_datetime(TimeZone::UTC)
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn published(data: &[u8], content_type: &str, metadata: &BTreeMap<String, String>) -> Event {
    build(&EventInput {
        id: "uuid",
        app_id: "app",
        topic: "t",
        pubsub_name: "ps",
        data,
        data_content_type: content_type,
        trace_parent: "",
        trace_state: "",
        metadata,
        ttl: None,
        now: &now(),
    })
    .unwrap()
}

#[test]
fn an_empty_override_falls_back_to_the_default() {
    let event = published(
        b"x",
        "",
        &map(&[
            ("cloudevent.source", ""),
            ("CloudEvent.Type", ""),
            ("cloudevent.id", ""),
        ]),
    );
    assert_eq!(
        (event.source(), event.event_type(), event.id()),
        ("Dapr", "com.dapr.event.sent", "uuid")
    );
}

#[test]
fn a_longer_life_than_time_itself_is_cut_off() {
    let input = EventInput {
        id: "uuid",
        app_id: "app",
        topic: "t",
        pubsub_name: "ps",
        data: b"",
        data_content_type: "",
        trace_parent: "",
        trace_state: "",
        metadata: &BTreeMap::new(),
        ttl: Some(Duration::MAX),
        now: &now(),
    };
    assert!(!build(&input).unwrap().is_expired(now().timestamp()));
}

#[test]
fn an_event_expires_when_its_time_has_passed() {
    let expires = |text: &str| {
        Event::parse(format!(r#"{{"expiration":{text}}}"#).as_bytes())
            .unwrap()
            .is_expired(now().timestamp())
    };
    assert!(expires(r#""2026-01-02T03:04:04Z""#));
    assert!(!expires(r#""2026-01-02T03:04:06Z""#));
    assert!(expires(r#""2026-01-02T04:04:04+01:00""#));
    for never in [r#""soon""#, r#""""#, "5", "null"] {
        assert!(!expires(never), "{never}");
    }
}

#[test]
fn a_raw_message_is_wrapped_with_the_trace_it_came_with() {
    let raw = |metadata: &BTreeMap<String, String>| {
        let input = RawInput {
            id: "uuid",
            topic: "t",
            pubsub_name: "ps",
            data: b"{\"a\":1}",
            metadata,
        };
        String::from_utf8(Event::wrap_raw(&input).to_json()).unwrap()
    };
    assert_eq!(
        raw(&BTreeMap::new()),
        r#"{"data_base64":"eyJhIjoxfQ==","datacontenttype":"application/octet-stream","id":"uuid","pubsubname":"ps","source":"Dapr","specversion":"1.0","topic":"t","type":"com.dapr.event.sent"}"#
    );
    let traced = raw(&map(&[
        ("traceparent", "tp"),
        ("traceid", "ti"),
        ("tracestate", "ts"),
    ]));
    assert!(
        traced.contains(r#""traceid":"tp","traceparent":"tp","tracestate":"ts""#),
        "{traced}"
    );
    let without_parent = raw(&map(&[("traceid", ""), ("tracestate", "")]));
    assert!(
        without_parent.contains(r#""topic":"t","traceid":"","tracestate":"","type""#),
        "{without_parent}"
    );
}

#[test]
fn binary_mode_takes_attributes_from_metadata() {
    let metadata = map(&[
        ("ce_id", "1"),
        ("CE_Type", "ty"),
        ("other", "x"),
        ("ce_source", "s"),
    ]);
    let input = BinaryInput {
        data: b"\x00\xff",
        content_type: "application/octet-stream",
        metadata: &metadata,
    };
    let event = Event::from_binary(&input);
    assert_eq!(
        (event.id(), event.attribute("Type"), event.source()),
        ("1", "ty", "s")
    );
    assert_eq!(event.data_content_type(), "application/octet-stream");
    assert!(!event.members().contains_key("other"));
}

#[test]
fn a_message_that_is_no_object_is_refused_in_gos_words() {
    let refused = |text: &str| Event::parse(text.as_bytes()).unwrap_err().to_string();
    assert_eq!(
        refused("plain"),
        "invalid character 'p' looking for beginning of value"
    );
    assert_eq!(
        refused("[1]"),
        "json: cannot unmarshal array into Go value of type map[string]interface {}"
    );
    assert_eq!(
        refused(r#"{"a":1e999}"#),
        "json: cannot unmarshal number 1e999 into Go value of type float64"
    );
}

#[test]
fn data_that_contradicts_its_content_type_is_an_error_for_grpc() {
    let data = |text: &str| Event::parse(text.as_bytes()).unwrap().data_bytes();
    assert_eq!(
        data(r#"{"datacontenttype":"text/plain","data":5}"#),
        Err(DataError)
    );
    assert_eq!(data(r#"{"data_base64":5}"#), Err(DataError));
    assert_eq!(data(r#"{"data_base64":"AQI=","data":"x"}"#), Ok(vec![1, 2]));
    assert_eq!(
        data(r#"{"datacontenttype":"application/json","data":null}"#),
        Ok(Vec::new())
    );
}

#[test]
fn broken_text_reaches_both_kinds_of_apps() {
    let event = published(b"h\xffi \xef\xbf\xbd", "text/plain", &BTreeMap::new());
    assert_eq!(event.data_bytes(), Ok(b"h\xffi \xef\xbf\xbd".to_vec()));
    let json = String::from_utf8(event.to_json()).unwrap();
    assert!(json.starts_with("{\"data\":\"h\\ufffdi \u{fffd}\","), "{json}");
}

#[test]
fn the_trace_is_completed_from_metadata_where_the_event_has_none() {
    let mut event = Event::parse(br#"{"traceid":"own"}"#).unwrap();
    event.complete_trace(&map(&[
        ("traceid", "x"),
        ("traceparent", ""),
        ("tracestate", "ts"),
    ]));
    assert_eq!(event.trace_parent(), Some("own"));
    assert_eq!(event.trace_state(), Some("ts"));
    assert_eq!(event.extensions().count(), 3);
}

#[test]
fn bulk_entries_become_bytes_by_their_content_type() {
    let bytes = |json: &str, content_type: &str| {
        entry_bytes(&outrigger_gojson::parse(json.as_bytes()).unwrap(), content_type)
    };
    assert_eq!(bytes(r#""AQID""#, "application/octet-stream"), Ok(vec![1, 2, 3]));
    assert_eq!(bytes(r#""x""#, "text/plain; charset=utf-8"), Ok(b"x".to_vec()));
    assert_eq!(
        bytes(r#"{"b":1.0,"a":"<"}"#, "application/json"),
        Ok(br#"{"a":"\u003c","b":1}"#.to_vec())
    );
    assert_eq!(bytes("null", "application/json"), Ok(b"null".to_vec()));
    assert_eq!(
        bytes(r#""a*""#, "application/octet-stream"),
        Err(EntryError::Base64(1))
    );
    for (json, content_type) in [
        ("{}", "text/plain"),
        ("{}", "application/octet-stream"),
        (r#""x""#, "image/png"),
        (r#""x""#, ""),
        ("null", "text/plain"),
    ] {
        assert_eq!(
            bytes(json, content_type),
            Err(EntryError::Mismatch),
            "{json} {content_type}"
        );
    }
}

#[test]
fn a_bulk_delivery_has_the_recorded_form() {
    let event = Event::parse(br#"{"topic":"bk","data":{"n":1}}"#).unwrap();
    let empty = BTreeMap::new();
    let entries = [
        DeliveredEntry {
            entry_id: "1",
            content: Content::Event(&event),
            metadata: Some(&empty),
            content_type: None,
        },
        DeliveredEntry {
            entry_id: "2",
            content: Content::Raw(b"abc"),
            metadata: None,
            content_type: None,
        },
    ];
    let metadata = map(&[("pubsubName", "ps")]);
    let delivery = Delivery {
        id: "uuid",
        topic: "bk",
        pubsub_name: "ps",
        metadata: &metadata,
        entries: &entries,
    };
    assert_eq!(
        String::from_utf8(delivery.to_json()).unwrap(),
        r#"{"entries":[{"entryId":"1","event":{"data":{"n":1},"topic":"bk"},"metadata":{},"contentType":"application/cloudevents+json"},{"entryId":"2","event":"YWJj","metadata":null,"contentType":"application/octet-stream"}],"id":"uuid","metadata":{"pubsubName":"ps"},"pubsubname":"ps","topic":"bk","type":"com.dapr.event.sent.bulk"}"#
    );
}

proptest! {
    #[test]
    fn whatever_is_published_can_be_delivered(data: Vec<u8>, content_type in "[a-z/+;]{0,20}|application/(json|octet-stream|x-protobuf)") {
        let event = published(&data, &content_type, &BTreeMap::new());
        let read = Event::parse(&event.to_json());
        prop_assert!(read.is_ok());
        let read = read.unwrap();
        prop_assert_eq!(read.source(), "app");
        prop_assert!(read.data_bytes().is_ok());
        prop_assert!(matches!(read.into_value(), Value::Object(_)));
    }
}
