//! What apps, brokers and callers send: events, rules, times, JSON, headers.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use jiff::{Timestamp, tz::TimeZone};
use outrigger_cloudevents::bulk::entry_bytes;
use outrigger_cloudevents::{BinaryInput, Event, EventInput, RawInput, build, parse_rfc3339};
use outrigger_components_api::metadata::request;
use outrigger_model::{GoDuration, Quantity};
use outrigger_rules::Rule;
use outrigger_schedule::{DurationParts, JobSpec, JobTimes, Schedule};
use outrigger_trace_context::TraceContext;
use outrigger_trace_context::baggage::{self, BaggageError};

use crate::texts;

/// A moment that does not depend on the machine.
fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).expect("a moment of our time")
}

/// An event from an app or a broker: content type, a pair of metadata, the rest is the message. What is an event stays one
/// when it is written and read again.
pub(crate) fn cloud_event(input: &[u8]) {
    let mut parts = input.splitn(4, |byte| *byte == 0);
    let mut text = || {
        let bytes = parts.next().unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    };
    let (content_type, name, value) = (text(), text(), text());
    let data = parts.next().unwrap_or(input);
    let metadata = BTreeMap::from([(name, value)]);
    if let Ok(event) = Event::parse(data) {
        use_event(event, &metadata);
    }
    let zoned = now().to_zoned_datetime(TimeZone::UTC);
    let input = EventInput {
        id: "id",
        app_id: "app",
        topic: "topic",
        pubsub_name: "pubsub",
        data,
        data_content_type: &content_type,
        trace_parent: "",
        trace_state: "",
        metadata: &metadata,
        ttl: Some(Duration::from_secs(u64::MAX)),
        now: &zoned,
    };
    if let Ok(event) = build(&input) {
        use_event(event, &metadata);
    }
    let raw = RawInput {
        id: "id",
        topic: "topic",
        pubsub_name: "pubsub",
        data,
        metadata: &metadata,
    };
    let wrapped = Event::wrap_raw(&raw);
    assert_eq!(
        wrapped.data_bytes().ok().as_deref(),
        Some(data),
        "raw bytes come through"
    );
    use_event(wrapped, &metadata);
    let binary = BinaryInput {
        data,
        content_type: &content_type,
        metadata: &metadata,
    };
    use_event(Event::from_binary(&binary), &metadata);
    if let Ok(value) = outrigger_gojson::parse(data) {
        let _ = entry_bytes(&value, &content_type);
    }
}

fn use_event(mut event: Event, metadata: &BTreeMap<String, String>) {
    event.complete_trace(metadata);
    let _ = (
        event.is_expired(now()),
        event.data_bytes(),
        event.plain_data_bytes(),
    );
    let _ = (event.id(), event.source(), event.extensions().count());
    let read = |text: &[u8]| match Event::parse(text) {
        Ok(event) => Some(event.to_json()),
        // Publishing keeps numbers as they are written, receiving wants them within float64, as in Go.
        Err(error) if error.to_string().contains("cannot unmarshal number") => None,
        Err(error) => panic!(
            "what was written is an event: {error}: {}",
            String::from_utf8_lossy(text)
        ),
    };
    // Bytes that are no text are written as an escape first, and as a character from then on.
    if let Some(written) = read(&event.to_json()) {
        assert_eq!(read(&written).as_deref(), Some(&*written), "and the same one");
    }
}

/// Durations and sizes as metadata has them.
pub(crate) fn duration(input: &[u8]) {
    let Some([text]) = texts(input) else { return };
    let read = GoDuration::parse(text);
    if let Ok(duration) = &read {
        let again = GoDuration::parse(&duration.to_string());
        assert_eq!(
            again.as_ref(),
            Ok(duration),
            "{text:?} is written as {duration}, which is another"
        );
    }
    let _ = Quantity::parse(text);
    let _ = parse_rfc3339(text);
    for name in ["ttl", "ttlInSeconds", "TTLINSECONDS", "rawPayload"] {
        let metadata = BTreeMap::from([(name.to_owned(), text.to_owned())]);
        let ttl = request::ttl(&metadata);
        let _ = request::raw_payload(&metadata);
        if name == "ttl"
            && let Ok(duration) = &read
            && !text.is_empty()
        {
            assert_eq!(ttl, Ok(Some(duration.to_std().unwrap_or_default())));
        }
    }
}

