//! gRPC on the wire: message frames, metadata, statuses. Written by hand because the vectors tell headers from
//! trailers, and errors with headers from those without, which libraries hide.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

/// Names of the codes, by number.
pub const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The prefix by which the vectors mark bytes in metadata and in answers.
pub const BYTES: &str = "base64:";

/// Metadata of the transport, which the vectors leave out: it depends on the library of the peer.
const TRANSPORT: [&str; 7] = [
    "content-type",
    "user-agent",
    "te",
    "date",
    "content-length",
    "dapr-user-agent",
    "dapr-grpc-accept-encoding",
];

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Name of the code.
    pub code: String,
    /// Text.
    pub message: String,
    /// `grpc-status-details-bin`, if there was one.
    pub details: Option<Vec<u8>>,
}

impl Status {
    /// A status without details.
    #[must_use]
    pub fn new(code: &str, message: &str) -> Self {
        Self {
            code: code.to_owned(),
            message: message.to_owned(),
            details: None,
        }
    }

    /// The status in trailers, or `None` if they hold none.
    #[must_use]
    pub fn from_trailers(trailers: &HeaderMap) -> Option<Self> {
        let code = trailers.get("grpc-status")?.to_str().ok()?;
        let name = code.parse::<usize>().ok().and_then(|n| CODES.get(n));
        let message = trailers.get("grpc-message").map(HeaderValue::as_bytes);
        let details = trailers.get("grpc-status-details-bin");
        Some(Self {
            code: name.map_or_else(|| format!("code {code}"), |n| (*n).to_owned()),
            message: percent_decode(message.unwrap_or_default()),
            details: details.and_then(|d| d.to_str().ok()).and_then(unbase64),
        })
    }

    /// Puts it into trailers.
    ///
    /// # Panics
    /// If there is no code of that name.
    pub fn put(&self, trailers: &mut HeaderMap) {
        let number = code_number(&self.code).expect("vectors name codes there are");
        trailers.insert("grpc-status", HeaderValue::from(number));
        if !self.message.is_empty() {
            let message = HeaderValue::from_str(&percent_encode(&self.message));
            trailers.insert("grpc-message", message.expect("percent-encoded text is ASCII"));
        }
        if let Some(details) = &self.details {
            let value = HeaderValue::from_str(&STANDARD_NO_PAD.encode(details));
            trailers.insert("grpc-status-details-bin", value.expect("base64 is ASCII"));
        }
    }
}

/// The number of a code.
#[must_use]
pub fn code_number(name: &str) -> Option<i32> {
    CODES
        .iter()
        .position(|c| *c == name)
        .and_then(|n| i32::try_from(n).ok())
}

/// Headers from metadata as the vectors write it: a text, or a list of them for a repeated name; bytes after
/// `base64:`.
///
/// # Panics
/// If a vector's metadata cannot be sent.
#[must_use]
pub fn headers(metadata: &Map<String, Value>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in metadata {
        let name = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()).expect("a metadata name");
        let values = value
            .as_array()
            .map_or_else(|| vec![value], |v| v.iter().collect());
        for value in values.into_iter().filter_map(Value::as_str) {
            let value = match value.strip_prefix(BYTES) {
                Some(encoded) => {
                    STANDARD_NO_PAD.encode(unbase64(encoded).expect("a vector's base64 is right"))
                }
                None => value.to_owned(),
            };
            headers.append(
                name.clone(),
                HeaderValue::from_bytes(value.as_bytes()).expect("metadata is sendable"),
            );
        }
    }
    headers
}

/// Headers as the vectors write metadata, without what belongs to the transport.
#[must_use]
pub fn metadata(headers: &HeaderMap) -> Map<String, Value> {
    let mut out = Map::new();
    for name in headers.keys() {
        let name_text = name.as_str();
        if TRANSPORT.contains(&name_text) || name_text.starts_with("grpc-") {
            continue;
        }
        let mut values: Vec<Value> = Vec::new();
        for value in headers.get_all(name) {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            if name_text.ends_with("-bin") {
                let parts = text.split(',').map(|part| unbase64(part.trim()));
                values.extend(
                    parts.map(|bytes| json!(format!("{BYTES}{}", base64(&bytes.unwrap_or_default())))),
                );
            } else {
                values.push(text.into());
            }
        }
        let value = if values.len() == 1 {
            values.remove(0)
        } else {
            Value::Array(values)
        };
        out.insert(name_text.to_owned(), value);
    }
    out
}

