//! The Jobs API under its present and its older names.

use outrigger_proto::runtime::v1::{
    DeleteJobRequest, DeleteJobResponse, GetJobRequest, GetJobResponse, Job, ScheduleJobRequest,
    ScheduleJobResponse,
};
use outrigger_sidecar_core::Sidecar;
use tonic::{Response, Status};

use crate::error::to_status;

pub(crate) async fn schedule(
    core: &Sidecar,
    request: ScheduleJobRequest,
) -> Result<Response<ScheduleJobResponse>, Status> {
    let scheduled = core.jobs.schedule(request.job, request.overwrite).await;
    scheduled.map_err(|error| to_status(&error))?;
    Ok(Response::new(ScheduleJobResponse {}))
}

pub(crate) async fn get(core: &Sidecar, request: GetJobRequest) -> Result<Response<GetJobResponse>, Status> {
    let job = core
        .jobs
        .get(&request.name)
        .await
        .map_err(|error| to_status(&error))?;
    Ok(Response::new(GetJobResponse { job: Some(job) }))
}

pub(crate) async fn delete(
    core: &Sidecar,
    request: DeleteJobRequest,
) -> Result<Response<DeleteJobResponse>, Status> {
    let deleted = core.jobs.delete(&request.name).await;
    deleted.map_err(|error| to_status(&error))?;
    Ok(Response::new(DeleteJobResponse {}))
}

pub(crate) async fn delete_by_prefix(core: &Sidecar, prefix: Option<&str>) -> Result<(), Status> {
    let deleted = core.jobs.delete_by_prefix(prefix.unwrap_or_default()).await;
    deleted.map_err(|error| to_status(&error))
}

pub(crate) async fn list(core: &Sidecar) -> Result<Vec<Job>, Status> {
    core.jobs.list().await.map_err(|error| to_status(&error))
}
