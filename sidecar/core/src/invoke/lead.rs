//! The leading messages of `CallLocalStream`, written from and read into headers directly.
//!
//! They are `InternalInvokeRequestStream` and `InternalInvokeResponseStream`, whose header maps the generated types
//! hold as hash maps of lists of strings: a dozen allocations and hashes per header, four times per call. Here a
//! header goes from [`HeaderMap`] to the wire and back with none; values stay slices of the received message. That
//! both forms agree with the generated ones is tested below.

use bytes::{Buf, BufMut, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_model::GrpcCode;
use outrigger_proto::common::v1 as common;
use outrigger_proto::internals::v1::Status;
use prost::Message;
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_varint, encoded_len_varint, skip_field,
};

use super::headers::{
    CALLEE_APP_ID, DESTINATION_APP_ID, append_wire_value, foreign_values, put_canonical, put_wire_key,
    wire_key_len, wire_value,
};
use super::{InvokeError, InvokeRequest, InvokeResponse, Origin, wire};

/// Headers that a request has, those of the sidecars included: as many as fit before the map grows.
const USUAL: usize = 12;

/// The tag of a length-delimited field (of field numbers up to 15).
const fn delimited(field: u8) -> u8 {
    field << 3 | 2
}

/// A received leading message of a request; the body follows it.
#[derive(Debug)]
pub struct RequestLead {
    /// `ver`
    pub version: i32,
    /// `metadata`, as headers.
    pub headers: HeaderMap,
    /// What they are.
    pub origin: Origin,
    /// `message`
    pub message: Option<common::InvokeRequest>,
    /// The first piece of the body and its number.
    pub payload: Option<(Bytes, u64)>,
}

/// A received leading message of an answer; the body follows it.
#[derive(Debug)]
pub struct ResponseLead {
    /// `status`
    pub status: Option<Status>,
    /// `headers`
    pub headers: HeaderMap,
    /// What they are.
    pub origin: Origin,
    /// `trailers`
    pub trailers: HeaderMap,
    /// `message`
    pub message: Option<common::InvokeResponse>,
    /// The first piece of the body and its number.
    pub payload: Option<(Bytes, u64)>,
}

/// The leading message of a request, without data.
pub fn encode_request(request: &InvokeRequest) -> Vec<u8> {
    let message = wire::request_message(request);
    let destination = request.headers.get_all(CALLEE_APP_ID).iter().next_back();
    let name = DESTINATION_APP_ID;
    let destination = Entry::new(&name, Origin::Grpc, destination);
    let version = [1 << 3, wire::VERSION];
    let length = version.len()
        + map_len(&request.headers, request.origin)
        + destination.field_len()
        + message_len(&message);
    let mut out = outer(length);
    out.extend_from_slice(&version);
    put_map(&mut out, 2, &request.headers, request.origin);
    destination.put(&mut out, 2);
    put_message(&mut out, 3, &message);
    out
}

/// The leading message of an answer, without data.
pub fn encode_response(response: &InvokeResponse) -> Vec<u8> {
    let (status, message) = wire::response_parts(response);
    let length = message_len(&status)
        + map_len(&response.headers, response.origin)
        + map_len(&response.trailers, Origin::Grpc)
        + message.as_ref().map_or(0, message_len);
    let mut out = outer(length);
    put_message(&mut out, 1, &status);
    put_map(&mut out, 2, &response.headers, response.origin);
    put_map(&mut out, 3, &response.trailers, Origin::Grpc);
    if let Some(message) = &message {
        put_message(&mut out, 4, message);
    }
    out
}

/// Field 1 of both stream messages with room for `length` bytes.
fn outer(length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + encoded_len_varint(length as u64) + length);
    out.put_u8(delimited(1));
    encode_varint(length as u64, &mut out);
    out
}

fn message_len(message: &impl Message) -> usize {
    let length = message.encoded_len();
    1 + encoded_len_varint(length as u64) + length
}

fn put_message(out: &mut Vec<u8>, field: u8, message: &impl Message) {
    out.put_u8(delimited(field));
    encode_varint(message.encoded_len() as u64, out);
    message.encode_raw(out);
}

