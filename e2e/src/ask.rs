//! One HTTP call in one line, and the question whether a sidecar is still calm after what a test did to it.

use std::time::{Duration, Instant};

use crate::http::client::{Answer, Request, send};
use crate::process::Daprd;

/// Longer than any call of a test takes: whoever waits that long hangs.
pub const CALL_LIMIT: Duration = Duration::from_secs(30);

/// Far beyond what a busy machine needs.
pub const SOON: Duration = Duration::from_secs(60);

/// Waits until `done` says so; looks often.
///
/// # Panics
/// If that takes longer than [`SOON`]; `what` says what did not happen.
pub async fn soon(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done().await {
        assert!(Instant::now() < deadline, "{what}: not within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Calls 127.0.0.1; an empty `body` sends none.
///
/// # Panics
/// If no HTTP answer comes.
pub async fn ask(port: u16, method: &str, path: &str, body: &[u8]) -> Answer {
    let request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        body: (!body.is_empty()).then(|| body.to_vec()),
        ..Request::default()
    };
    let answer = send(port, &request, CALL_LIMIT).await;
    answer.unwrap_or_else(|e| panic!("{method} {path}: {e}"))
}

/// `GET`.
///
/// # Panics
/// As [`ask`].
pub async fn get(port: u16, path: &str) -> Answer {
    ask(port, "GET", path, b"").await
}

/// The body as text.
#[must_use]
pub fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// Asserts status and body of an answer in one comparison.
///
/// # Panics
/// If they differ.
pub fn expect(answer: &Answer, status: u16, body: &str) {
    assert_eq!((answer.status, text(answer).as_str()), (status, body));
}

/// Asserts that the sidecar is alive, ready and has not panicked.
///
/// # Panics
/// If not.
pub async fn assert_calm(sidecar: &mut Daprd) {
    let answer = get(sidecar.http_port(), "/v1.0/healthz").await;
    expect(&answer, 204, "");
    assert_sane(sidecar);
}

/// Asserts that the sidecar is alive and has not panicked; it need not be ready.
///
/// # Panics
/// If not.
pub fn assert_sane(sidecar: &mut Daprd) {
    assert_eq!(sidecar.process().exited(), None, "the sidecar has ended");
    assert_no_panic(sidecar);
}

/// Asserts that the log tells of no panic.
///
/// # Panics
/// If it does.
pub fn assert_no_panic(sidecar: &mut Daprd) {
    assert!(
        !sidecar.process().log().contains("panicked"),
        "the sidecar panicked"
    );
}
