//! Bindings: systems outside that the app calls (output) or is called by (input) (contract
//! `bindings-secrets-…`, section 1).
//!
//! A type that works both ways registers two factories, one per direction: each makes an instance of its own.

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;

use crate::pubsub::{HandlerError, Subscription};
use crate::{ComponentError, RequestMetadata};

/// The name of an operation, e.g. `create`; compared exactly.
pub type Operation = Cow<'static, str>;

/// One call of an output binding.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct InvokeRequest {
    /// One of [`OutputBinding::operations`].
    pub operation: String,
    /// As the caller gave it: raw bytes over gRPC, re-encoded JSON over HTTP (texts keep their quotes).
    pub data: Bytes,
    /// Request metadata, with the trace and, over gRPC, the call's metadata added.
    pub metadata: RequestMetadata,
}

/// What an output binding answered.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct InvokeResponse {
    /// `None` = no data at all, which callers see as an empty body.
    pub data: Option<Bytes>,
    /// Response metadata.
    pub metadata: RequestMetadata,
}

/// A failed call of an output binding.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("{text}")]
pub struct InvokeError {
    /// What the caller is told.
    pub text: String,
    /// What the other side answered nevertheless; its metadata is handed to the caller.
    pub response: Option<InvokeResponse>,
}

impl InvokeError {
    /// An error with this text and no answer.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            response: None,
        }
    }
}

impl From<ComponentError> for InvokeError {
    fn from(error: ComponentError) -> Self {
        Self::new(error.0)
    }
}

/// A binding that the app calls.
#[async_trait]
pub trait OutputBinding: Send + Sync + 'static {
    /// What it can do, in the order in which the error about an unknown operation lists it.
    fn operations(&self) -> &[Operation];

    /// Runs an operation; the sidecar has checked that it is among [`Self::operations`]. `None` = the binding has
    /// no answer at all (204 over HTTP).
    async fn invoke(&self, request: InvokeRequest) -> Result<Option<InvokeResponse>, InvokeError>;

    /// Whether a second one of these settings cannot work beside it: when its settings change it is closed before the one
    /// that takes its place is made.
    fn excludes_another(&self) -> bool {
        false
    }

    /// Releases connections; called once.
    async fn close(&self) {}
}

/// Something that happened outside.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BindingEvent {
    /// The payload; `None` = there is none (a clock's tick).
    pub data: Option<Bytes>,
    /// Metadata: headers of an HTTP app's request.
    pub metadata: RequestMetadata,
}

/// Takes events. `Ok` with what the app answered; `Err` means: as the system outside treats a failed delivery.
#[async_trait]
pub trait BindingHandler: Send + Sync + 'static {
    /// Handles one event. May be called concurrently.
    async fn handle(&self, event: BindingEvent) -> Result<Option<Bytes>, HandlerError>;
}

/// A binding that calls the app.
#[async_trait]
pub trait InputBinding: Send + Sync + 'static {
    /// Starts reading. Returns when the source is ready to deliver. After the end of the returned [`Subscription`]
    /// it may be started again: reading pauses while the app is not healthy.
    async fn read(&self, handler: Arc<dyn BindingHandler>) -> Result<Subscription, ComponentError>;

    /// Whether a second one of these settings cannot work beside it: when its settings change it is closed before the one
    /// that takes its place is made.
    fn excludes_another(&self) -> bool {
        false
    }

    /// Releases connections; called once, after reading has ended.
    async fn close(&self) {}
}
