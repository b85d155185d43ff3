//! `grpc-timeout`: the time a caller gives its call, answer and its messages included.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;

const GRPC_TIMEOUT: &str = "grpc-timeout";
/// Eight digits and a unit.
const LONGEST: usize = 9;
/// Further away is never: the timer cannot hold more.
const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// When the call is over; `None` if the caller set no limit.
///
/// # Errors
/// A value that is no time, in the words of Go's gRPC.
pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Instant>, Status> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    match parse(&text) {
        Ok(timeout) => Ok(Some(Instant::now() + timeout.min(NEVER))),
        Err(what) => Err(Status::internal(format!(
            "malformed grpc-timeout: transport: timeout {what}: {text:?}"
        ))),
    }
}

fn parse(text: &str) -> Result<Duration, &'static str> {
    let (digits, unit) = match text.split_at_checked(text.len().saturating_sub(1)) {
        Some((digits, unit)) if !digits.is_empty() => (digits, unit),
        _ => return Err("string is too short"),
    };
    if text.len() > LONGEST {
        return Err("string is too long");
    }
    let unit: fn(u64) -> Duration = match unit {
        "H" => |n| Duration::from_secs(n * 3600),
        "M" => |n| Duration::from_secs(n * 60),
        "S" => Duration::from_secs,
        "m" => Duration::from_millis,
        "u" => Duration::from_micros,
        "n" => Duration::from_nanos,
        _ => return Err("unit is not recognized"),
    };
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err("value is not a number");
    }
    digits.parse().map(unit).map_err(|_| "value is not a number")
}

/// What the caller is told when the time is over.
pub(crate) fn exceeded() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

/// An answer's messages, which end with a status when the time is over.
pub(crate) struct Limited {
    inner: Body,
    over: Pin<Box<Sleep>>,
    ended: bool,
}

impl Limited {
    pub(crate) fn new(inner: Body, deadline: Instant) -> Self {
        Self {
            inner,
            over: Box::pin(tokio::time::sleep_until(deadline)),
            ended: false,
        }
    }
}

impl HttpBody for Limited {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        ready!(this.over.as_mut().poll(cx));
        this.ended = true;
        // What is still being made for the caller ends with it.
        this.inner = Body::empty();
        let mut trailers = HeaderMap::new();
        // Code and message are ASCII, which every header can hold.
        let _ = exceeded().add_header(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    #[test]
    fn times_are_read_in_every_unit_and_nonsense_is_named() {
        for (text, millis) in [
            ("2H", 7_200_000),
            ("1M", 60_000),
            ("3S", 3000),
            ("99999999m", 99_999_999),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse("5u"), Ok(Duration::from_micros(5)));
        assert_eq!(parse("7n"), Ok(Duration::from_nanos(7)));
        assert_eq!(parse("0m"), Ok(Duration::ZERO));
        for text in ["", "S", "5", "5s", "-1S", "+1S", "1.5S", "123456789S", "é", "1é"] {
            assert!(parse(text).is_err(), "{text}");
        }
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static(GRPC_TIMEOUT),
            http::HeaderValue::from_static("5x"),
        )]);
        let status = of(&headers).unwrap_err();
        assert_eq!(
            status.message(),
            "malformed grpc-timeout: transport: timeout unit is not recognized: \"5x\""
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_outlasts_its_time_ends_with_a_status() {
        let first = Frame::data(Bytes::from_static(b"one"));
        let messages =
            futures_util::stream::iter([Ok::<_, Status>(first)]).chain(futures_util::stream::pending());
        let started = Instant::now();
        let mut body = Limited::new(
            Body::new(StreamBody::new(messages)),
            started + Duration::from_secs(3),
        );
        assert!(body.frame().await.unwrap().unwrap().is_data());
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(started.elapsed(), Duration::from_secs(3));
        assert_eq!(trailers["grpc-status"], "4");
        assert!(body.frame().await.is_none());
    }
}
