//! W3C trace context and baggage: parse, derive, write (contract `observability`, section 4.2).
//!
//! No exporter and no runtime: a [`TraceContext`] is a plain value that travels with a request.

pub mod baggage;

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use rand::RngExt;

/// Header of the trace parent.
pub const TRACEPARENT: &str = "traceparent";
/// Header of the vendor state.
pub const TRACESTATE: &str = "tracestate";
/// gRPC metadata key of the binary form.
pub const GRPC_TRACE_BIN: &str = "grpc-trace-bin";

/// Longest vendor state that is passed on.
const MAX_STATE: usize = 512;

/// Flag bit of a sampled trace.
const SAMPLED: u8 = 1;

/// A span's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// 16 bytes; all zero only in [`TraceContext::none`].
    pub trace_id: [u8; 16],
    /// 8 bytes; all zero only in [`TraceContext::none`].
    pub span_id: [u8; 8],
    /// Bit 0: sampled.
    pub flags: u8,
    /// `tracestate`, verbatim; empty = none.
    pub state: Arc<str>,
}

/// What a caller says of its trace, right or wrong.
#[derive(Debug, Clone, Default)]
pub struct Incoming {
    parent: Option<HeaderValue>,
    state: Option<HeaderValue>,
}

impl Incoming {
    /// As these headers have it.
    pub fn of(headers: &HeaderMap) -> Self {
        Self {
            parent: headers.get(TRACEPARENT).cloned(),
            state: headers.get(TRACESTATE).cloned(),
        }
    }
}

impl TraceContext {
    /// A new trace, sampled with the given probability by its id.
    pub fn new_root(ratio: f64) -> Self {
        let mut random = rand::rng();
        let mut trace_id = [0; 16];
        random.fill(&mut trace_id[..]);
        trace_id[15] |= 1;
        let flags = u8::from(sampled(&trace_id, ratio));
        Self {
            trace_id,
            span_id: new_span_id(),
            flags,
            state: Arc::from(""),
        }
    }

    /// No trace at all. As in Dapr without a configured sampling rate its all-zero `traceparent` is written all the
    /// same; whoever reads it starts a trace of their own.
    pub fn none() -> Self {
        Self {
            trace_id: [0; 16],
            span_id: [0; 8],
            flags: 0,
            state: Arc::from(""),
        }
    }

    /// Whether there is a trace; see [`TraceContext::none`].
    pub fn is_some(&self) -> bool {
        self.trace_id != [0; 16]
    }

