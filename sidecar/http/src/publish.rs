//! `publish` routes.

use std::sync::Arc;

use http::Response;
use outrigger_model::ApiError;
use outrigger_sidecar_core::Body;

use crate::HttpApi;
use crate::request::ApiRequest;

/// `POST v1.0/publish/{pubsub}/{topic}`
pub(crate) async fn single(_api: Arc<HttpApi>, _request: ApiRequest) -> Result<Response<Body>, ApiError> {
    Err(crate::not_built::unimplemented())
}

/// `POST v1.0/publish/bulk/{pubsub}/{topic}`
pub(crate) async fn bulk(_api: Arc<HttpApi>, _request: ApiRequest) -> Result<Response<Body>, ApiError> {
    Err(crate::not_built::unimplemented())
}
