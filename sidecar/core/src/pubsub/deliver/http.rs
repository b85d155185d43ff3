//! Delivery to an HTTP app (contract `http-api`, section 9.3).

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use outrigger_gojson::Value;

use super::{BatchOutcome, Delivery, EntryStatus, Outcome, Refusal};
use crate::app::outgoing::{self, JSON, PostError};
use crate::app::{HttpApp, Slot};
use crate::pubsub::bulk::Batch;

const CLOUD_EVENT: HeaderValue = HeaderValue::from_static("application/cloudevents+json");

pub(super) async fn deliver(app: &HttpApp, delivery: &Delivery, slot: Slot) -> Outcome {
    let headers = outgoing::headers(&delivery.metadata, CLOUD_EVENT, delivery.trace.as_ref());
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
    let headers = outgoing::headers(&batch.metadata, JSON, batch.trace.as_ref());
    match post(app, &batch.path, headers, batch.to_json(entries).into(), slot).await {
        Ok((status, body)) => many(status, &body),
        Err(refusal) => BatchOutcome::Refused(refusal),
    }
}

async fn post(
    app: &HttpApp,
    route: &str,
    headers: HeaderMap,
    body: Bytes,
    slot: Slot,
) -> Result<(StatusCode, Bytes), Refusal> {
    outgoing::post(app, route, headers, body, slot)
        .await
        .map_err(|error| match error {
            PostError::Unsendable(text) => Refusal::new(text),
            PostError::Undelivered(text) => Refusal::undelivered(text),
        })
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
}