/// One entry of a header map: a key and a `ListStringValue`.
struct Entry<'a, V> {
    name: &'a HeaderName,
    origin: Origin,
    values: V,
    /// The caller's values under one of our names.
    is_foreign: bool,
}

impl<'a, V> Entry<'a, V>
where
    V: IntoIterator<Item = &'a HeaderValue> + Clone,
{
    const fn new(name: &'a HeaderName, origin: Origin, values: V) -> Self {
        Self {
            name,
            origin,
            values,
            is_foreign: false,
        }
    }

    fn list_len(&self) -> usize {
        let values = self.values.clone().into_iter();
        values
            .map(|value| delimited_len(wire_value(self.name, value).len()))
            .sum()
    }

    fn entry_len(&self) -> usize {
        delimited_len(wire_key_len(self.name, self.origin)) + delimited_len(self.list_len())
    }

    fn field_len(&self) -> usize {
        delimited_len(self.entry_len())
    }

    fn put(&self, out: &mut Vec<u8>, field: u8) {
        put_len(out, field, self.entry_len());
        put_len(out, 1, wire_key_len(self.name, self.origin));
        if self.is_foreign {
            put_canonical(out, self.name);
        } else {
            put_wire_key(out, self.name, self.origin);
        }
        put_len(out, 2, self.list_len());
        for value in self.values.clone() {
            let value = wire_value(self.name, value);
            put_len(out, 1, value.len());
            out.extend_from_slice(value.as_bytes());
        }
    }
}

fn put_len(out: &mut Vec<u8>, field: u8, length: usize) {
    out.put_u8(delimited(field));
    encode_varint(length as u64, out);
}

/// A field of this many bytes, with tag and length.
const fn delimited_len(length: usize) -> usize {
    1 + encoded_len_varint(length as u64) + length
}

fn map_len(headers: &HeaderMap, origin: Origin) -> usize {
    entries(headers, origin).map(|entry| entry.field_len()).sum()
}

fn put_map(out: &mut Vec<u8>, field: u8, headers: &HeaderMap, origin: Origin) {
    for entry in entries(headers, origin) {
        entry.put(out, field);
    }
}

/// The headers by name, each with all its values.
fn entries(
    headers: &HeaderMap,
    origin: Origin,
) -> impl Iterator<Item = Entry<'_, impl Iterator<Item = &HeaderValue> + Clone>> {
    // Values of one name follow each other in a header map.
    let mut all = headers.iter().peekable();
    let values = |first, more| std::iter::once(first).chain(MoreValues(more, 0));
    let mut ours = None;
    std::iter::from_fn(move || {
        if ours.is_some() {
            return ours.take();
        }
        let (name, first) = all.next()?;
        let mut more = Vec::new();
        while let Some((_, value)) = all.next_if(|(next, _)| std::ptr::eq(*next, name)) {
            more.push(value);
        }
        let foreign = foreign_values(name, origin, more.len() + 1);
        if foreign == 0 {
            return Some(Entry::new(name, origin, values(first, more)));
        }
        let own = if foreign == more.len() + 1 {
            None
        } else {
            more.pop()
        };
        ours = own.map(|own| Entry::new(name, origin, values(own, Vec::new())));
        let mut entry = Entry::new(name, origin, values(first, more));
        entry.is_foreign = true;
        Some(entry)
    })
}

/// The values of a name after its first; an empty vector for nearly every header.
#[derive(Clone)]
struct MoreValues<'a>(Vec<&'a HeaderValue>, usize);

impl<'a> Iterator for MoreValues<'a> {
    type Item = &'a HeaderValue;

    fn next(&mut self) -> Option<Self::Item> {
        let value = self.0.get(self.1).copied();
        self.1 += 1;
        value
    }
}

impl RequestLead {
    /// Reads `InternalInvokeRequestStream`. Whether required fields are there is for the caller to see.
    ///
    /// # Errors
    /// Bytes that are no such message.
    pub fn decode(message: Bytes) -> Result<Self, InvokeError> {
        let (lead, payload) = stream_message(message)?;
        let mut read = Self {
            version: 0,
            headers: HeaderMap::with_capacity(USUAL),
            origin: Origin::Http,
            message: None,
            payload,
        };
        let mut lead = lead.unwrap_or_default();
        while lead.has_remaining() {
            match field(&mut lead)? {
                Field::Varint(1, number) => read.version = i32::try_from(number).unwrap_or(-1),
                Field::Bytes(2, entry) => map_entry(entry, &mut read.headers, Some(&mut read.origin))?,
                Field::Bytes(3, message) => read.message = Some(decode(message)?),
                _ => {}
            }
        }
        Ok(read)
    }
}

