//! Calls to another sidecar whose messages are read and written whole: those of actors.

use http::HeaderMap;
use outrigger_trace_context::TraceContext;
use prost::Message;

use super::InvokeError;
use super::exchange::PeerBody;
use super::frames::{self, FrameReader, check_status};
use super::peer::{Lease, PeerTarget, Peers};
use super::remote;
use crate::Body;

/// Whom to call, and how.
pub struct MessageCall<'a> {
    /// Connections.
    pub peers: &'a Peers,
    /// The other sidecar.
    pub target: PeerTarget<'a>,
    /// `/package.Service/Method`
    pub path: &'static str,
    /// The span of the call.
    pub trace: Option<&'a TraceContext>,
    /// Largest answer in bytes.
    pub max_message: usize,
}

/// The answers to a call.
pub struct Answers<T> {
    reader: FrameReader<PeerBody>,
    _lease: Lease,
    _message: std::marker::PhantomData<fn() -> T>,
}

impl<T: Message + Default> Answers<T> {
    /// The next answer; `None` after the last one of a call that went well.
    pub async fn next(&mut self) -> Option<Result<T, InvokeError>> {
        match self.reader.next().await {
            Some(Ok(message)) => {
                Some(T::decode(message).map_err(|error| InvokeError::internal(error.to_string())))
            }
            Some(Err(error)) => Some(Err(error)),
            None => {
                let none = HeaderMap::new();
                check_status(self.reader.trailers().unwrap_or(&none))
                    .err()
                    .map(Err)
            }
        }
    }
}

/// A call with one answer.
///
/// # Errors
/// The callee's status, or that of a connection that failed.
pub async fn unary<T: Message + Default>(
    call: MessageCall<'_>,
    request: &impl Message,
) -> Result<T, InvokeError> {
    let mut answers = stream::<T>(call, request).await?;
    let answer = match answers.next().await {
        Some(answer) => answer?,
        None => return Err(InvokeError::internal("EOF")),
    };
    // The status may still say otherwise.
    match answers.next().await {
        Some(Err(error)) => Err(error),
        _ => Ok(answer),
    }
}

/// A call with any number of answers.
///
/// # Errors
/// As [`unary`], as far as they are known before the first answer.
pub async fn stream<T: Message + Default>(
    call: MessageCall<'_>,
    request: &impl Message,
) -> Result<Answers<T>, InvokeError> {
    let body = Body::full(frames::frame(request));
    let outgoing = remote::post(call.target.address, call.path, call.trace, body)?;
    let (response, lease) = call.peers.send(call.target, outgoing).await?;
    remote::check_head(&response)?;
    Ok(Answers {
        reader: FrameReader::new(response.into_body(), call.max_message),
        _lease: lease,
        _message: std::marker::PhantomData,
    })
}
