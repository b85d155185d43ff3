//! `configuration` routes.

use std::sync::Arc;

use http::{Response, StatusCode};
use outrigger_gojson::write_string;
use outrigger_model::ApiError;
use outrigger_sidecar_core::Body;
use outrigger_sidecar_core::configuration::items_json;

use crate::path::query_pairs;
use crate::request::ApiRequest;
use crate::{HttpApi, respond};

/// All values of `key`.
fn keys(request: &ApiRequest) -> Vec<String> {
    query_pairs(request.parts.uri.query().unwrap_or_default())
        .filter(|(name, _)| name == "key")
        .map(|(_, key)| key)
        .collect()
}

/// `GET configuration/{store}`
pub(crate) async fn get(api: Arc<HttpApi>, request: ApiRequest) -> Result<Response<Body>, ApiError> {
    let store = request.param("storeName");
    let service = &api.core.configuration;
    let items = service.get(store, &keys(&request), &request.metadata()).await?;
    if items.is_empty() {
        return Ok(respond::no_content());
    }
    Ok(respond::json(items_json(&items)))
}

/// `GET configuration/{store}/subscribe`
pub(crate) async fn subscribe(api: Arc<HttpApi>, request: ApiRequest) -> Result<Response<Body>, ApiError> {
    let store = request.param("storeName");
    let service = &api.core.configuration;
    let subscribed = service
        .subscribe_app(store, &keys(&request), &request.metadata())
        .await;
    match subscribed {
        Ok(id) => {
            let mut text = String::from("{\"id\":");
            write_string(&mut text, &id, true);
            text.push_str("}\n");
            Ok(respond::json(text))
        }
        // Dapr ends this one error with a new line.
        Err(error) if error.error_code() == "ERR_APP_CHANNEL_NIL" => {
            let mut body = error.http_body();
            body.push('\n');
            Ok(respond::json_with(StatusCode::INTERNAL_SERVER_ERROR, body))
        }
        Err(error) => Err(error),
    }
}

/// `GET configuration/{store}/{id}/unsubscribe`
pub(crate) async fn unsubscribe(api: Arc<HttpApi>, request: ApiRequest) -> Result<Response<Body>, ApiError> {
    let service = &api.core.configuration;
    service.check_store(request.param("storeName"))?;
    let id = request.param("id");
    if service.unsubscribe(id).await {
        return Ok(respond::json("{\"ok\":true}\n"));
    }
    let message = format!(
        "failed to unsubscribe to configuration request {id}: subscription with id {id} does not exist"
    );
    let mut text = String::from("{\"message\":");
    write_string(&mut text, &message, true);
    text.push_str("}\n");
    Ok(respond::json_with(StatusCode::INTERNAL_SERVER_ERROR, text))
}