impl ResponseLead {
    /// Reads `InternalInvokeResponseStream`. Whether required fields are there is for the caller to see.
    ///
    /// # Errors
    /// Bytes that are no such message.
    pub fn decode(message: Bytes) -> Result<Self, InvokeError> {
        let (lead, payload) = stream_message(message)?;
        let mut read = Self {
            status: None,
            headers: HeaderMap::new(),
            origin: Origin::Http,
            trailers: HeaderMap::new(),
            message: None,
            payload,
        };
        let mut lead = lead.unwrap_or_default();
        while lead.has_remaining() {
            match field(&mut lead)? {
                Field::Bytes(1, status) => read.status = Some(decode(status)?),
                Field::Bytes(2, entry) => map_entry(entry, &mut read.headers, Some(&mut read.origin))?,
                Field::Bytes(3, entry) => map_entry(entry, &mut read.trailers, None)?,
                Field::Bytes(4, message) => read.message = Some(decode(message)?),
                _ => {}
            }
        }
        Ok(read)
    }
}

/// A field that was read; others than these two kinds are passed over.
enum Field {
    Varint(u32, u64),
    Bytes(u32, Bytes),
    Other,
}

fn malformed(error: impl std::fmt::Display) -> InvokeError {
    InvokeError::status(GrpcCode::Internal, error.to_string())
}

fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, InvokeError> {
    M::decode(bytes).map_err(malformed)
}

fn field(buffer: &mut Bytes) -> Result<Field, InvokeError> {
    let (number, kind) = decode_key(buffer).map_err(malformed)?;
    match kind {
        WireType::Varint => Ok(Field::Varint(number, decode_varint(buffer).map_err(malformed)?)),
        WireType::LengthDelimited => {
            let length = decode_varint(buffer).map_err(malformed)?;
            let length = usize::try_from(length)
                .ok()
                .filter(|length| *length <= buffer.len());
            let length =
                length.ok_or_else(|| malformed("failed to decode Protobuf message: buffer underflow"))?;
            Ok(Field::Bytes(number, buffer.split_to(length)))
        }
        kind => {
            skip_field(kind, number, buffer, DecodeContext::default()).map_err(malformed)?;
            Ok(Field::Other)
        }
    }
}

/// What a stream message holds: field 1, whose meaning depends on the direction, and the payload.
type StreamMessage = (Option<Bytes>, Option<(Bytes, u64)>);

fn stream_message(mut message: Bytes) -> Result<StreamMessage, InvokeError> {
    let (mut lead, mut payload) = (None, None);
    while message.has_remaining() {
        match field(&mut message)? {
            Field::Bytes(1, bytes) => lead = Some(bytes),
            Field::Bytes(2, mut bytes) => {
                let (mut data, mut seq) = (Bytes::new(), 0);
                while bytes.has_remaining() {
                    match field(&mut bytes)? {
                        Field::Bytes(1, found) => data = found,
                        Field::Varint(2, found) => seq = found,
                        _ => {}
                    }
                }
                payload = Some((data, seq));
            }
            _ => {}
        }
    }
    Ok((lead, payload))
}

