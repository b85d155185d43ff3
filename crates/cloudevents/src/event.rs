//! An event: its attributes and its data.

use std::collections::BTreeMap;

use jiff::Timestamp;
use outrigger_gojson::{Numbers, Value, write_bytes_string, write_string, write_to};
use thiserror::Error;

use crate::{content_type, go_base64, time};

/// A CloudEvent as a JSON object. Read with [`Event::attribute`] and its kin, written with [`Event::to_json`].
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    members: BTreeMap<String, Value>,
    /// `data` given as text that is no UTF-8. The member `data` holds it with U+FFFD in place of each wrong byte;
    /// Go writes those as the escape `\ufffd`, unlike a U+FFFD that was sent.
    broken_text: Option<Vec<u8>>,
    numbers: Numbers,
}

/// The data of an event cannot be told to a gRPC app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("unexpected data type encountered in envelope")]
pub struct DataError;

impl Event {
    pub(crate) const fn new(members: BTreeMap<String, Value>, numbers: Numbers) -> Self {
        Self {
            members,
            broken_text: None,
            numbers,
        }
    }

    /// Puts text into `data`, whatever bytes it is made of.
    pub(crate) fn set_text(&mut self, text: &[u8]) {
        let value = match std::str::from_utf8(text) {
            Ok(text) => Value::from(text),
            Err(_) => {
                self.broken_text = Some(text.to_vec());
                Value::from(outrigger_gojson::lossy(text))
            }
        };
        self.members.insert("data".to_owned(), value);
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.members.insert(name.to_owned(), value.into());
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    /// Whether a member is absent or null.
    pub(crate) fn lacks(&self, name: &str) -> bool {
        self.members.get(name).is_none_or(Value::is_null)
    }

    /// The event as a JSON object: what routing rules look at.
    pub fn members(&self) -> &BTreeMap<String, Value> {
        &self.members
    }

    /// The event as a JSON value: what routing rules look at.
    pub fn into_value(self) -> Value {
        Value::Object(self.members)
    }

    /// The JSON of the event, byte for byte as Dapr writes it.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = String::with_capacity(512);
        self.write_json(&mut out);
        out.into_bytes()
    }

    pub(crate) fn write_json(&self, out: &mut String) {
        out.push('{');
        for (index, (name, value)) in self.members.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            write_string(out, name, true);
            out.push(':');
            match &self.broken_text {
                Some(text) if name == "data" => write_bytes_string(out, text, true),
                _ => write_to(out, value, self.numbers, true),
            }
        }
        out.push('}');
    }

    /// A text attribute; empty if it is absent or no text, as Dapr tells it to gRPC apps.
    pub fn attribute(&self, name: &str) -> &str {
        self.members.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// `id`
    pub fn id(&self) -> &str {
        self.attribute("id")
    }

    /// `source`
    pub fn source(&self) -> &str {
        self.attribute("source")
    }

    /// `type`
    pub fn event_type(&self) -> &str {
        self.attribute("type")
    }

    /// `specversion`
    pub fn spec_version(&self) -> &str {
        self.attribute("specversion")
    }

    /// `datacontenttype`
    pub fn data_content_type(&self) -> &str {
        self.attribute("datacontenttype")
    }

    /// The W3C traceparent the event carries: `traceparent`, else `traceid`, which holds one too.
    pub fn trace_parent(&self) -> Option<&str> {
        let carried = [self.attribute("traceparent"), self.attribute("traceid")];
        carried.into_iter().find(|text| !text.is_empty())
    }

    /// The W3C tracestate the event carries.
    pub fn trace_state(&self) -> Option<&str> {
        Some(self.attribute("tracestate")).filter(|text| !text.is_empty())
    }

    /// Takes over `traceid`, `traceparent` and `tracestate` from the broker's metadata where the event has none.
    pub fn complete_trace(&mut self, metadata: &BTreeMap<String, String>) {
        for name in ["traceid", "traceparent", "tracestate"] {
            if let Some(value) = metadata.get(name)
                && !self.has(name)
            {
                self.set(name, value.as_str());
            }
        }
    }

    /// Whether `expiration` is a time that has passed. What is no RFC 3339 time never expires.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        time::parse_rfc3339(self.attribute("expiration")).is_some_and(|expiration| expiration < now)
    }

    /// The data as a gRPC app gets it: `data_base64` decoded, else `data` as text or JSON, by content type. Data of
    /// any other content type does not reach a gRPC app.
    ///
    /// # Errors
    /// If the content type says text and the data is none.
    pub fn data_bytes(&self) -> Result<Vec<u8>, DataError> {
        match self.members.get("data_base64") {
            // What cannot be decoded arrives as nothing.
            Some(Value::String(text)) => Ok(go_base64::decode(text).unwrap_or_default()),
            None | Some(Value::Null) => self.plain_data_bytes(),
            Some(_) => Err(DataError),
        }
    }

    /// The data as a gRPC app gets it within a bulk delivery: like [`Event::data_bytes`], but `data_base64` does not
    /// count.
    ///
    /// # Errors
    /// If the content type says text and the data is none.
    pub fn plain_data_bytes(&self) -> Result<Vec<u8>, DataError> {
        let data = match self.members.get("data") {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(data) => data,
        };
        let content_type = self.data_content_type();
        if content_type::is_text(content_type) {
            return match (&self.broken_text, data.as_str()) {
                (Some(text), _) => Ok(text.clone()),
                (None, Some(text)) => Ok(text.as_bytes().to_vec()),
                (None, None) => Err(DataError),
            };
        }
        if content_type::is_json(content_type) || content_type::is_cloud_event(content_type) {
            return Ok(outrigger_gojson::to_vec(data, Numbers::Float64, true));
        }
        Ok(Vec::new())
    }

    /// What a gRPC app gets as extensions: every member but `id`, `source`, `type`, `specversion`, `datacontenttype`
    /// and the data.
    pub fn extensions(&self) -> impl Iterator<Item = (&str, &Value)> {
        const FIELDS: [&str; 7] = [
            "data",
            "data_base64",
            "datacontenttype",
            "id",
            "source",
            "specversion",
            "type",
        ];
        let members = self.members.iter().map(|(name, value)| (name.as_str(), value));
        members.filter(|(name, _)| !FIELDS.contains(name))
    }
}
