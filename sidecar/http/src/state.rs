//! `state` routes: JSON in Go's terms to core requests and back.

mod decode;

use std::sync::Arc;

use http::header::{ETAG, IF_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use outrigger_components_api::RequestMetadata;
use outrigger_components_api::state::{BulkGetItem, DeleteRequest, StateOptions};
use outrigger_gojson::{Numbers, Value};
use outrigger_model::{ApiError, GrpcCode};
use outrigger_sidecar_core::{Body, Edge};

use crate::request::{ApiRequest, malformed};
use crate::{HttpApi, publish, respond};

fn options(request: &ApiRequest) -> StateOptions {
    StateOptions {
        concurrency: request.query("concurrency").unwrap_or_default(),
        consistency: request.query("consistency").unwrap_or_default(),
    }
}

/// Response metadata becomes `metadata.<k>` headers; names or values that are no header are left out.
pub(crate) fn write_metadata(headers: &mut HeaderMap, metadata: &RequestMetadata) {
    for (key, value) in metadata {
        let name = HeaderName::from_bytes(format!("metadata.{key}").as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
}

/// `GET v1.0/state/{store}/{key}`
pub(crate) async fn get(api: Arc<HttpApi>, request: ApiRequest) -> Result<Response<Body>, ApiError> {
    let store = api.core.state.store(request.param("storeName"), Edge::Http)?;
    let found = store
        .get(request.param("key"), options(&request), request.metadata())
        .await?;
    // A value that is empty is there all the same.
    let Some(data) = found.data else {
        return Ok(respond::no_content());
    };
    let mut response = respond::json(data);
    if let Some(etag) = found.etag.and_then(|etag| HeaderValue::from_str(&etag).ok()) {
        response.headers_mut().insert(ETAG, etag);
    }
    write_metadata(response.headers_mut(), &found.metadata);
    Ok(response)
}

/// `POST v1.0/state/{store}`
pub(crate) async fn save(api: Arc<HttpApi>, mut request: ApiRequest) -> Result<Response<Body>, ApiError> {
    let name = request.param("storeName").to_owned();
    let store = api.core.state.store(&name, Edge::Http)?;
    let metadata = request.metadata();
    let (body, cut) = request.bytes_and_error().await;
    let mut items = decode::set_requests(&body).map_err(|error| match cut {
        Some(cut) => decode::raw(&cut.to_string()),
        None => error,
    })?;
    for item in &mut items {
        item.metadata.extend(metadata.clone());
    }
    store.save(items).await?;
    Ok(respond::no_content())
}

/// `DELETE v1.0/state/{store}/{key}`
pub(crate) async fn delete(api: Arc<HttpApi>, request: ApiRequest) -> Result<Response<Body>, ApiError> {
    let store = api.core.state.store(request.param("storeName"), Edge::Http)?;
    let etag = request.header(IF_MATCH.as_str()).to_owned();
    store
        .delete(DeleteRequest {
            key: request.param("key").to_owned(),
            etag: Some(etag),
            metadata: request.metadata(),
            options: options(&request),
        })
        .await?;
    Ok(respond::no_content())
}

/// `POST v1.0/state/{store}/bulk`
pub(crate) async fn get_bulk(api: Arc<HttpApi>, mut request: ApiRequest) -> Result<Response<Body>, ApiError> {
    let name = request.param("storeName").to_owned();
    let store = api.core.state.store(&name, Edge::Http)?;
    let query_metadata = request.metadata();
    let body = request.bytes().await.map_err(malformed)?;
    let bulk = decode::bulk_get(&body)?;
    let mut metadata = bulk.metadata;
    metadata.extend(query_metadata);
    let items = store.get_bulk(&bulk.keys, &metadata, bulk.parallelism).await?;
    let mut text = String::from("[");
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        bulk_item(&mut text, item);
    }
    text.push_str("]\n");
    Ok(respond::json(text))
}

/// `{key, data?, etag?, metadata?, error?}`; data that is no JSON is an error of the item.
fn bulk_item(out: &mut String, item: &BulkGetItem) {
    let text =
        |text: &str| outrigger_gojson::to_string(&Value::String(text.to_owned()), Numbers::Verbatim, true);
    out.push_str("{\"key\":");
    out.push_str(&text(&item.key));
    if let Some(data) = item.response.data.as_ref().filter(|data| !data.is_empty()) {
        out.push_str(",\"data\":");
        match outrigger_gojson::parse(data) {
            Ok(_) => compact(out, &String::from_utf8_lossy(data)),
            Err(_) => out.push_str(&text(&String::from_utf8_lossy(data))),
        }
    }
    if let Some(etag) = &item.response.etag {
        out.push_str(",\"etag\":");
        out.push_str(&text(etag));
    }
    if !item.response.metadata.is_empty() {
        let map = item
            .response
            .metadata
            .iter()
            .map(|(k, v)| (k.clone(), Value::String(v.clone())))
            .collect();
        out.push_str(",\"metadata\":");
        out.push_str(&outrigger_gojson::to_string(
            &Value::Object(map),
            Numbers::Verbatim,
            true,
        ));
    }
    if let Some(error) = &item.error {
        out.push_str(",\"error\":");
        out.push_str(&text(error));
    }
    out.push('}');
}

/// Copies a JSON text without its insignificant white space, keeping member order and number spelling, with
/// Go's HTML-safe escapes.
fn compact(out: &mut String, json: &str) {
    let (mut in_string, mut escaped) = (false, false);
    for c in json.chars() {
        match c {
            ' ' | '\t' | '\n' | '\r' if !in_string => continue,
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
        in_string ^= c == '"' && !escaped;
        escaped = in_string && c == '\\' && !escaped;
    }
}

/// `POST v1.0/state/{store}/transaction`
pub(crate) async fn transaction(
    api: Arc<HttpApi>,
    mut request: ApiRequest,
) -> Result<Response<Body>, ApiError> {
    let name = request.param("storeName").to_owned();
    let store = api.core.state.store(&name, Edge::Http)?;
    store.require_transactions()?;
    let metadata = request.metadata();
    let body = request.bytes().await.map_err(malformed)?;
    let trace = publish::trace(&request);
    let transaction = decode::transaction(&body, &metadata)?;
    store.transact(transaction, &trace).await?;
    Ok(respond::no_content())
}

/// `POST v1.0-alpha1/state/{store}/query`
pub(crate) async fn query(api: Arc<HttpApi>, mut request: ApiRequest) -> Result<Response<Body>, ApiError> {
    let body = request.bytes_or_body_read_error().await?;
    let store = api
        .core
        .state
        .store_for_query(request.param("storeName"), Edge::Http)?;
    let parse = || outrigger_gojson::parse(&body).map_err(|error| error.to_string());
    let found = store.query(parse, request.metadata()).await?;
    if found.results.is_empty() {
        return Ok(respond::no_content());
    }
    let mut text = String::from("{\"results\":[");
    for (at, item) in found.results.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        bulk_item(&mut text, item);
    }
    text.push(']');
    if !found.token.is_empty() {
        text.push_str(",\"token\":");
        text.push_str(&outrigger_gojson::to_string(
            &Value::String(found.token),
            Numbers::Verbatim,
            true,
        ));
    }
    text.push_str("}\n");
    Ok(respond::json(text))
}

/// `ERR_MALFORMED_REQUEST` with exactly this text.
fn malformed_raw(text: &str) -> ApiError {
    ApiError::legacy("ERR_MALFORMED_REQUEST", 400, GrpcCode::InvalidArgument, text)
}