/// Reads one entry of a header map; the origin is told by the one key that only gRPC writes in lower case.
fn map_entry(
    mut entry: Bytes,
    headers: &mut HeaderMap,
    origin: Option<&mut Origin>,
) -> Result<(), InvokeError> {
    let (mut key, mut list) = (Bytes::new(), Bytes::new());
    while entry.has_remaining() {
        match field(&mut entry)? {
            Field::Bytes(1, found) => key = found,
            Field::Bytes(2, found) => list = found,
            _ => {}
        }
    }
    let mut told = origin.filter(|_| &key[..] == b"content-type");
    while list.has_remaining() {
        let Field::Bytes(1, value) = field(&mut list)? else {
            continue;
        };
        if let Some(origin) = told.take()
            && value.starts_with(b"application/grpc")
        {
            *origin = Origin::Grpc;
        }
        append_wire_value(headers, &key, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use outrigger_proto::common::v1::StreamPayload;
    use outrigger_proto::internals::v1::{InternalInvokeRequestStream, InternalInvokeResponseStream};

    use super::*;
    use crate::Body;
    use crate::invoke::InvokeStatus;

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "application/json"),
            ("x-many", "one"),
            ("x-many", "two"),
            ("x-many", ""),
            ("dapr-callee-app-id", "first"),
            ("dapr-callee-app-id", "last"),
            ("forwarded", "for=1;by=2"),
            ("dapr-authority", "host:1"),
            ("dapr-caller-app-id", "caller"),
            ("destination-app-id", "evil"),
            ("x-raw-bin", "AQ"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let long = "v".repeat(300);
        headers.append("x-long", HeaderValue::from_str(&long).unwrap());
        headers.append("x-odd", HeaderValue::from_bytes(b"caf\xe9").unwrap());
        headers
    }

    fn request(origin: Origin) -> InvokeRequest {
        InvokeRequest {
            method: "a/method".into(),
            verb: Some(http::Method::PUT),
            has_extension: true,
            query: "a=b".into(),
            headers: headers(),
            origin,
            content_type: "application/json".into(),
            type_url: Some("type.example/T".into()),
            body: Body::Empty,
            content_length: None,
            trace: None,
        }
    }

    fn response(origin: Origin) -> InvokeResponse {
        InvokeResponse {
            status: InvokeStatus::http(418),
            headers: headers(),
            origin,
            trailers: headers(),
            content_type: "text/plain".into(),
            type_url: None,
            is_event_stream: false,
            body: Body::Empty,
        }
    }

    #[test]
    fn leading_messages_are_what_the_generated_types_would_have_written() {
        for origin in [Origin::Http, Origin::Grpc] {
            let request = request(origin);
            let decoded = InternalInvokeRequestStream::decode(&*encode_request(&request)).unwrap();
            assert_eq!(decoded.request, Some(wire::request(&request)));
            let response = response(origin);
            let decoded = InternalInvokeResponseStream::decode(&*encode_response(&response)).unwrap();
            assert_eq!(decoded.response, Some(wire::response(&response)));
        }
    }

    #[test]
    fn leading_messages_are_read_as_the_generated_types_are() {
        let mut sent = wire::request(&request(Origin::Grpc));
        sent.metadata.get_mut("content-type").unwrap().values = vec!["application/grpc".into()];
        let stream = InternalInvokeRequestStream {
            request: Some(sent.clone()),
            payload: Some(StreamPayload {
                data: Bytes::from_static(b"data"),
                seq: 7,
            }),
        };
        let read = RequestLead::decode(stream.encode_to_vec().into()).unwrap();
        assert_eq!((read.headers, read.origin), wire::headers(sent.metadata));
        assert_eq!(read.origin, Origin::Grpc);
        assert_eq!((read.version, read.message), (1, sent.message));
        assert_eq!(read.payload, Some((Bytes::from_static(b"data"), 7)));

        let sent = wire::response(&response(Origin::Http));
        let stream = InternalInvokeResponseStream {
            response: Some(sent.clone()),
            payload: None,
        };
        let read = ResponseLead::decode(stream.encode_to_vec().into()).unwrap();
        assert_eq!((read.headers, read.origin), wire::headers(sent.headers));
        assert_eq!(read.trailers, wire::headers(sent.trailers).0);
        assert_eq!(
            (read.status, read.message, read.payload),
            (sent.status, sent.message, None)
        );
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = RequestLead::decode(bytes.clone().into());
            let _ = ResponseLead::decode(bytes.into());
        }

        #[test]
        fn a_cut_message_is_an_error_or_a_shorter_message_but_never_a_panic(cut in 0_usize..600) {
            let mut bytes = encode_request(&request(Origin::Http));
            bytes.truncate(cut);
            let _ = RequestLead::decode(bytes.into());
        }
    }
}
