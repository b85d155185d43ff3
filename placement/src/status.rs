//! How a stream ends: gRPC codes and Dapr's sentences.

use std::borrow::Cow;
use std::time::Duration;

/// gRPC status codes that the service uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The sidecar closed its side.
    Ok = 0,
    /// A message that makes no sense.
    InvalidArgument = 3,
    /// Acknowledgements took too long.
    DeadlineExceeded = 4,
    /// The identity of the connection is not that of the message.
    PermissionDenied = 7,
    /// More than one message, host or service may have.
    ResourceExhausted = 8,
    /// Another replica leads.
    FailedPrecondition = 9,
    /// Another stream took the place of this one.
    Aborted = 10,
    /// No such method.
    Unimplemented = 12,
    /// The sidecar sent what is no message.
    Internal = 13,
    /// The service stops.
    Unavailable = 14,
    /// The connection has no identity.
    Unauthenticated = 16,
}

/// The end of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// For programs.
    pub code: Code,
    /// For people, and for sidecars that look for `is not a leader`.
    pub message: Cow<'static, str>,
}

impl Status {
    /// A status in these words.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// The sidecar closed its side.
    #[must_use]
    pub const fn ok() -> Self {
        Self {
            code: Code::Ok,
            message: Cow::Borrowed(""),
        }
    }

    /// Another replica leads.
    #[must_use]
    pub fn not_leader(id: &str) -> Self {
        Self::new(
            Code::FailedPrecondition,
            format!("node id={id} is not a leader. Only the leader can serve requests"),
        )
    }

    /// The sidecar is connected on another stream.
    #[must_use]
    pub fn superseded() -> Self {
        Self::new(
            Code::Aborted,
            "the same app connected again from the same address: this stream is over",
        )
    }

    /// The service stops.
    #[must_use]
    pub fn stopping() -> Self {
        Self::new(Code::Unavailable, "placement service is closed")
    }

    /// Acknowledgements of `version` did not come within `after`.
    #[must_use]
    pub fn disseminated_too_slowly(after: Duration, version: u64) -> Self {
        let after = go_duration(after);
        Self::new(
            Code::DeadlineExceeded,
            format!("dissemination timeout after {after} for version {version}"),
        )
    }
}

/// A duration as Go writes it: `8s`, `1m30s`, `1.5s`, `250ms`.
fn go_duration(duration: Duration) -> String {
    let fraction = |number: f64| {
        let text = format!("{number:.9}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    if duration < Duration::from_secs(1) {
        return format!("{}ms", fraction(duration.as_secs_f64() * 1000.0));
    }
    let (minutes, seconds) = (duration.as_secs() / 60, duration.as_secs() % 60);
    let seconds = fraction(seconds as f64 + f64::from(duration.subsec_nanos()) / 1e9);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_in_go() {
        for (milliseconds, text) in [
            (8000, "8s"),
            (90_000, "1m30s"),
            (1500, "1.5s"),
            (250, "250ms"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(milliseconds)), text);
        }
    }
}
