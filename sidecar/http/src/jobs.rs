//! `jobs`, in both versions.

use std::sync::Arc;

use http::Response;
use outrigger_model::ApiError;
use outrigger_sidecar_core::Body;
use outrigger_sidecar_core::jobs::json;

use crate::request::{ApiRequest, malformed};
use crate::{HttpApi, respond};

/// `POST jobs/{name}`
pub(crate) async fn schedule(api: Arc<HttpApi>, mut request: ApiRequest) -> Result<Response<Body>, ApiError> {
    let body = request.bytes_or_body_read_error().await?;
    let mut asked = json::read(&body).map_err(malformed)?;
    let jobs = &api.core.jobs;
    if !asked.job.name.is_empty() {
        return Err(jobs.name_twice());
    }
    request.param("name").clone_into(&mut asked.job.name);
    jobs.schedule(Some(asked.job), asked.overwrite).await?;
    Ok(respond::no_content())
}

/// `GET jobs/{name}`
pub(crate) async fn get(api: Arc<HttpApi>, request: ApiRequest) -> Result<Response<Body>, ApiError> {
    let job = api.core.jobs.get(request.param("name")).await?;
    Ok(respond::json(json::job(job)))
}

/// `DELETE jobs/{name}`
pub(crate) async fn delete(api: Arc<HttpApi>, request: ApiRequest) -> Result<Response<Body>, ApiError> {
    api.core.jobs.delete(request.param("name")).await?;
    Ok(respond::no_content())
}
