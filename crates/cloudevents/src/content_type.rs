//! The classes of content types that decide how an event carries its data.

/// `application/cloudevents+json`
pub const CLOUD_EVENT: &str = "application/cloudevents+json";
/// `application/json`
pub const JSON: &str = "application/json";
/// `application/octet-stream`
pub const OCTET_STREAM: &str = "application/octet-stream";
/// `text/plain`, the content type of data that came without one.
pub const TEXT: &str = "text/plain";

/// Whether two content types are equal but for case and parameters.
fn is(content_type: &str, expected: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or(content_type);
    essence.eq_ignore_ascii_case(expected)
}

/// A ready-made event: `application/cloudevents+json`.
pub fn is_cloud_event(content_type: &str) -> bool {
    is(content_type, CLOUD_EVENT)
}

/// JSON data: exactly `application/json`; types that end in `+json` are none.
pub fn is_json(content_type: &str) -> bool {
    is(content_type, JSON)
}

/// Text: `text/…` or `application/xml`.
pub fn is_text(content_type: &str) -> bool {
    let text = content_type
        .as_bytes()
        .get(..5)
        .is_some_and(|start| start.eq_ignore_ascii_case(b"text/"));
    text || is(content_type, "application/xml")
}

/// Bytes that travel as base64: `application/octet-stream`, `application/cloudevents+protobuf`, and
/// `application/x-protobuf` if the data can be read as a protobuf CloudEvent.
pub fn is_binary(content_type: &str, data: &[u8]) -> bool {
    is(content_type, OCTET_STREAM)
        || is(content_type, "application/cloudevents+protobuf")
        || (is(content_type, "application/x-protobuf") && is_protobuf_cloud_event(data))
}

/// Whether these bytes decode as the message `io.cloudevents.v1.CloudEvent`. Protobuf is generous: unknown
/// fields are skipped, so all that can be wrong is the framing, and text that is no UTF-8.
fn is_protobuf_cloud_event(data: &[u8]) -> bool {
    /// id, source, spec_version, type and text_data are texts.
    const TEXT_FIELDS: [u64; 5] = [1, 2, 3, 4, 7];
    fields(data, |number, bytes| {
        !TEXT_FIELDS.contains(&number) || std::str::from_utf8(bytes).is_ok()
    })
    .is_some()
}

/// Walks the fields of a message; `None` if it is malformed or a length-delimited field is refused.
fn fields(mut data: &[u8], accept: impl Fn(u64, &[u8]) -> bool) -> Option<()> {
    while !data.is_empty() {
        let key = varint(&mut data)?;
        let number = key >> 3;
        if number == 0 || number > 0x1fff_ffff {
            return None;
        }
        match key & 7 {
            0 => drop(varint(&mut data)?),
            1 => data = data.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut data)?).ok()?;
                let bytes = data.get(..length)?;
                data = data.get(length..)?;
                if !accept(number, bytes) {
                    return None;
                }
            }
            5 => data = data.get(4..)?,
            // Groups died with proto2.
            _ => return None,
        }
    }
    Some(())
}

fn varint(data: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let (byte, rest) = data.split_first()?;
        *data = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parameters_and_case_do_not_matter() {
        assert!(is_json("APPLICATION/JSON; charset=utf-8"));
        assert!(!is_json("application/vnd.x+json"));
        assert!(is_cloud_event("application/cloudevents+json;x=y"));
        assert!(is_text("Text/html; charset=utf-8"));
        assert!(is_text("application/xml"));
        assert!(!is_text("image/png"));
        assert!(is_binary("application/octet-stream", b""));
    }

    #[test]
    fn protobuf_is_binary_only_if_it_could_be_an_event() {
        assert!(is_binary("application/x-protobuf", b"\n\x01a"));
        assert!(is_binary("application/x-protobuf", b""));
        assert!(!is_binary("application/x-protobuf", b"hello"));
        assert!(!is_binary("application/x-protobuf", b"\n\x01\xff"));
        assert!(is_binary("application/x-protobuf", b"\x32\x01\xff"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(data: Vec<u8>) {
            let _ = is_protobuf_cloud_event(&data);
        }
    }
}
