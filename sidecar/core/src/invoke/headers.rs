//! Headers on their way between HTTP, gRPC and the internal wire (contract `service-invocation`, section 3).

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_trace_context::baggage::BAGGAGE;
use outrigger_trace_context::{GRPC_TRACE_BIN, TRACEPARENT, TRACESTATE};

use super::message::Origin;

/// Target of an internal call; never reaches the app.
pub const DESTINATION_APP_ID: HeaderName = HeaderName::from_static("destination-app-id");
/// Identity headers, set by sidecars only.
pub const CALLER_APP_ID: HeaderName = HeaderName::from_static("dapr-caller-app-id");
/// Namespace of the caller.
pub const CALLER_NAMESPACE: HeaderName = HeaderName::from_static("dapr-caller-namespace");
/// App id of the target.
pub const CALLEE_APP_ID: HeaderName = HeaderName::from_static("dapr-callee-app-id");
/// What gRPC's `:authority` is called among headers; it keeps its own name on the internal wire.
pub const AUTHORITY: HeaderName = HeaderName::from_static("dapr-authority");
/// Names the target in a request to the HTTP API.
pub const APP_ID: HeaderName = HeaderName::from_static("dapr-app-id");
/// Token of the API, and of the app.
pub const API_TOKEN: HeaderName = HeaderName::from_static("dapr-api-token");

/// Names that belong to one connection.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
            | "te"
            | "trailer"
            | "proxy-authorization"
            | "proxy-authenticate"
    )
}

/// Names that gRPC metadata gets with the prefix `dapr-` when they come from HTTP.
fn is_reserved_by_grpc(name: &str) -> bool {
    matches!(
        name,
        "accept"
            | "accept-charset"
            | "accept-language"
            | "accept-ranges"
            | "connection"
            | "keep-alive"
            | "proxy-connection"
            | "transfer-encoding"
            | "upgrade"
            | "cache-control"
            | "content-type"
            | "content-length"
            | "cookie"
            | "date"
            | "expect"
            | "from"
            | "host"
            | "if-match"
            | "if-modified-since"
            | "if-none-match"
            | "if-schedule-tag-match"
            | "if-unmodified-since"
            | "max-forwards"
            | "origin"
            | "pragma"
            | "referer"
            | "via"
            | "warning"
    )
}

fn is_trace(name: &str) -> bool {
    matches!(name, TRACEPARENT | TRACESTATE | GRPC_TRACE_BIN)
}

/// Whether a `Connection` header names this one.
fn named_by_connection(headers: &HeaderMap, name: &str) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case(name))
}

/// Removes what belongs to one connection: the usual names, and those that `Connection` names.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let dropped: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_hop_by_hop(name.as_str()) || named_by_connection(headers, name.as_str()))
        .cloned()
        .collect();
    for name in dropped {
        headers.remove(name);
    }
}

fn with_prefix(name: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(format!("dapr-{name}").as_bytes()).ok()
}

/// Names that describe one gRPC message exchange and not what it is about. Go's gRPC keeps these out of an
/// application's metadata in both directions; passed on, they would describe the next hop's messages wrongly.
const GRPC_TRANSPORT: [&str; 6] = [
    "te",
    "grpc-encoding",
    "grpc-message",
    "grpc-message-type",
    "grpc-status",
    "grpc-timeout",
];

/// The metadata of a gRPC peer as headers.
pub fn from_grpc(metadata: tonic::metadata::MetadataMap) -> HeaderMap {
    let mut headers = metadata.into_headers();
    for name in GRPC_TRANSPORT {
        headers.remove(name);
    }
    headers
}

/// Headers as an HTTP peer gets them: hop-by-hop, binary, length, content type, trace and internal ones are
/// dropped, the ones of gRPC renamed. Content type and trace are set by the caller from their own fields.
#[must_use]
pub fn to_http(mut headers: HeaderMap) -> HeaderMap {
    let has_connection = headers.contains_key(CONNECTION);
    let (mut dropped, mut renamed) = (Vec::new(), Vec::new());
    for name in headers.keys() {
        let text = name.as_str();
        let is_dropped = is_trace(text)
            || is_hop_by_hop(text)
            || name == CONTENT_TYPE
            || name == CONTENT_LENGTH
            || name == HOST
            || name == DESTINATION_APP_ID
            || text.ends_with("-bin")
            || has_connection && named_by_connection(&headers, text);
        if is_dropped {
            dropped.push(name.clone());
        } else if text.starts_with("grpc-") {
            renamed.push(name.clone());
        }
    }
    for name in &dropped {
        headers.remove(name);
    }
    for name in &renamed {
        let values: Vec<HeaderValue> = headers.get_all(name).iter().cloned().collect();
        headers.remove(name);
        if let Some(name) = with_prefix(name.as_str()) {
            for value in values {
                headers.append(name.clone(), value);
            }
        }
    }
    // Of several the first counts.
    if let Some(first) = headers.get(BAGGAGE).cloned() {
        headers.insert(BAGGAGE, first);
    }
    headers
}

