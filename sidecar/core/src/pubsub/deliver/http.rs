//! Delivery to an HTTP app (contract `http-api`, section 9.3).

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use outrigger_components_api::RequestMetadata;
use outrigger_gojson::Value;
use outrigger_trace_context::TraceContext;

use super::{BatchOutcome, Delivery, EntryStatus, Outcome, Refusal};
use crate::Body;
use crate::app::{HttpApp, Slot};
use crate::invoke::escape;
use crate::pubsub::bulk::Batch;

const CLOUD_EVENT: HeaderValue = HeaderValue::from_static("application/cloudevents+json");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Longest answer that is looked at; a longer one is no status.
const MAX_ANSWER: usize = 16 << 20;

/// What a publisher's metadata must not decide about our request.
const NOT_PASSED: [HeaderName; 7] = [
    CONTENT_LENGTH,
    CONNECTION,
    HOST,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

pub(super) async fn deliver(app: &HttpApp, delivery: &Delivery, slot: Slot) -> Outcome {
    let headers = headers(&delivery.metadata, CLOUD_EVENT, delivery.trace.as_ref());
    match post(app, &delivery.path, headers, delivery.body.clone(), slot).await {
        Ok((status, body)) => single(status, &body),
        Err(refusal) => Outcome::Refused(refusal),
    }
}

pub(super) async fn deliver_batch(
    app: &HttpApp,
    batch: &Batch,
    entries: &[usize],
    slot: Slot,
) -> BatchOutcome {
    let headers = headers(&batch.metadata, JSON, batch.trace.as_ref());
    match post(app, &batch.path, headers, batch.to_json(entries).into(), slot).await {
        Ok((status, body)) => many(status, &body),
        Err(refusal) => BatchOutcome::Refused(refusal),
    }
}

fn headers(metadata: &RequestMetadata, content_type: HeaderValue, trace: Option<&TraceContext>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(metadata.len() + 4);
    for (name, value) in metadata {
        // What is no header is left out.
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(value),
        ) && !NOT_PASSED.contains(&name)
        {
            headers.insert(name, value);
        }
    }
    headers.insert(CONTENT_TYPE, content_type);
    if let Some(trace) = trace {
        trace.write_request_headers(&mut headers);
    }
    headers
}

async fn post(
    app: &HttpApp,
    route: &str,
    headers: HeaderMap,
    body: Bytes,
    slot: Slot,
) -> Result<(StatusCode, Bytes), Refusal> {
    let (path, query) = route.split_once('?').unwrap_or((route, ""));
    let path = escape::path(path.trim_start_matches('/')).map_err(|error| Refusal::new(error.to_string()))?;
    let uri = app
        .uri(&path, query)
        .map_err(|error| Refusal::new(error.to_string()))?;
    let mut request = Request::post(uri)
        .body(Body::full(body))
        .map_err(|error| Refusal::new(error.to_string()))?;
    *request.headers_mut() = headers;
    let response = app
        .call(request, slot)
        .await
        .map_err(|error| Refusal::undelivered(error.to_string()))?;
    let status = response.status();
    match Limited::new(response.into_body(), MAX_ANSWER).collect().await {
        Ok(body) => Ok((status, body.to_bytes())),
        // The head of a refusal says enough; an answer that breaks off has acknowledged nothing.
        Err(_) if !status.is_success() => Ok((status, Bytes::new())),
        Err(error) => Err(Refusal::undelivered(format!("reading the app's answer: {error}"))),
    }
}

fn single(status: StatusCode, body: &[u8]) -> Outcome {
    if status.is_success() {
        return match status_of(body).as_deref() {
            None | Some("" | "SUCCESS") => Outcome::Done,
            Some("RETRY") => Outcome::Refused(Refusal::new(
                "RETRY status returned from app while processing pub/sub event",
            )),
            Some("DROP") => Outcome::Dropped,
            Some(status) => Outcome::Refused(Refusal::new(format!(
                "unknown status returned from app while processing pub/sub event: {status}"
            ))),
        };
    }
    if status == StatusCode::NOT_FOUND {
        tracing::error!(
            target: "dapr.runtime",
            "non-retriable error returned from app while processing pub/sub event: the app answered 404"
        );
        return Outcome::Dropped;
    }
    Outcome::Refused(refused(status, body))
}

fn refused(status: StatusCode, body: &[u8]) -> Refusal {
    let text = format!(
        "retriable error returned from app while processing pub/sub event: {}. status code returned: {}",
        String::from_utf8_lossy(body),
        status.as_u16()
    );
    Refusal::with_code(text, i32::from(status.as_u16()))
}

