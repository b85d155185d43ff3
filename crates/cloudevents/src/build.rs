//! Publishing: from data to event.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, ZonedDateTime};
use outrigger_gojson::{Numbers, Value, parse_first};
use thiserror::Error;

use crate::event::Event;
use crate::{DEFAULT_SOURCE, DEFAULT_TYPE, SPEC_VERSION, content_type, time};

/// What an event is built from.
#[derive(Debug, Clone)]
pub struct EventInput<'a> {
    /// A fresh UUID; the event's `id` unless the publisher names another.
    pub id: &'a str,
    /// The publisher's app id: `source` unless named otherwise.
    pub app_id: &'a str,
    /// The topic as the publisher names it, without namespace.
    pub topic: &'a str,
    /// Name of the pub/sub component.
    pub pubsub_name: &'a str,
    /// The published bytes.
    pub data: &'a [u8],
    /// Their content type; empty counts as `text/plain`.
    pub data_content_type: &'a str,
    /// W3C traceparent of the current span, or empty.
    pub trace_parent: &'a str,
    /// W3C tracestate of the current span, or empty.
    pub trace_state: &'a str,
    /// The request's metadata, for its `cloudevent.…` entries.
    pub metadata: &'a BTreeMap<String, String>,
    /// How long the event lives, if the request says so and the broker cannot see to it: sets `expiration`.
    pub ttl: Option<Duration>,
    /// The current time, in the zone that `time` is to be told in.
    pub now: &'a ZonedDateTime,
}

/// The publisher's data is said to be a CloudEvent, but is no JSON object. The text is Dapr's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("cannot create cloudevent")]
pub struct BuildError;

/// The event to publish.
///
/// # Errors
/// If the content type is that of CloudEvents and the data is no JSON object.
pub fn build(input: &EventInput<'_>) -> Result<Event, BuildError> {
    if content_type::is_cloud_event(input.data_content_type) {
        return complete(input).map(|event| address(event, input));
    }
    Ok(wrap(input))
}

/// As [`build()`] for data that is never an event itself.
pub fn wrap(input: &EventInput<'_>) -> Event {
    address(envelope(input), input)
}

fn address(mut event: Event, input: &EventInput<'_>) -> Event {
    event.set("topic", input.topic);
    event.set("pubsubname", input.pubsub_name);
    if let Some(expiration) = input.ttl.and_then(|ttl| expiration(input.now, ttl)) {
        event.set("expiration", expiration);
    }
    event
}

fn expiration(now: &ZonedDateTime, ttl: Duration) -> Option<String> {
    let ttl = SignedDuration::try_from(ttl).ok()?;
    let end = now.timestamp().saturating_add(ttl).ok()?;
    Some(time::format_utc(end))
}

/// The publisher's own event with what it lacks. Overrides do not apply to it.
fn complete(input: &EventInput<'_>) -> Result<Event, BuildError> {
    // Like Go's decoder: what follows the first value is ignored.
    let Ok((Value::Object(members), _)) = parse_first(input.data) else {
        return Err(BuildError);
    };
    let mut event = Event::new(members, Numbers::Verbatim);
    if !event.has("time") {
        event.set("time", time::format_local(input.now));
    }
    if !event.has("traceid") {
        // A traceparent without traceid is replaced, too.
        event.set("traceid", input.trace_parent);
        event.set("traceparent", input.trace_parent);
    }
    if !event.has("tracestate") {
        event.set("tracestate", input.trace_state);
    }
    for (name, default) in [
        ("source", DEFAULT_SOURCE),
        ("type", DEFAULT_TYPE),
        ("specversion", SPEC_VERSION),
    ] {
        if event.lacks(name) {
            event.set(name, default);
        }
    }
    Ok(event)
}

/// A new event around the data.
fn envelope(input: &EventInput<'_>) -> Event {
    let said = |name: &str, otherwise| override_of(input.metadata, name).unwrap_or(otherwise);
    let or = |text: &'_ str, default: &str| if text.is_empty() { default } else { text }.to_owned();
    let data_content_type = or(input.data_content_type, content_type::TEXT);

    let mut event = Event::new(BTreeMap::new(), Numbers::Verbatim);
    event.set("id", or(said("id", ""), input.id));
    event.set("source", or(said("source", input.app_id), DEFAULT_SOURCE));
    event.set("type", or(said("type", ""), DEFAULT_TYPE));
    event.set("specversion", SPEC_VERSION);
    event.set("time", time::format_local(input.now));
    let subject = said("subject", "");
    if !subject.is_empty() {
        event.set("subject", subject);
    }
    let trace_id = said("traceid", input.trace_parent);
    let trace_parent = Some(said("traceparent", ""))
        .filter(|text| !text.is_empty())
        .unwrap_or(trace_id);
    event.set("traceid", trace_parent);
    event.set("traceparent", trace_parent);
    event.set("tracestate", said("tracestate", input.trace_state));
    set_data(&mut event, &data_content_type, input.data);
    event.set("datacontenttype", data_content_type);
    event
}

fn set_data(event: &mut Event, data_content_type: &str, data: &[u8]) {
    if content_type::is_json(data_content_type) {
        match parse_first(data) {
            Ok((value, _)) => event.set("data", value),
            Err(_) => event.set_text(data),
        }
    } else if content_type::is_binary(data_content_type, data) {
        event.set("data_base64", STANDARD.encode(data));
    } else {
        event.set_text(data);
    }
}

/// The publisher's wish for an attribute: metadata `cloudevent.<name>`, in any case.
fn override_of<'a>(metadata: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    const PREFIX: &str = "cloudevent.";
    let is_named = |key: &str| {
        let start = key
            .get(..PREFIX.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(PREFIX));
        start && key[PREFIX.len()..].eq_ignore_ascii_case(name)
    };
    // Lower case sorts last and is the exact spelling.
    metadata
        .iter()
        .rev()
        .find(|(key, _)| is_named(key))
        .map(|(_, value)| value.as_str())
}
