//! `v1.0-alpha1/lock` and `v1.0-alpha1/unlock`

use std::sync::Arc;

use http::Response;
use outrigger_model::ApiError;
use outrigger_sidecar_core::Body;

use crate::request::ApiRequest;
use crate::universal::Fields;
use crate::{HttpApi, respond};

/// `POST v1.0-alpha1/lock/{store}`
pub(crate) async fn try_lock(api: Arc<HttpApi>, mut request: ApiRequest) -> Result<Response<Body>, ApiError> {
    let fields = Fields::parse(&request.bytes_or_body_read_error().await?)?;
    let (resource, owner) = (fields.text("resource_id")?, fields.text("lock_owner")?);
    let expiry = fields.int32("expiry_in_seconds")?;
    let store = request.param("storeName");
    let success = api.core.lock.try_lock(store, &resource, &owner, expiry).await?;
    Ok(respond::json(format!("{{\"success\":{success}}}")))
}

/// `POST v1.0-alpha1/unlock/{store}`: the status is told as a number.
pub(crate) async fn unlock(api: Arc<HttpApi>, mut request: ApiRequest) -> Result<Response<Body>, ApiError> {
    let fields = Fields::parse(&request.bytes_or_body_read_error().await?)?;
    let (resource, owner) = (fields.text("resource_id")?, fields.text("lock_owner")?);
    let store = request.param("storeName");
    let status = api.core.lock.unlock(store, &resource, &owner).await?;
    Ok(respond::json(format!("{{\"status\":{}}}", status as i32)))
}
