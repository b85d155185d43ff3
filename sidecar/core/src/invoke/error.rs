//! Why an invocation failed, with the code that decides about retries and the caller's status.

use outrigger_model::GrpcCode;

/// A failed call; the target's own HTTP or gRPC status is no failure but a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvokeError {
    /// Code for gRPC callers; `PermissionDenied` makes HTTP callers see 403.
    pub code: GrpcCode,
    /// The reason, without a prefix.
    pub message: String,
    /// The error came as a gRPC status from another sidecar or app: its text is printed in Go's form.
    pub is_status: bool,
    /// The own app takes no connections: it has seen nothing of the call.
    pub is_refused: bool,
}

impl InvokeError {
    /// A failure of this sidecar's own.
    pub fn internal(message: impl Into<String>) -> Self {
        Self {
            code: GrpcCode::Internal,
            message: message.into(),
            is_status: false,
            is_refused: false,
        }
    }

    /// A status received from a peer, or one that stands for a connection failure.
    pub fn status(code: GrpcCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            is_status: true,
            is_refused: false,
        }
    }

    /// `position` is that of the offending control character; `None` = a character with a meaning in URLs.
    pub(super) fn invalid_method(method: &str, position: Option<usize>) -> Self {
        let what = match position {
            None => "forbidden character".to_owned(),
            Some(position) => format!("control character at position {position}"),
        };
        let method = outrigger_process::quote::quote(method);
        Self::status(
            GrpcCode::InvalidArgument,
            format!("invalid method: method contains {what}: {method}"),
        )
    }

    /// Whether another attempt over a new connection may help
    /// (contract `service-invocation`, section 4: Unavailable and Unauthenticated only).
    pub const fn is_retriable(&self) -> bool {
        self.is_status && matches!(self.code, GrpcCode::Unavailable | GrpcCode::Unauthenticated)
    }
}

impl std::fmt::Display for InvokeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_status {
            write!(f, "rpc error: code = {} desc = {}", self.code, self.message)
        } else {
            f.write_str(&self.message)
        }
    }
}

impl std::error::Error for InvokeError {}