    /// A new span under this one.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            span_id: new_span_id(),
            ..self.clone()
        }
    }

    /// Whether the span is recorded.
    pub const fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// Parses `traceparent`: version up to 254, version 0 with exactly four parts, no all-zero ids.
    pub fn parse(traceparent: &str) -> Option<Self> {
        let mut parts = traceparent.trim().split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let version = parse_hex::<1>(version)?[0];
        if version == 255 || version == 0 && parts.next().is_some() {
            return None;
        }
        let trace_id = parse_hex::<16>(trace)?;
        let span_id = parse_hex::<8>(span)?;
        let flags = parse_hex::<1>(flags)?[0];
        if trace_id == [0; 16] || span_id == [0; 8] || version == 0 && flags > 2 {
            return None;
        }
        Some(Self {
            trace_id,
            span_id,
            flags: flags & SAMPLED,
            state: Arc::from(""),
        })
    }

    /// From HTTP headers; `None` when there is no valid `traceparent`.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let parent = Self::parse(headers.get(TRACEPARENT)?.to_str().ok()?)?;
        let state = headers
            .get(TRACESTATE)
            .and_then(|state| state.to_str().ok())
            .unwrap_or_default();
        Some(Self {
            state: state.into(),
            ..parent
        })
    }

    /// The 29-byte form of `grpc-trace-bin`: 0, 0, trace id, 1, span id, 2, flags.
    pub fn to_binary(&self) -> [u8; 29] {
        let mut out = [0; 29];
        out[2..18].copy_from_slice(&self.trace_id);
        out[18] = 1;
        out[19..27].copy_from_slice(&self.span_id);
        out[27] = 2;
        out[28] = self.flags;
        out
    }

    /// Reads the 29-byte form.
    pub fn from_binary(binary: &[u8]) -> Option<Self> {
        let binary: &[u8; 29] = binary.try_into().ok()?;
        if binary[0] != 0 || binary[1] != 0 || binary[18] != 1 || binary[27] != 2 {
            return None;
        }
        let trace_id: [u8; 16] = binary[2..18].try_into().ok()?;
        let span_id: [u8; 8] = binary[19..27].try_into().ok()?;
        (trace_id != [0; 16] && span_id != [0; 8]).then(|| Self {
            trace_id,
            span_id,
            flags: binary[28] & SAMPLED,
            state: Arc::from(""),
        })
    }

    /// `traceparent` as a header value, without an allocation beyond the value itself.
    pub fn header_value(&self) -> HeaderValue {
        let text = self.text();
        HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// Sets `traceparent` and, if it is not empty and at most 512 characters, `tracestate`, unless the headers
    /// have them already: how an answer to a caller is marked.
    pub fn write_response_headers(&self, headers: &mut HeaderMap) {
        if !headers.contains_key(TRACEPARENT) {
            headers.insert(TRACEPARENT, self.header_value());
        }
        if !headers.contains_key(TRACESTATE) {
            self.write_state(headers);
        }
    }

    /// Sets `traceparent` and `tracestate` whatever was there: how a request of our own to the app is marked.
    pub fn write_request_headers(&self, headers: &mut HeaderMap) {
        headers.insert(TRACEPARENT, self.header_value());
        self.write_state(headers);
    }

    /// Marks a request that is handed on to the app: the span if there is one, else what the caller sent, right or
    /// wrong, else that there is none.
    pub fn hand_on(span: Option<&Self>, incoming: Incoming, headers: &mut HeaderMap) {
        if let Some(span) = span.filter(|span| span.is_some()) {
            if let Some(state) = incoming.state {
                headers.insert(TRACESTATE, state);
            }
            span.write_request_headers(headers);
        } else if let Some(parent) = incoming.parent.filter(|parent| !parent.is_empty()) {
            headers.insert(TRACEPARENT, parent);
            if let Some(state) = incoming.state {
                headers.insert(TRACESTATE, state);
            }
        } else if let Some(span) = span {
            headers.insert(TRACEPARENT, span.header_value());
        }
    }

    fn write_state(&self, headers: &mut HeaderMap) {
        if !self.state.is_empty()
            && self.state.len() <= MAX_STATE
            && let Ok(state) = HeaderValue::from_str(&self.state)
        {
            headers.insert(TRACESTATE, state);
        }
    }

    fn text(&self) -> [u8; 55] {
        let mut out = [b'-'; 55];
        write_hex(&mut out[..2], &[0]);
        write_hex(&mut out[3..35], &self.trace_id);
        write_hex(&mut out[36..52], &self.span_id);
        write_hex(&mut out[53..], &[self.flags]);
        out
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

/// The sampler of a sidecar: parent-based, the root by trace-id ratio (contract `observability`, section 4.1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// `None` = no spans of our own.
    ratio: Option<f64>,
}

impl Sampler {
    /// A sampler with this ratio of sampled roots.
    pub const fn new(ratio: f64) -> Self {
        Self { ratio: Some(ratio) }
    }

    /// A sampler that makes no spans and only hands on what came in: without a sampling rate in the Configuration.
    pub const fn repeating() -> Self {
        Self { ratio: None }
    }

    /// The span of a request that came with these headers.
    pub fn start(&self, headers: &HeaderMap) -> TraceContext {
        self.start_under(TraceContext::from_headers(headers).as_ref())
    }

    /// The span under a parent known from elsewhere.
    pub fn start_under(&self, parent: Option<&TraceContext>) -> TraceContext {
        let parent = parent.filter(|parent| parent.is_some());
        match (parent, self.ratio) {
            (Some(parent), Some(_)) => parent.child(),
            (Some(parent), None) => parent.clone(),
            (None, Some(ratio)) => TraceContext::new_root(ratio),
            (None, None) => TraceContext::none(),
        }
    }
}

/// The ratio is compared with the low 8 bytes of the id, as OpenTelemetry's ratio sampler does.
fn sampled(trace_id: &[u8; 16], ratio: f64) -> bool {
    if ratio >= 1.0 {
        return true;
    }
    if ratio <= 0.0 || ratio.is_nan() {
        return false;
    }
    let mut low = [0; 8];
    low.copy_from_slice(&trace_id[8..]);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 < ratio < 1, so the bound fits"
    )]
    let bound = (ratio * (1_u64 << 63) as f64) as u64;
    u64::from_be_bytes(low) >> 1 < bound
}

fn new_span_id() -> [u8; 8] {
    let id: u64 = rand::rng().random_range(1..=u64::MAX);
    id.to_be_bytes()
}

fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let bytes = text.as_bytes();
    if bytes.len() != 2 * N {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    for (at, byte) in out.iter_mut().enumerate() {
        *byte = digit(bytes[2 * at])? << 4 | digit(bytes[2 * at + 1])?;
    }
    Some(out)
}

fn write_hex(out: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_trace_parent_round_trips_as_text_and_binary() {
        let context = TraceContext::parse(PARENT).unwrap();
        assert_eq!(context.to_string(), PARENT);
        assert_eq!(TraceContext::from_binary(&context.to_binary()).unwrap(), context);
    }

    #[test]
    fn invalid_trace_parents_are_refused() {
        for text in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
        ] {
            assert_eq!(TraceContext::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_child_keeps_the_trace_and_gets_its_own_span() {
        let parent = TraceContext::parse(PARENT).unwrap();
        let child = parent.child();
        assert_eq!(child.trace_id, parent.trace_id);
        assert_ne!(child.span_id, parent.span_id);
        assert!(child.is_sampled());
    }

    #[test]
    fn the_ratio_decides_about_roots_only() {
        assert!(TraceContext::new_root(1.0).is_sampled());
        assert!(!TraceContext::new_root(0.0).is_sampled());
        let sampled = (0..4000)
            .filter(|_| TraceContext::new_root(0.5).is_sampled())
            .count();
        assert!((1600..2400).contains(&sampled), "{sampled}");
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_static(PARENT));
        assert!(Sampler::new(0.0).start(&headers).is_sampled());
    }

    #[test]
    fn without_a_rate_spans_are_handed_on_and_never_made() {
        let parent = TraceContext::parse(PARENT).unwrap();
        let sampler = Sampler::repeating();
        assert_eq!(sampler.start_under(Some(&parent)), parent);
        let none = sampler.start(&HeaderMap::new());
        assert!(!none.is_some());
        let zero = "00-00000000000000000000000000000000-0000000000000000-00";
        assert_eq!(none.to_string(), zero);
        assert!(
            Sampler::new(1.0).start_under(Some(&none)).is_sampled(),
            "nothing is no parent"
        );
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = TraceContext::parse(&text);
        }
    }
}
