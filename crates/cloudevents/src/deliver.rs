//! Delivery: from a broker's message to the event a subscriber gets.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outrigger_gojson::{Numbers, Value};
use thiserror::Error;

use crate::event::Event;
use crate::{DEFAULT_SOURCE, DEFAULT_TYPE, SPEC_VERSION, content_type};

/// A message without envelope, for a subscription that asks for raw payload.
#[derive(Debug, Clone)]
pub struct RawInput<'a> {
    /// A fresh UUID.
    pub id: &'a str,
    /// The topic of the message, without namespace.
    pub topic: &'a str,
    /// Name of the pub/sub component.
    pub pubsub_name: &'a str,
    /// The message.
    pub data: &'a [u8],
    /// The broker's metadata, for the trace it carries.
    pub metadata: &'a BTreeMap<String, String>,
}

/// A message whose attributes are in the broker's metadata (CloudEvents' binary mode).
#[derive(Debug, Clone)]
pub struct BinaryInput<'a> {
    /// The message.
    pub data: &'a [u8],
    /// Its content type.
    pub content_type: &'a str,
    /// The broker's metadata; what begins with `ce_`, in any case, are attributes.
    pub metadata: &'a BTreeMap<String, String>,
}

/// A message is no event.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DeliveryError {
    /// It is no JSON, or a number in it is too large.
    #[error(transparent)]
    Json(#[from] outrigger_gojson::Error),
    /// It is JSON, but no object.
    #[error("json: cannot unmarshal {0} into Go value of type map[string]interface {{}}")]
    NotAnObject(&'static str),
}

impl Event {
    /// Reads a message that is an event. Its numbers count as doubles from here on; the app gets the message's own
    /// bytes.
    ///
    /// # Errors
    /// If it is no JSON object; the texts are Go's.
    pub fn parse(message: &[u8]) -> Result<Self, DeliveryError> {
        let value = outrigger_gojson::parse(message)?;
        let kind = value.kind();
        value.check_floats()?;
        match value {
            Value::Object(members) => Ok(Self::new(members, Numbers::Float64)),
            _ => Err(DeliveryError::NotAnObject(kind)),
        }
    }

    /// Wraps a message that is no event; the app gets the wrapped form. It has no `time`.
    pub fn wrap_raw(input: &RawInput<'_>) -> Self {
        let mut event = Self::new(BTreeMap::new(), Numbers::Verbatim);
        event.set("id", input.id);
        event.set("specversion", SPEC_VERSION);
        event.set("datacontenttype", content_type::OCTET_STREAM);
        event.set("source", DEFAULT_SOURCE);
        event.set("type", DEFAULT_TYPE);
        event.set("topic", input.topic);
        event.set("pubsubname", input.pubsub_name);
        event.set("data_base64", STANDARD.encode(input.data));
        for name in ["traceid", "tracestate"] {
            if let Some(value) = input.metadata.get(name) {
                event.set(name, value.as_str());
            }
        }
        if let Some(trace_parent) = input.metadata.get("traceparent") {
            event.set("traceid", trace_parent.as_str());
            event.set("traceparent", trace_parent.as_str());
        }
        event
    }

    /// Gathers an event from a message and its metadata; the app gets the message's own bytes.
    pub fn from_binary(input: &BinaryInput<'_>) -> Self {
        let mut event = Self::new(BTreeMap::new(), Numbers::Verbatim);
        for (key, value) in input.metadata {
            let prefix = key.get(..3).filter(|prefix| prefix.eq_ignore_ascii_case("ce_"));
            if prefix.is_some() {
                event.set(&key[3..], value.as_str());
            }
        }
        event.set_text(input.data);
        event.set("datacontenttype", input.content_type);
        event
    }
}