/// A message with its prefix.
///
/// # Panics
/// If the message is longer than 4 GB.
#[must_use]
pub fn frame(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(message.len() + 5);
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).expect("messages of vectors are small"));
    out.put_slice(message);
    out.freeze()
}

/// Finds the messages in a body.
#[derive(Debug, Default)]
pub struct Deframer {
    buffer: BytesMut,
}

impl Deframer {
    /// Takes the next piece of the body.
    pub fn push(&mut self, piece: &[u8]) {
        self.buffer.put_slice(piece);
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// If it is compressed, which nobody asked for.
    pub fn next_message(&mut self) -> Result<Option<Bytes>, String> {
        if self.buffer.len() < 5 {
            return Ok(None);
        }
        if self.buffer[0] != 0 {
            return Err("a compressed message, which was not asked for".to_owned());
        }
        let length =
            u32::from_be_bytes([self.buffer[1], self.buffer[2], self.buffer[3], self.buffer[4]]) as usize;
        if self.buffer.len() < 5 + length {
            return Ok(None);
        }
        self.buffer.advance(5);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

/// Base64 with padding.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Base64 with or without padding; `None` if it is none.
#[must_use]
pub fn unbase64(text: &str) -> Option<Vec<u8>> {
    STANDARD_NO_PAD.decode(text.trim_end_matches('=')).ok()
}

/// gRPC's encoding of a status text.
fn percent_encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn percent_decode(text: &[u8]) -> String {
    let mut out = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let digits = (text[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        let byte = digits.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok());
        out.push(byte.unwrap_or(text[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_survives_its_trailers() {
        let status = Status {
            code: "NOT_FOUND".into(),
            message: "50% żółw\n".into(),
            details: Some(vec![1, 2]),
        };
        let mut trailers = HeaderMap::new();
        status.put(&mut trailers);
        assert_eq!(trailers["grpc-status"], "5");
        assert_eq!(trailers["grpc-message"], "50%25 %C5%BC%C3%B3%C5%82w%0A");
        assert_eq!(Status::from_trailers(&trailers), Some(status));
        assert_eq!(Status::from_trailers(&HeaderMap::new()), None);
        assert_eq!(
            percent_decode(b"100% %zz %4"),
            "100% %zz %4",
            "what is no escape stays"
        );
    }

    #[test]
    fn metadata_keeps_repetitions_and_bytes_and_drops_the_transport() {
        let written = json!({"x-a": ["1", "2"], "x-b": "v", "x-c-bin": "base64:AQI="});
        let mut sent = headers(written.as_object().unwrap());
        assert_eq!(sent["x-c-bin"], "AQI");
        sent.insert("grpc-timeout", HeaderValue::from_static("1S"));
        sent.insert("content-type", HeaderValue::from_static("application/grpc"));
        assert_eq!(Value::Object(metadata(&sent)), written);
    }

    #[test]
    fn messages_are_found_however_the_body_is_cut() {
        let mut body = frame(b"one").to_vec();
        body.extend_from_slice(&frame(b""));
        body.extend_from_slice(&frame(&[7; 300]));
        for piece in [1, 4, 5, 7, 1000] {
            let mut deframer = Deframer::default();
            let mut found = Vec::new();
            for bytes in body.chunks(piece) {
                deframer.push(bytes);
                while let Some(message) = deframer.next_message().unwrap() {
                    found.push(message);
                }
            }
            assert_eq!(
                found,
                [
                    Bytes::from_static(b"one"),
                    Bytes::new(),
                    Bytes::from_static(&[7; 300])
                ]
            );
        }
        let mut deframer = Deframer::default();
        deframer.push(&[1, 0, 0, 0, 0]);
        assert!(deframer.next_message().is_err());
    }
}