/// Headers as a gRPC peer gets them in its metadata. `rename` is off for trailers.
pub fn to_grpc(headers: &HeaderMap, origin: Origin, rename: bool) -> HeaderMap {
    let mut out = HeaderMap::with_capacity(headers.len() + 4);
    for (name, value) in headers {
        let text = name.as_str();
        let is_authority = origin == Origin::Grpc && name == AUTHORITY;
        if is_trace(text) || name == DESTINATION_APP_ID || is_authority || GRPC_TRANSPORT.contains(&text) {
            continue;
        }
        // What a caller can decompress says nothing about us: an app that believes it sends what we cannot read.
        if text == "grpc-accept-encoding" {
            continue;
        }
        if rename && origin == Origin::Http && is_reserved_by_grpc(text) {
            if let Some(renamed) = with_prefix(text) {
                out.append(renamed, value.clone());
            }
            continue;
        }
        // The transport expects binary values as base64 text, which is what they are here, padded or not.
        if text.ends_with("-bin") && decode_binary(value).is_none() {
            continue;
        }
        out.append(name.clone(), value.clone());
    }
    out
}

/// The bytes of binary metadata.
fn decode_binary(value: &HeaderValue) -> Option<Vec<u8>> {
    let text = value.to_str().ok()?;
    STANDARD_NO_PAD.decode(text.trim_end_matches('=')).ok()
}

/// A value on the internal wire: binary metadata is base64 with padding there, without it on the transport.
/// Proto strings are UTF-8; anything else in a header is replaced, as Go does not send it at all.
pub fn wire_value<'a>(name: &HeaderName, value: &'a HeaderValue) -> Cow<'a, str> {
    if name.as_str().ends_with("-bin")
        && let Some(bytes) = decode_binary(value)
    {
        return STANDARD.encode(bytes).into();
    }
    // Plain text is looked at in whole words; the other function goes byte by byte.
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => text.into(),
        Err(_) => String::from_utf8_lossy(value.as_bytes()),
    }
}

/// The key on the internal wire: HTTP names in Go's canonical case, gRPC names and the identity headers in
/// lower case, forwarding headers canonical whatever the origin.
pub fn wire_key(name: &HeaderName, origin: Origin) -> String {
    let mut out = Vec::with_capacity(name.as_str().len());
    put_wire_key(&mut out, name, origin);
    // Header names are ASCII.
    String::from_utf8(out).unwrap_or_default()
}

/// How many of the values under an identity name are the HTTP caller's own and not ours: ours stands last. Upstream
/// keeps the two apart by their spelling, and so do we, that nobody takes the caller's word for ours.
pub(super) fn foreign_values(name: &HeaderName, origin: Origin, count: usize) -> usize {
    if origin == Origin::Grpc {
        0
    } else if *name == DESTINATION_APP_ID {
        count
    } else if *name == CALLER_APP_ID || *name == CALLER_NAMESPACE || *name == CALLEE_APP_ID {
        count.saturating_sub(1)
    } else {
        0
    }
}

/// [`canonical`], appended to a buffer.
pub(super) fn put_canonical(out: &mut Vec<u8>, name: &HeaderName) {
    let start = out.len();
    out.extend_from_slice(name.as_str().as_bytes());
    make_canonical(&mut out[start..]);
}

/// As [`wire_key`], appended to a buffer.
pub(super) fn put_wire_key(out: &mut Vec<u8>, name: &HeaderName, origin: Origin) {
    let start = out.len();
    out.extend_from_slice(lower_wire_key(name, origin).as_bytes());
    if !is_lower_on_wire(name, origin) {
        make_canonical(&mut out[start..]);
    }
}

/// The length of [`wire_key`].
pub(super) fn wire_key_len(name: &HeaderName, origin: Origin) -> usize {
    lower_wire_key(name, origin).len()
}

fn lower_wire_key(name: &HeaderName, origin: Origin) -> &str {
    if origin == Origin::Grpc && *name == AUTHORITY {
        ":authority"
    } else {
        name.as_str()
    }
}

fn is_lower_on_wire(name: &HeaderName, origin: Origin) -> bool {
    let canonical_always = || {
        matches!(
            name.as_str(),
            "x-forwarded-for" | "x-forwarded-host" | "forwarded"
        )
    };
    *name == DESTINATION_APP_ID
        || *name == CALLER_APP_ID
        || *name == CALLER_NAMESPACE
        || *name == CALLEE_APP_ID
        || origin == Origin::Grpc && !canonical_always()
}

/// Go's `textproto.CanonicalMIMEHeaderKey`: each word starts with a capital, the rest is small.
pub fn canonical(name: &str) -> String {
    let mut out = name.as_bytes().to_vec();
    make_canonical(&mut out);
    // Only ASCII letters changed their case.
    String::from_utf8(out).unwrap_or_default()
}

