//! Spans as log lines.

use std::fmt::Write as _;

use super::Span;

pub(super) fn write(spans: &[Span]) {
    for span in spans {
        tracing::info!(target: "dapr.runtime.trace", "{}", line(span));
    }
}

/// Upstream's form, two spaces after the arrow included.
fn line(span: &Span) -> String {
    let time = |nanos: u64| {
        let at = jiff::Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        at.to_string()
    };
    let start = span.unix_nanos();
    // Spans of ours have no events; the brackets are what upstream prints for none.
    format!(
        "[{}] Trace: {} Span: {}/{} Time: [{} ->  {}] Annotations: []",
        span.name,
        hex(&span.context.trace_id),
        hex(&span.parent),
        hex(&span.context.span_id),
        time(start),
        time(start.saturating_add(span.duration_nanos())),
    )
}

/// Small hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}
