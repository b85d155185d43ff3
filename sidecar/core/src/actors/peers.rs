//! Calls of actors that other sidecars host, over their internal API.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::stream;
use outrigger_proto::internals::v1::{InternalInvokeRequest, InternalInvokeResponse, Reminder};
use outrigger_sidecar_actors::ActorError;
use outrigger_sidecar_actors::seams::{ActorPeers, Owner, ResponseStream};
use outrigger_trace_context::TraceContext;

use crate::Identity;
use crate::invoke::InvokeError;
use crate::invoke::message_call::{self, MessageCall};
use crate::invoke::peer::{PeerTarget, Peers};

const CALL: &str = "/dapr.proto.internals.v1.ServiceInvocation/CallActor";
const REMINDER: &str = "/dapr.proto.internals.v1.ServiceInvocation/CallActorReminder";
const STREAM: &str = "/dapr.proto.internals.v1.ServiceInvocation/CallActorStream";

/// The sidecars of the other hosts.
pub struct GrpcPeers {
    peers: Arc<Peers>,
    /// Actors are called within the namespace.
    namespace: Arc<str>,
    max_message: usize,
}

impl GrpcPeers {
    /// Calls over these connections; answers may have up to `max_message` bytes.
    pub fn new(peers: Arc<Peers>, identity: &Identity, max_message: usize) -> Self {
        Self {
            peers,
            namespace: identity.namespace.clone(),
            max_message,
        }
    }

    fn call_of<'a>(
        &'a self,
        owner: &'a Owner,
        path: &'static str,
        trace: Option<&'a TraceContext>,
    ) -> MessageCall<'a> {
        MessageCall {
            peers: &self.peers,
            target: PeerTarget {
                address: &owner.address,
                namespace: &self.namespace,
                app_id: &owner.app_id,
            },
            path,
            trace,
            max_message: self.max_message,
        }
    }

    /// A connection that broke is made anew by the next call.
    fn failed(&self, owner: &Owner, error: InvokeError) -> ActorError {
        if error.is_retriable() {
            self.peers.forget(&owner.address);
        }
        if error.is_status {
            return ActorError::Status {
                code: error.code,
                message: error.message,
            };
        }
        ActorError::failed(error.message)
    }
}

#[async_trait]
impl ActorPeers for GrpcPeers {
    async fn call(
        &self,
        owner: &Owner,
        request: &InternalInvokeRequest,
        trace: Option<&TraceContext>,
    ) -> Result<InternalInvokeResponse, ActorError> {
        let call = self.call_of(owner, CALL, trace);
        message_call::unary(call, request)
            .await
            .map_err(|error| self.failed(owner, error))
    }

    async fn fire(
        &self,
        owner: &Owner,
        reminder: Reminder,
        trace: Option<&TraceContext>,
    ) -> Result<(), ActorError> {
        let call = self.call_of(owner, REMINDER, trace);
        match message_call::unary::<()>(call, &reminder).await {
            Ok(()) => Ok(()),
            Err(error) if error.message == outrigger_sidecar_actors::error::REMINDER_CANCELED => {
                Err(ActorError::ReminderCanceled)
            }
            Err(error) => Err(self.failed(owner, error)),
        }
    }

    async fn stream(
        &self,
        owner: &Owner,
        request: &InternalInvokeRequest,
        trace: Option<&TraceContext>,
    ) -> Result<ResponseStream, ActorError> {
        let call = self.call_of(owner, STREAM, trace);
        let answers = message_call::stream(call, request)
            .await
            .map_err(|error| self.failed(owner, error))?;
        let messages = stream::unfold(Some(answers), |answers| async move {
            let mut answers = answers?;
            match answers.next().await {
                None => None,
                Some(Ok(message)) => Some((Ok(message), Some(answers))),
                Some(Err(error)) => {
                    let error = ActorError::Status {
                        code: error.code,
                        message: error.message,
                    };
                    Some((Err(error), None))
                }
            }
        });
        Ok(messages.boxed())
    }
}