fn make_canonical(name: &mut [u8]) {
    let mut start = true;
    for byte in name {
        if start {
            byte.make_ascii_uppercase();
        } else {
            byte.make_ascii_lowercase();
        }
        start = *byte == b'-';
    }
}

/// Reads one header list off the internal wire. Keys or values that are no headers are left out;
/// `:authority` and its kind cannot be header names and become `dapr-authority`.
pub fn append_wire(headers: &mut HeaderMap, key: &str, values: impl IntoIterator<Item = String>) {
    for value in values {
        append_wire_value(headers, key.as_bytes(), value.into());
    }
}

/// As [`append_wire`] with one value, of which the header keeps a slice.
pub(super) fn append_wire_value(headers: &mut HeaderMap, key: &[u8], value: Bytes) {
    let name = match key.strip_prefix(b":") {
        Some(pseudo) => std::str::from_utf8(pseudo).ok().and_then(with_prefix),
        None => HeaderName::from_bytes(key).ok(),
    };
    if let (Some(name), Ok(value)) = (name, HeaderValue::from_maybe_shared(value)) {
        headers.append(name, value);
    }
}

/// What a sidecar adds for the target of a call.
pub struct Stamp<'a> {
    /// The calling app.
    pub caller: &'a HeaderValue,
    /// Its namespace.
    pub namespace: &'a HeaderValue,
    /// The target app.
    pub callee: &'a HeaderValue,
}

impl Stamp<'_> {
    /// Replaces whatever the caller sent: how a call to the own app is marked.
    pub fn replace(&self, headers: &mut HeaderMap) {
        headers.insert(CALLER_APP_ID, self.caller.clone());
        headers.insert(CALLER_NAMESPACE, self.namespace.clone());
        headers.insert(CALLEE_APP_ID, self.callee.clone());
    }

    /// Adds to whatever the caller sent: how a remote call is marked.
    pub fn append(&self, headers: &mut HeaderMap) {
        headers.append(CALLER_APP_ID, self.caller.clone());
        headers.append(CALLER_NAMESPACE, self.namespace.clone());
        headers.append(CALLEE_APP_ID, self.callee.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn http_peers_get_no_hop_by_hop_headers() {
        let headers = map(&[
            ("connection", "x-named, close"),
            ("x-named", "1"),
            ("te", "trailers"),
            ("content-type", "a/b"),
            ("destination-app-id", "x"),
            ("x-b-bin", "AQ=="),
            ("grpc-timeout", "1S"),
            ("x-a", "1"),
            ("x-a", "2"),
        ]);
        let out = to_http(headers);
        assert_eq!(
            out,
            map(&[("dapr-grpc-timeout", "1S"), ("x-a", "1"), ("x-a", "2")])
        );
    }

    #[test]
    fn grpc_peers_get_reserved_http_names_renamed() {
        let headers = map(&[
            ("content-type", "a/b"),
            ("x-a", "1"),
            ("x-b-bin", "AQID"),
            ("x-c-bin", "%%"),
            ("grpc-encoding", "gzip"),
            ("grpc-accept-encoding", "gzip"),
            ("grpc-timeout", "1S"),
        ]);
        assert_eq!(
            to_grpc(&headers, Origin::Http, true),
            map(&[("dapr-content-type", "a/b"), ("x-a", "1"), ("x-b-bin", "AQID")])
        );
        assert!(to_grpc(&headers, Origin::Grpc, true).contains_key("content-type"));
    }

    #[test]
    fn what_describes_the_last_hops_messages_stays_there() {
        let metadata = map(&[
            ("grpc-encoding", "gzip"),
            ("grpc-accept-encoding", "gzip"),
            ("x-a", "1"),
        ]);
        let headers = from_grpc(tonic::metadata::MetadataMap::from_headers(metadata));
        assert_eq!(headers, map(&[("grpc-accept-encoding", "gzip"), ("x-a", "1")]));
    }

    #[test]
    fn binary_values_are_padded_on_the_internal_wire() {
        let name = HeaderName::from_static("x-b-bin");
        for sent in ["AQ", "AQ=="] {
            assert_eq!(wire_value(&name, &HeaderValue::from_static(sent)), "AQ==");
        }
        let plain = HeaderName::from_static("x-b");
        assert_eq!(wire_value(&plain, &HeaderValue::from_static("AQ")), "AQ");
    }

    #[test]
    fn wire_keys_are_canonical_for_http_only() {
        let name = HeaderName::from_static("x-forwarded-for");
        assert_eq!(wire_key(&name, Origin::Grpc), "X-Forwarded-For");
        assert_eq!(wire_key(&CONTENT_TYPE, Origin::Http), "Content-Type");
        assert_eq!(wire_key(&CONTENT_TYPE, Origin::Grpc), "content-type");
        assert_eq!(wire_key(&CALLER_APP_ID, Origin::Http), "dapr-caller-app-id");
        assert_eq!(wire_key(&AUTHORITY, Origin::Grpc), ":authority");
        assert_eq!(wire_key(&AUTHORITY, Origin::Http), "Dapr-Authority");
    }
}
