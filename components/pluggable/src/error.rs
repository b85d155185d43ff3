//! What a component's gRPC status means (contract `state`, section 4; `components`, section 5).

use outrigger_components_api::ComponentError;
use outrigger_components_api::state::StateError;
use outrigger_model::{ApiError, ErrorDetail, GrpcCode};
use outrigger_proto::google::rpc::{BadRequest, ErrorInfo, Status as Details};
use prost::Message as _;
use tonic::{Code, Status};

/// A status as Go prints it.
pub(crate) fn text(status: &Status) -> String {
    format!(
        "rpc error: code = {:?} desc = {}",
        status.code(),
        status.message()
    )
}

/// The failure of a call; one that the component words for callers itself is told in its words.
pub(crate) fn component(status: &Status) -> ComponentError {
    ComponentError::new(rich(status).map_or_else(|| text(status), |error| error.to_string()))
}

/// The one detail of a status, if it is of this type.
fn only_detail<T: prost::Message + Default>(status: &Status, name: &str) -> Option<T> {
    let details = Details::decode(status.details()).ok()?.details;
    let [detail] = details.as_slice() else {
        return None;
    };
    let is_one = detail.type_url.rsplit('/').next() == Some(name);
    is_one.then(|| T::decode(detail.value.as_slice()).ok()).flatten()
}

fn etag_cause(status: &Status) -> Option<String> {
    let request: BadRequest = only_detail(status, "google.rpc.BadRequest")?;
    match request.field_violations.as_slice() {
        [violation] if violation.field == "etag" => Some(violation.description.clone()),
        _ => None,
    }
}

pub(crate) fn state(status: &Status) -> StateError {
    if let Some(error) = rich(status) {
        return StateError::Api(Box::new(error));
    }
    match status.code() {
        Code::FailedPrecondition => {
            if let Some(cause) = etag_cause(status) {
                return StateError::EtagMismatch(Some(cause));
            }
        }
        Code::InvalidArgument => {
            if let Some(cause) = etag_cause(status) {
                return StateError::EtagInvalid(Some(cause));
            }
        }
        Code::Internal => {
            let info: Option<ErrorInfo> = only_detail(status, "google.rpc.ErrorInfo");
            let info = info.unwrap_or_default();
            if let (Some(expected), Some(affected)) =
                (info.metadata.get("expected"), info.metadata.get("affected"))
            {
                return StateError::other(format!(
                    "delete affected only {affected} rows, expected {expected}"
                ));
            }
        }
        _ => {}
    }
    StateError::Other(text(status))
}

/// An error that the component words for the caller itself.
fn rich(status: &Status) -> Option<ApiError> {
    let info: ErrorInfo = only_detail(status, "google.rpc.ErrorInfo")?;
    if info.metadata.get("kit_error").map(String::as_str) != Some("true") {
        return None;
    }
    let http = info.metadata.get("http_code").and_then(|code| code.parse().ok());
    let code = GrpcCode::from_i32(status.code().into());
    Some(ApiError::rich(
        // Every API has a code of its own, so that the component's (`tag`) is seen by nobody.
        None,
        http.unwrap_or(500),
        code,
        status.message(),
        vec![ErrorDetail::reason(&info.reason)],
    ))
}
