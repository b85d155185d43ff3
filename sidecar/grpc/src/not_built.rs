//! RPCs of building blocks whose issues are still open. Each answers as the reference does when nothing of the
//! block is configured, which is the truth: nothing of it can be configured yet.

use outrigger_model::{ApiError, GrpcCode};
use tonic::Status;

use crate::error::to_status;

pub(crate) fn binding(name: &str) -> Status {
    let message = format!("error invoking output binding {name}: couldn't find output binding {name}");
    let error = ApiError::legacy("ERR_INVOKE_OUTPUT_BINDING", 500, GrpcCode::Internal, message);
    to_status(&error.with_grpc_reason("ERR_INVOKE_OUTPUT_BINDING"))
}

pub(crate) fn configuration() -> Status {
    const CODE: &str = "ERR_CONFIGURATION_STORE_NOT_CONFIGURED";
    let error = ApiError::legacy(
        CODE,
        500,
        GrpcCode::FailedPrecondition,
        "configuration stores not configured",
    );
    to_status(&error.with_grpc_reason(CODE))
}

pub(crate) fn lock() -> Status {
    to_status(&ApiError::legacy(
        "ERR_LOCK_STORE_NOT_CONFIGURED",
        500,
        GrpcCode::FailedPrecondition,
        "lock store is not configured",
    ))
}
