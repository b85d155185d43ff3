//! Several events at once: what bulk publishers send and bulk subscribers get.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outrigger_gojson::{Numbers, Value, to_vec, write_string, write_to};
use thiserror::Error;

use crate::{BULK_TYPE, Event, content_type, go_base64};

/// An entry's `event` is not what its content type says. The texts are Dapr's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EntryError {
    /// A text type without a text, or a content type that has no form in JSON.
    #[error("error: mismatch between contentType and event")]
    Mismatch,
    /// A binary type whose text is no base64.
    #[error("illegal base64 data at input byte {0}")]
    Base64(usize),
}

/// The bytes that an entry of an HTTP bulk publish stands for: `event` as its content type says. An absent event is
/// `null`.
///
/// # Errors
/// If they do not fit together.
pub fn entry_bytes(event: &Value, content_type: &str) -> Result<Vec<u8>, EntryError> {
    if content_type::is_binary(content_type, &[]) {
        let text = event.as_str().ok_or(EntryError::Mismatch)?;
        return go_base64::decode(text).map_err(EntryError::Base64);
    }
    if content_type::is_text(content_type) {
        return event
            .as_str()
            .map(|text| text.as_bytes().to_vec())
            .ok_or(EntryError::Mismatch);
    }
    if content_type::is_json(content_type) || content_type::is_cloud_event(content_type) {
        return Ok(to_vec(event, Numbers::Float64, true));
    }
    Err(EntryError::Mismatch)
}

/// An entry of a bulk delivery.
#[derive(Debug, Clone)]
pub struct DeliveredEntry<'a> {
    /// Names the entry in the app's answer.
    pub entry_id: &'a str,
    /// What is delivered.
    pub content: Content<'a>,
    /// The broker's metadata; `None` is told as `null`.
    pub metadata: Option<&'a BTreeMap<String, String>>,
    /// `None` stands for the content type of [`Content`].
    pub content_type: Option<&'a str>,
}

/// What an entry of a bulk delivery holds.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// An event.
    Event(&'a Event),
    /// The bytes of a raw subscription, told as base64.
    Raw(&'a [u8]),
}

/// The envelope of a bulk delivery.
#[derive(Debug, Clone)]
pub struct Delivery<'a> {
    /// A fresh UUID.
    pub id: &'a str,
    /// The topic, without namespace.
    pub topic: &'a str,
    /// Name of the pub/sub component.
    pub pubsub_name: &'a str,
    /// Metadata of the delivery as a whole.
    pub metadata: &'a BTreeMap<String, String>,
    /// What is delivered.
    pub entries: &'a [DeliveredEntry<'a>],
}

impl Delivery<'_> {
    /// The JSON that the app is sent, byte for byte as Dapr writes it.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = String::with_capacity(256 + 512 * self.entries.len());
        out.push_str("{\"entries\":[");
        for (index, entry) in self.entries.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            entry.write_json(&mut out);
        }
        out.push_str("],\"id\":");
        write_string(&mut out, self.id, true);
        out.push_str(",\"metadata\":");
        write_map(&mut out, Some(self.metadata));
        out.push_str(",\"pubsubname\":");
        write_string(&mut out, self.pubsub_name, true);
        out.push_str(",\"topic\":");
        write_string(&mut out, self.topic, true);
        out.push_str(",\"type\":");
        write_string(&mut out, BULK_TYPE, true);
        out.push('}');
        out.into_bytes()
    }
}

impl DeliveredEntry<'_> {
    fn write_json(&self, out: &mut String) {
        out.push_str("{\"entryId\":");
        write_string(out, self.entry_id, true);
        out.push_str(",\"event\":");
        let default_type = match self.content {
            Content::Event(event) => {
                event.write_json(out);
                content_type::CLOUD_EVENT
            }
            Content::Raw(data) => {
                write_string(out, &STANDARD.encode(data), true);
                content_type::OCTET_STREAM
            }
        };
        out.push_str(",\"metadata\":");
        write_map(out, self.metadata);
        out.push_str(",\"contentType\":");
        write_string(out, self.content_type.unwrap_or(default_type), true);
        out.push('}');
    }
}

fn write_map(out: &mut String, map: Option<&BTreeMap<String, String>>) {
    write_to(
        out,
        &map.map_or(Value::Null, Value::from),
        Numbers::Verbatim,
        true,
    );
}
