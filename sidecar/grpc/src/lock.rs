//! `TryLockAlpha1`, `UnlockAlpha1`

use outrigger_proto::runtime::v1::{TryLockRequest, TryLockResponse, UnlockRequest, UnlockResponse};
use outrigger_sidecar_core::Sidecar;
use tonic::{Response, Status};

use crate::error::to_status;

pub(crate) async fn try_lock(
    core: &Sidecar,
    request: TryLockRequest,
) -> Result<Response<TryLockResponse>, Status> {
    let taken = core.lock.try_lock(
        &request.store_name,
        &request.resource_id,
        &request.lock_owner,
        request.expiry_in_seconds,
    );
    let success = taken.await.map_err(|error| to_status(&error))?;
    Ok(Response::new(TryLockResponse { success }))
}

pub(crate) async fn unlock(
    core: &Sidecar,
    request: UnlockRequest,
) -> Result<Response<UnlockResponse>, Status> {
    let given = core
        .lock
        .unlock(&request.store_name, &request.resource_id, &request.lock_owner);
    let status = given.await.map_err(|error| to_status(&error))?;
    Ok(Response::new(UnlockResponse {
        status: status as i32,
    }))
}
