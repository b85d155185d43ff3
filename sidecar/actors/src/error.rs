//! Why a call of an actor failed, and how each wire says so (contracts `actors`, section 4, and `errors`).

use outrigger_model::{ApiError, GrpcCode};
use outrigger_proto::internals::v1::InternalInvokeResponse;

use crate::ActorKey;

/// What another sidecar answers for an actor that it no longer hosts; peers compare the text.
pub const MOVED: &str = "remote actor moved";
/// What another sidecar answers while it takes over a table; peers compare the ending.
pub const DISSEMINATING: &str = "placement is disseminating";
/// What another sidecar answers when the app cancelled a reminder; peers compare the text.
pub const REMINDER_CANCELED: &str = "reminder has been canceled";
const INVOKE_PREFIX: &str = "error invoke actor method: ";

/// A failed call.
#[derive(Debug, Clone, PartialEq)]
pub enum ActorError {
    /// One of Dapr's predefined errors; it keeps its own code on every wire.
    Api(Box<ApiError>),
    /// Nobody hosts the type.
    NoAddress(ActorKey),
    /// A status from the sidecar that hosts the actor, or one that stands for a broken connection to it.
    Status {
        /// Its code.
        code: GrpcCode,
        /// Its text.
        message: String,
    },
    /// The app marked its answer as an error of the actor: the answer is handed on as it is.
    Actor(Box<InternalInvokeResponse>),
    /// The app asked to cancel the reminder; for whoever fired it this is a success.
    ReminderCanceled,
    /// The actor is hosted elsewhere by now.
    Moved,
    /// The turn was cut off, since the actor moves or the placement service is gone.
    Interrupted,
    /// The app takes no connections: it has seen nothing of the call, which another host may take. In Go's words.
    Unreached(String),
    /// Anything else, in Go's words.
    Failed(String),
}

impl ActorError {
    /// An error with this text.
    pub fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }

    /// Whether the same call may succeed once the tables have changed: the reference tries such calls again.
    pub fn is_about_placement(&self) -> bool {
        match self {
            Self::NoAddress(_) | Self::Moved | Self::Interrupted | Self::Unreached(_) => true,
            Self::Status {
                code: GrpcCode::Unavailable,
                ..
            } => true,
            Self::Status {
                code: GrpcCode::Internal,
                message,
            } => {
                message.strip_prefix(INVOKE_PREFIX) == Some(MOVED)
                    || message
                        .strip_suffix(DISSEMINATING)
                        .is_some_and(|text| text.ends_with(": "))
            }
            _ => false,
        }
    }

    /// The status for gRPC callers: apps (`InvokeActor`) and other sidecars (`CallActor`). Not for
    /// [`Self::Actor`], which is an answer there.
    pub fn grpc_status(&self) -> (GrpcCode, String) {
        match self {
            Self::Api(error) => (error.grpc, error.message.clone()),
            Self::NoAddress(_) => (GrpcCode::FailedPrecondition, self.to_string()),
            Self::Status { code, message } => (*code, message.clone()),
            _ => (GrpcCode::Internal, format!("{INVOKE_PREFIX}{self}")),
        }
    }

    /// The status of a reminder's or timer's call from another sidecar: its text is not wrapped.
    pub fn reminder_status(&self) -> (GrpcCode, String) {
        match self {
            Self::Api(error) => (error.grpc, error.message.clone()),
            Self::NoAddress(actor) => (GrpcCode::FailedPrecondition, no_address(actor).message),
            Self::Status { code, message } => (*code, message.clone()),
            _ => (GrpcCode::Unknown, self.to_string()),
        }
    }

    /// The error of `POST /v1.0/actors/…/method/…`.
    pub fn http_error(&self) -> ApiError {
        match self {
            Self::Api(error) => ApiError::clone(error),
            _ => ApiError::legacy(
                "ERR_ACTOR_INVOKE_METHOD",
                500,
                GrpcCode::Internal,
                format!("{INVOKE_PREFIX}{self}"),
            ),
        }
    }
}

impl From<ApiError> for ActorError {
    fn from(error: ApiError) -> Self {
        Self::Api(Box::new(error))
    }
}