/// `status` of the answer; `None` if there is no such text in it.
fn status_of(body: &[u8]) -> Option<String> {
    let answer = outrigger_gojson::parse(body).ok()?;
    answer.get_field("status")?.as_str().map(str::to_owned)
}

fn many(status: StatusCode, body: &[u8]) -> BatchOutcome {
    if status == StatusCode::NOT_FOUND {
        tracing::error!(
            target: "dapr.runtime",
            "non-retriable error returned from app while processing bulk pub/sub event: the app answered 404"
        );
        return BatchOutcome::AllDropped;
    }
    if !status.is_success() {
        return BatchOutcome::Refused(refused(status, body));
    }
    match statuses(body) {
        Some(statuses) => BatchOutcome::Statuses(statuses),
        None => BatchOutcome::Refused(Refusal::new(
            "the app's answer to a bulk event is no JSON object with statuses; all entries are to be retried",
        )),
    }
}

fn statuses(body: &[u8]) -> Option<Vec<(String, EntryStatus)>> {
    let answer = outrigger_gojson::parse(body).ok()?;
    answer.as_object()?;
    let Some(statuses) = answer.get_field("statuses").and_then(Value::as_array) else {
        return Some(Vec::new());
    };
    let read = |entry: &Value| {
        let id = entry.get_field("entryId")?.as_str()?.to_owned();
        let status = match entry
            .get_field("status")
            .and_then(Value::as_str)
            .unwrap_or_default()
        {
            "SUCCESS" => EntryStatus::Success,
            "DROP" => EntryStatus::Drop,
            _ => EntryStatus::Retry,
        };
        Some((id, status))
    };
    Some(statuses.iter().filter_map(read).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_mean_what_the_contract_says() {
        let refused = |outcome: Outcome| matches!(outcome, Outcome::Refused(_));
        for body in [
            "",
            "hm",
            "{}",
            r#"{"status":""}"#,
            r#"{"status":"SUCCESS"}"#,
            r#"{"status":1}"#,
            "[]",
        ] {
            assert_eq!(single(StatusCode::OK, body.as_bytes()), Outcome::Done, "{body}");
        }
        assert_eq!(
            single(StatusCode::CREATED, br#"{"Status":"DROP"}"#),
            Outcome::Dropped
        );
        for body in [r#"{"status":"RETRY"}"#, r#"{"status":"success"}"#] {
            assert!(refused(single(StatusCode::OK, body.as_bytes())), "{body}");
        }
        assert_eq!(single(StatusCode::NOT_FOUND, b""), Outcome::Dropped);
        for status in [
            StatusCode::FOUND,
            StatusCode::BAD_REQUEST,
            StatusCode::INTERNAL_SERVER_ERROR,
        ] {
            assert!(refused(single(status, br#"{"status":"SUCCESS"}"#)), "{status}");
        }
    }

    #[test]
    fn entries_of_a_batch_need_a_clear_word() {
        let body = br#"{"statuses":[{"entryId":"1","status":"SUCCESS"},{"entryId":"2"},{"entryId":"3","status":"DROP"},{"status":"SUCCESS"}]}"#;
        let outcome = many(StatusCode::OK, body);
        let want = [
            ("1".to_owned(), EntryStatus::Success),
            ("2".to_owned(), EntryStatus::Retry),
            ("3".to_owned(), EntryStatus::Drop),
        ];
        assert_eq!(outcome, BatchOutcome::Statuses(want.into()));
        assert!(matches!(many(StatusCode::OK, b"hm"), BatchOutcome::Refused(_)));
        assert!(matches!(many(StatusCode::OK, b""), BatchOutcome::Refused(_)));
        assert_eq!(many(StatusCode::NOT_FOUND, b""), BatchOutcome::AllDropped);
    }

    #[test]
    fn metadata_becomes_headers_but_cannot_bend_the_request() {
        let metadata: RequestMetadata = [
            ("Other-Key", "v"),
            ("content-length", "1"),
            ("Transfer-Encoding", "chunked"),
            ("content-type", "x/y"),
            ("no header", "v"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let headers = headers(&metadata, CLOUD_EVENT, None);
        assert_eq!(headers.len(), 2);
        assert_eq!(headers["other-key"], "v");
        assert_eq!(headers[CONTENT_TYPE], "application/cloudevents+json");
    }
}
