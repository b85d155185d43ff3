//! What we say to a sidecar's HTTP API: are you ready, and please note this down.

use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use tokio::time::sleep;

use crate::http::{Call, Target, escape, send};

/// How long one question may take.
const CALL_LIMIT: Duration = Duration::from_secs(2);
/// How often a note is tried before we give up, and how long we wait between tries.
const NOTE_TRIES: u32 = 5;
const NOTE_PAUSE: Duration = Duration::from_millis(200);

/// Waits until the sidecar can serve its app's calls (`/v1.0/healthz/outbound`). Comes true also while the sidecar
/// itself waits for its app. Never gives up: whoever waits decides how long.
pub(crate) async fn ready(target: &Target) {
    // Ready in some 10 ms on a good day; asking costs little.
    let mut pause = Duration::from_millis(5);
    loop {
        let answer = send(target, Call::get("/v1.0/healthz/outbound"), CALL_LIMIT).await;
        if answer.is_ok_and(|(status, _)| status.is_success()) {
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Notes a key in the sidecar's metadata, where `list` and `stop` (of both CLIs) look.
///
/// # Errors
/// If the sidecar does not take it, in words.
pub(crate) async fn note(target: &Target, token: Option<&str>, key: &str, value: &str) -> Result<(), String> {
    let path = format!("/v1.0/metadata/{}", escape(key, false));
    let mut problem = String::new();
    for attempt in 0..NOTE_TRIES {
        if attempt > 0 {
            sleep(NOTE_PAUSE).await;
        }
        let call = Call {
            method: Method::PUT,
            path: &path,
            content_type: Some("text/plain"),
            token,
            body: Bytes::copy_from_slice(value.as_bytes()),
        };
        match send(target, call, CALL_LIMIT).await {
            Ok((status, _)) if status.is_success() => return Ok(()),
            Ok((status, body)) => {
                problem = format!("{status} {}", String::from_utf8_lossy(&body));
                if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS {
                    break;
                }
            }
            Err(error) => problem = format!("{error:#}"),
        }
    }
    Err(problem)
}