impl std::fmt::Display for ActorError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Api(error) => nested(f, error),
            Self::NoAddress(actor) => {
                f.write_str("failed to lookup actor: ")?;
                nested(f, &no_address(actor))
            }
            Self::Status { code, message } => write!(f, "rpc error: code = {code} desc = {message}"),
            Self::Actor(_) => f.write_str("actor error"),
            Self::ReminderCanceled => f.write_str(REMINDER_CANCELED),
            Self::Moved => f.write_str(MOVED),
            Self::Interrupted => write!(f, "the turn was interrupted: {DISSEMINATING}"),
            Self::Unreached(text) | Self::Failed(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for ActorError {}

/// How the reference prints a predefined error inside another one.
fn nested(f: &mut std::fmt::Formatter<'_>, error: &ApiError) -> std::fmt::Result {
    write!(f, "api error: code = {} desc = {}", error.grpc, error.message)
}

/// `ERR_ACTOR_NO_ADDRESS`
pub fn no_address(actor: &ActorKey) -> ApiError {
    ApiError::legacy(
        "ERR_ACTOR_NO_ADDRESS",
        404,
        GrpcCode::FailedPrecondition,
        format!(
            "did not find address for actor '{}/{}'",
            actor.actor_type, actor.id
        ),
    )
}

/// `ERR_ACTOR_NO_PLACEMENT`
pub fn no_placement() -> ApiError {
    ApiError::legacy(
        "ERR_ACTOR_NO_PLACEMENT",
        400,
        GrpcCode::Unavailable,
        "placement service is not configured",
    )
}

/// `ERR_ACTOR_TYPE_RESERVED`
pub fn reserved(actor_type: &str) -> ApiError {
    ApiError::legacy(
        "ERR_ACTOR_TYPE_RESERVED",
        403,
        GrpcCode::PermissionDenied,
        format!(
            "actor type \"{actor_type}\" is reserved for the Dapr workflow runtime; direct actor API access is not permitted"
        ),
    )
}

/// `ERR_ACTOR_RUNTIME_NOT_FOUND`
pub fn no_state_store() -> ApiError {
    ApiError::legacy(
        "ERR_ACTOR_RUNTIME_NOT_FOUND",
        500,
        GrpcCode::Internal,
        "the state store is not configured to use the actor runtime. Have you set the - name: actorStateStore value: \"true\" in your state store component file?",
    )
}

/// `ERR_ACTOR_INSTANCE_MISSING`
pub fn instance_missing() -> ApiError {
    ApiError::legacy(
        "ERR_ACTOR_INSTANCE_MISSING",
        400,
        GrpcCode::Internal,
        "actor instance is missing",
    )
}

/// `ERR_ACTOR_STACK_DEPTH`
pub fn stack_depth() -> ApiError {
    ApiError::legacy(
        "ERR_ACTOR_STACK_DEPTH",
        500,
        GrpcCode::ResourceExhausted,
        "maximum stack depth exceeded",
    )
}

/// `ERR_ACTOR_RUNTIME_CLOSED`
pub fn closed() -> ApiError {
    ApiError::legacy(
        "ERR_ACTOR_RUNTIME_CLOSED",
        503,
        GrpcCode::Unavailable,
        "actor runtime is closed",
    )
}

/// `ERR_BAD_REQUEST`
pub fn bad_request(text: impl std::fmt::Display) -> ApiError {
    ApiError::legacy(
        "ERR_BAD_REQUEST",
        400,
        GrpcCode::InvalidArgument,
        format!("invalid request: {text}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_without_a_host_reads_as_recorded() {
        let error = ActorError::NoAddress(ActorKey::new("bird", "tom"));
        let text = "failed to lookup actor: api error: code = FailedPrecondition desc = did not find address for actor 'bird/tom'";
        assert_eq!(
            error.grpc_status(),
            (GrpcCode::FailedPrecondition, text.to_owned())
        );
        assert_eq!(
            error.http_error().message,
            format!("error invoke actor method: {text}")
        );
    }

    #[test]
    fn what_peers_say_about_moving_actors_is_recognised_by_its_exact_text() {
        let status = |code, text: &str| ActorError::Status {
            code,
            message: text.to_owned(),
        };
        for (error, expected) in [
            (
                status(
                    GrpcCode::Internal,
                    "error invoke actor method: remote actor moved",
                ),
                true,
            ),
            (status(GrpcCode::Internal, "remote actor moved"), false),
            (
                status(
                    GrpcCode::Internal,
                    "error invoke actor method: x: placement is disseminating",
                ),
                true,
            ),
            (status(GrpcCode::Internal, "placement is disseminating"), false),
            (status(GrpcCode::Unavailable, "x"), true),
            (status(GrpcCode::Unknown, "x"), false),
            (ActorError::failed("error from actor service: (500) x"), false),
        ] {
            assert_eq!(error.is_about_placement(), expected, "{error}");
        }
        // Our own words for a cut off turn are among them.
        let (code, message) = ActorError::Interrupted.grpc_status();
        assert!(ActorError::Status { code, message }.is_about_placement());
    }
}
