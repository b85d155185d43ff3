//! The app behind the sidecars: answers `POST` and `PUT` with the body it got, hosts actors of the type `bench`, and tells how long events took to arrive.

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use bytes::Bytes;
use clap::Args;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::task::{JoinSet, LocalSet};

use super::numbers::Latencies;

/// Where it listens.
#[derive(Args)]
pub(crate) struct AppArgs {
    #[arg(long)]
    port: u16,
}

/// What `GET /stats` answers: the events since it was last asked.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct Delivered {
    pub(crate) events: u64,
    /// From when the publish request was due to the event's arrival.
    pub(crate) delay: Option<Latencies>,
}

type Delays = Rc<RefCell<Vec<Duration>>>;

/// Serves until it is killed.
pub(crate) fn run(args: &AppArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, args.port)).await?;
        let delays = Delays::default();
        let mut tasks = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let delays = Rc::clone(&delays);
            let service = service_fn(move |request| answer(request, Rc::clone(&delays)));
            tasks.spawn_local(async move {
                drop(
                    http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await,
                );
            });
            while tasks.try_join_next().is_some() {}
        }
    })
}

async fn answer(request: Request<Incoming>, delays: Delays) -> Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let json = HeaderValue::from_static("application/json");
    let (status, content_type, body) = match (&head.method, head.uri.path()) {
        (&Method::POST, "/event") => {
            if let Some(delay) = age(&body) {
                delays.borrow_mut().push(delay);
            }
            (
                StatusCode::OK,
                json,
                Bytes::from_static(br#"{"status":"SUCCESS"}"#),
            )
        }
        (&Method::POST | &Method::PUT, _) => {
            let content_type = head.headers.get(CONTENT_TYPE).cloned();
            (
                StatusCode::OK,
                content_type.unwrap_or(HeaderValue::from_static("application/octet-stream")),
                body,
            )
        }
        (_, "/stats") => {
            let mut delays = std::mem::take(&mut *delays.borrow_mut());
            let events = delays.len() as u64;
            let delay = (events > 0).then(|| Latencies::of(&mut delays));
            (
                StatusCode::OK,
                json,
                serde_json::to_vec(&Delivered { events, delay })?.into(),
            )
        }
        (_, "/dapr/subscribe") => (StatusCode::OK, json, Bytes::from_static(b"[]")),
        (_, "/dapr/config") => (
            StatusCode::OK,
            json,
            Bytes::from_static(br#"{"entities":["bench"]}"#),
        ),
        // The end of an actor.
        (_, "/healthz") | (&Method::DELETE, _) => (StatusCode::OK, json, Bytes::from_static(b"{}")),
        _ => (StatusCode::NOT_FOUND, json, Bytes::new()),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    Ok(response)
}

/// How long ago the event's `"due":"…"` was; `None` if it has none.
fn age(event: &[u8]) -> Option<Duration> {
    let name = br#""due":"#;
    let after = event.windows(name.len()).position(|window| window == name)? + name.len();
    // An envelope may be written with a space after the colon.
    let digits = event[after..]
        .iter()
        .copied()
        .skip_while(|byte| *byte == b' ' || *byte == b'"');
    let due = digits.take_while(u8::is_ascii_digit).fold(0, |sum: u64, digit| {
        sum.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'))
    });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(now.saturating_sub(Duration::from_nanos(due)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_events_age_is_read_from_its_envelope_with_and_without_spaces() {
        let due = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_nanos()
            - 5_000_000_000;
        for event in [
            format!(r#"{{"data":{{"due":"{due:020}"}}}}"#),
            format!(r#"{{"data": {{"due": "{due:020}"}}}}"#),
        ] {
            let age = age(event.as_bytes()).expect("it has one");
            assert!(
                age >= Duration::from_secs(5) && age < Duration::from_secs(6),
                "{age:?}"
            );
        }
        assert_eq!(age(br#"{"data":{}}"#), None);
    }
}
