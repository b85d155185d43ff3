//! `publish` routes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use outrigger_components_api::RequestMetadata;
use outrigger_components_api::pubsub::FailedEntry;
use outrigger_gojson::{Numbers, Value};
use outrigger_model::ApiError;
use outrigger_sidecar_core::pubsub::{BulkError, Entry, PublishTrace, errors};
use outrigger_sidecar_core::{Body, Edge};
use outrigger_trace_context::TraceContext;

use crate::request::ApiRequest;
use crate::{HttpApi, respond};

/// The trace that events of this request carry on.
pub(crate) fn trace(request: &ApiRequest) -> PublishTrace {
    let remote = TraceContext::from_headers(&request.parts.headers).is_some();
    PublishTrace::new(request.trace.clone(), remote)
}

/// The rest of the path, but for a slash at its end.
fn topic_of(request: &ApiRequest) -> String {
    let topic = request.param("topic");
    topic.strip_suffix('/').unwrap_or(topic).to_owned()
}

/// `POST v1.0/publish/{pubsub}/{topic}`
pub(crate) async fn single(api: Arc<HttpApi>, mut request: ApiRequest) -> Result<Response<Body>, ApiError> {
    let (pubsub, topic) = (request.param("pubsubname").to_owned(), topic_of(&request));
    let target = api
        .core
        .pubsub
        .target(&pubsub, &topic, request.metadata(), Edge::Http)?;
    let content_type = request.header("content-type").to_owned();
    let data = request
        .bytes()
        .await
        .map_err(|error| errors::publish(&pubsub, &topic, &error.to_string()))?;
    target.publish(data, &content_type, &trace(&request)).await?;
    Ok(respond::no_content())
}

/// `POST v1.0/publish/bulk/{pubsub}/{topic}`
pub(crate) async fn bulk(api: Arc<HttpApi>, mut request: ApiRequest) -> Result<Response<Body>, ApiError> {
    let (pubsub, topic) = (request.param("pubsubname").to_owned(), topic_of(&request));
    let target = api
        .core
        .pubsub
        .target(&pubsub, &topic, request.metadata(), Edge::Http)?;
    let data = request
        .bytes()
        .await
        .map_err(|error| errors::unmarshal(&pubsub, &topic, &api.core.identity.app_id, &error.to_string()))?;
    let app_id = &api.core.identity.app_id;
    let entries = entries(&data).map_err(|error| match error {
        Unreadable::Json(text) => errors::unmarshal(&pubsub, &topic, app_id, &text),
        Unreadable::Event(text) => errors::marshal_envelope(&pubsub, &topic, app_id, &text),
    })?;
    match target.publish_bulk(entries, &trace(&request)).await {
        Ok(()) => Ok(respond::no_content()),
        Err(BulkError::Refused(error)) => Err(error),
        Err(BulkError::Failed { entries, error }) => Ok(partly_failed(&entries, &error)),
    }
}

/// Why a bulk request cannot be read.
enum Unreadable {
    Json(String),
    Event(String),
}

/// The list as Go decodes it.
fn entries(body: &Bytes) -> Result<Vec<Entry>, Unreadable> {
    let (list, _) =
        outrigger_gojson::parse_first(body).map_err(|error| Unreadable::Json(error.to_string()))?;
    let list = match &list {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) => list,
        other => {
            let text = format!(
                "json: cannot unmarshal {} into Go value of type []http.bulkPublishMessageEntry",
                other.kind()
            );
            return Err(Unreadable::Json(text));
        }
    };
    list.iter()
        .try_for_each(Value::check_floats)
        .map_err(|error| Unreadable::Json(error.to_string()))?;
    // All is read before anything is converted, as in Dapr.
    let read: Vec<_> = list
        .iter()
        .map(entry)
        .collect::<Result<_, String>>()
        .map_err(Unreadable::Json)?;
    read.into_iter()
        .map(|(mut entry, event)| {
            let data = outrigger_cloudevents::bulk::entry_bytes(&event, &entry.content_type)
                .map_err(|error| Unreadable::Event(error.to_string()))?;
            entry.data = data.into();
            Ok(entry)
        })
        .collect()
}

fn wrong(value: &Value, field: &str) -> String {
    format!(
        "json: cannot unmarshal {} into Go struct field bulkPublishMessageEntry.{field} of type string",
        value.kind()
    )
}

fn text(of: &Value, field: &str) -> Result<String, String> {
    match of.get_field(field) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(wrong(other, field)),
    }
}

fn entry(item: &Value) -> Result<(Entry, Value), String> {
    if item.as_object().is_none() && !item.is_null() {
        return Err(format!(
            "json: cannot unmarshal {} into Go value of type http.bulkPublishMessageEntry",
            item.kind()
        ));
    }
    let metadata = match item.get_field("metadata") {
        None | Some(Value::Null) => None,
        Some(Value::Object(pairs)) => {
            let mut metadata = RequestMetadata::new();
            for (name, value) in pairs {
                let value = match value {
                    Value::String(value) => value.clone(),
                    Value::Null => String::new(),
                    other => return Err(wrong(other, "metadata")),
                };
                metadata.insert(name.clone(), value);
            }
            Some(metadata)
        }
        Some(other) => return Err(wrong(other, "metadata")),
    };
    let entry = Entry {
        entry_id: text(item, "entryId")?,
        data: Bytes::new(),
        content_type: text(item, "contentType")?,
        metadata,
    };
    let event = item.get_field("event").cloned().unwrap_or(Value::Null);
    Ok((entry, event))
}

/// 500 with the failed entries in the body and, once more, in headers.
fn partly_failed(failed: &[FailedEntry], error: &ApiError) -> Response<Body> {
    let list: Value = failed
        .iter()
        .map(|entry| {
            Value::Object(BTreeMap::from([
                ("entryId".to_owned(), Value::from(entry.entry_id.as_str())),
                ("error".to_owned(), Value::from(entry.error.to_string())),
            ]))
        })
        .collect::<Vec<Value>>()
        .into();
    let list = outrigger_gojson::to_string(&list, Numbers::Verbatim, true);
    let body = format!("{{\"failedEntries\":{list},\"errorCode\":\"ERR_PUBSUB_PUBLISH_MESSAGE\"}}");
    let mut response = respond::json_with(StatusCode::INTERNAL_SERVER_ERROR, body.clone());
    for (name, value) in [
        ("metadata.responsedata", body),
        ("metadata.error", error.to_string().replace(['\r', '\n'], " ")),
    ] {
        // What cannot be told in a header is in the body.
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            response
                .headers_mut()
                .insert(HeaderName::from_static(name), value);
        }
    }
    response
}