/// A routing rule, and the event it is asked about.
pub(crate) fn routing_rule(input: &[u8]) {
    let Some([rule, event]) = texts(input) else { return };
    let Ok(rule) = Rule::compile(rule) else { return };
    if let Ok(event) = Event::parse(event.as_bytes()) {
        let first = rule.matches_event(&event);
        assert_eq!(first.is_ok(), rule.matches_event(&event).is_ok());
    }
    if let Ok(value) = outrigger_gojson::parse(event.as_bytes()) {
        let _ = rule.matches(&value);
    }
}

/// A job: schedule, due time, time to live, repetitions. Its ticks only go forward.
pub(crate) fn schedule(input: &[u8]) {
    let Some([schedule, due, ttl, repeats]) = texts(input) else {
        return;
    };
    let now = now();
    if let Ok(schedule) = Schedule::parse(schedule) {
        let mut last = now;
        for _ in 0..4 {
            let Some(next) = schedule.next(last) else { break };
            assert!(next >= last, "{schedule:?}: {next} after {last}");
            last = next;
        }
        let _ = schedule.check(now);
    }
    let _ = DurationParts::parse(schedule).map(|parts| parts.after(now));
    let _ = DurationParts::parse_iso8601(schedule).map(|parts| parts.after(now));
    let some = |text| Some(text).filter(|text: &&str| !text.is_empty());
    let spec = JobSpec {
        schedule: some(schedule),
        due_time: some(due),
        ttl: some(ttl),
        repeats: repeats.parse().ok(),
    };
    let Ok(times) = JobTimes::new(spec, now) else {
        return;
    };
    let mut last = None;
    for count in 0..4 {
        let Some(next) = times.next(count, last) else {
            break;
        };
        assert!(
            last.is_none_or(|last| next >= last),
            "{times:?}: {next} after {last:?}"
        );
        last = Some(next);
    }
}

/// JSON: what is read is written, and read again as the same.
pub(crate) fn json(input: &[u8]) {
    let _ = outrigger_gojson::parse_first(input);
    let _ = outrigger_gojson::lossy(input);
    if let Ok(value) = outrigger_gojson::parse(input) {
        let text = outrigger_gojson::to_vec(&value, outrigger_gojson::Numbers::Verbatim, false);
        let again = outrigger_gojson::parse(&text).expect("what was written is JSON");
        assert_eq!(again, value);
    }
}

/// Trace context and baggage, from headers and from gRPC's binary form.
pub(crate) fn trace_context(input: &[u8]) {
    if let Some(context) = TraceContext::from_binary(input) {
        assert_eq!(
            TraceContext::from_binary(&context.to_binary()).map(|again| again.to_binary()),
            Some(context.to_binary())
        );
    }
    let Some([parent, state, bag]) = texts(input) else {
        return;
    };
    let _ = TraceContext::parse(parent);
    if let Ok(text) = baggage::rewrite(bag) {
        // Encoding makes it longer, if need be than is allowed; nothing else may be wrong with it.
        let checked = baggage::check_text(&text);
        let has_grown = text.len() > bag.len()
            && matches!(
                checked,
                Err(BaggageError::TooLarge(_) | BaggageError::MemberTooLarge(_))
            );
        assert!(checked.is_ok() || has_grown, "{checked:?}");
    }
    let mut headers = HeaderMap::new();
    for (name, text) in [("traceparent", parent), ("tracestate", state), ("baggage", bag)] {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.append(name, value);
        }
    }
    if let Some(context) = TraceContext::from_headers(&headers) {
        let mut out = HeaderMap::new();
        context.child().write_request_headers(&mut out);
        assert!(TraceContext::from_headers(&out).is_some());
    }
    let _ = (baggage::joined(&headers), baggage::check(&headers));
}
