//! Entries of a stream: field `data` is the payload, field `metadata` a JSON object of texts, if there is any.

use bytes::Bytes;
use outrigger_components_api::RequestMetadata;
use outrigger_components_api::pubsub::NewMessage;
use outrigger_gojson::{Numbers, Value};
use redis::streams::StreamId;
use tracing::warn;

/// Metadata as Go writes it.
pub(super) fn write_metadata(metadata: &RequestMetadata) -> Vec<u8> {
    let members = metadata
        .iter()
        .map(|(key, value)| (key.clone(), Value::String(value.clone())));
    outrigger_gojson::to_vec(&Value::Object(members.collect()), Numbers::Verbatim, true)
}

/// The message in an entry. What other programs wrote without our fields is a message without payload.
pub(super) fn message(stream: &str, entry: &StreamId) -> NewMessage {
    let field = |name: &str| match entry.map.get(name) {
        Some(redis::Value::BulkString(bytes)) => Some(bytes),
        _ => None,
    };
    let metadata = field("metadata").and_then(|json| {
        read_metadata(json).unwrap_or_else(|| {
            warn!(id = %entry.id, %stream, "metadata of a message is no JSON object of texts; left out");
            None
        })
    });
    NewMessage {
        topic: stream.to_owned(),
        data: field("data")
            .map(|data| Bytes::copy_from_slice(data))
            .unwrap_or_default(),
        metadata,
        content_type: None,
    }
}

/// `None` = unreadable; `null` is readable and says that there is none.
fn read_metadata(json: &[u8]) -> Option<Option<RequestMetadata>> {
    match outrigger_gojson::parse(json).ok()? {
        Value::Null => Some(None),
        Value::Object(members) => members
            .into_iter()
            .map(|(key, value)| match value {
                Value::String(text) => Some((key, text)),
                _ => None,
            })
            .collect::<Option<RequestMetadata>>()
            .map(Some),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(fields: &[(&str, &str)]) -> StreamId {
        StreamId {
            id: "1-1".into(),
            map: fields
                .iter()
                .map(|(key, value)| {
                    let value = redis::Value::BulkString(value.as_bytes().to_vec());
                    ((*key).to_owned(), value)
                })
                .collect(),
            ..Default::default()
        }
    }

    #[test]
    fn metadata_is_written_as_go_writes_it() {
        let metadata = [("b", "<1>"), ("a", "ü")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        assert_eq!(
            String::from_utf8(write_metadata(&metadata)).unwrap(),
            "{\"a\":\"ü\",\"b\":\"\\u003c1\\u003e\"}"
        );
        let json = write_metadata(&metadata);
        assert_eq!(read_metadata(&json), Some(Some(metadata)));
        assert_eq!(read_metadata(b"null"), Some(None));
    }

    #[test]
    fn foreign_entries_are_messages_too() {
        let message = message("t", &entry(&[("other", "x"), ("metadata", "{\"a\":1}")]));
        assert!(message.data.is_empty() && message.metadata().is_empty());
        assert_eq!(message.topic, "t");
    }
}
