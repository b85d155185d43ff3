//! `v1.0/secrets`

use std::sync::Arc;

use http::Response;
use outrigger_gojson::{Numbers, Value};
use outrigger_model::ApiError;
use outrigger_sidecar_core::Body;

use crate::request::ApiRequest;
use crate::{HttpApi, respond};

fn object(pairs: impl IntoIterator<Item = (String, String)>) -> Value {
    Value::Object(
        pairs
            .into_iter()
            .map(|(key, value)| (key, Value::String(value)))
            .collect(),
    )
}

fn encode(value: &Value) -> Response<Body> {
    respond::json(outrigger_gojson::to_vec(value, Numbers::Verbatim, true))
}

/// `GET v1.0/secrets/{store}/{key}`
pub(crate) async fn get(api: Arc<HttpApi>, request: ApiRequest) -> Result<Response<Body>, ApiError> {
    let (store, key) = (request.param("secretStoreName"), request.param("key"));
    match api.core.secrets.get(store, key, &request.metadata()).await? {
        Some(secret) => Ok(encode(&object(secret))),
        None => Ok(respond::no_content()),
    }
}

/// `GET v1.0/secrets/{store}/bulk`
pub(crate) async fn get_bulk(api: Arc<HttpApi>, request: ApiRequest) -> Result<Response<Body>, ApiError> {
    let secrets = api
        .core
        .secrets
        .get_bulk(request.param("secretStoreName"), &request.metadata())
        .await?;
    Ok(encode(&Value::Object(
        secrets
            .into_iter()
            .map(|(name, secret)| (name, object(secret)))
            .collect(),
    )))
}
