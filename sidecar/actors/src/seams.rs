//! What the engine asks of the world around it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use outrigger_components_api::state::StateStore;
use outrigger_proto::internals::v1::{InternalInvokeRequest, InternalInvokeResponse, Reminder};
use outrigger_proto::placement::v1::{Host, PlacementOrder};
use outrigger_trace_context::TraceContext;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::reminders::ReminderCall;
use crate::{ActorError, ActorKey};

/// Several answers to one call, for the workflow engine.
pub type ResponseStream = BoxStream<'static, Result<InternalInvokeResponse, ActorError>>;

/// What belongs to one turn.
#[derive(Debug, Clone, Default)]
pub struct TurnContext {
    /// The id of the turn's chain of calls, if the type allows reentrancy; the app gets it in `Dapr-Reentrancy-Id`.
    pub chain: Option<Arc<str>>,
    /// The span of the call.
    pub trace: Option<TraceContext>,
}

/// Where the code of actors runs: the app, or the workflow engine. Called only while the actor is active here, one turn
/// at a time. A dropped call is one that was cut off.
#[async_trait]
pub trait ActorTarget: Send + Sync + 'static {
    /// Calls a method. Metadata keys are spelled as on the internal wire.
    async fn invoke(
        &self,
        actor: &ActorKey,
        request: Arc<InternalInvokeRequest>,
        context: TurnContext,
    ) -> Result<InternalInvokeResponse, ActorError>;

    /// Tells that a reminder or timer is due.
    async fn fire(&self, call: &ReminderCall, context: TurnContext) -> Result<(), ActorError>;

    /// Tells that the actor is not active here any more.
    async fn deactivate(&self, actor: &ActorKey) -> Result<(), ActorError>;

    /// Calls a method with many answers.
    async fn stream(
        &self,
        _actor: &ActorKey,
        _request: Arc<InternalInvokeRequest>,
    ) -> Result<ResponseStream, ActorError> {
        Err(ActorError::failed("not implemented"))
    }
}

/// The sidecar that hosts an actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// `host:port` of its internal API.
    pub address: Arc<str>,
    /// The app beside it, which its certificate must name.
    pub app_id: Arc<str>,
}

/// Calls to other sidecars.
#[async_trait]
pub trait ActorPeers: Send + Sync + 'static {
    /// `CallActor`
    async fn call(
        &self,
        owner: &Owner,
        request: &InternalInvokeRequest,
        trace: Option<&TraceContext>,
    ) -> Result<InternalInvokeResponse, ActorError>;

    /// `CallActorReminder`
    async fn fire(
        &self,
        owner: &Owner,
        reminder: Reminder,
        trace: Option<&TraceContext>,
    ) -> Result<(), ActorError>;

    /// `CallActorStream`
    async fn stream(
        &self,
        _owner: &Owner,
        _request: &InternalInvokeRequest,
        _trace: Option<&TraceContext>,
    ) -> Result<ResponseStream, ActorError> {
        Err(ActorError::failed("not implemented"))
    }
}

/// The store in which actors keep their state.
#[derive(Clone)]
pub struct ActorStore {
    /// The component's name.
    pub name: Arc<str>,
    /// The store; it has transactions and ETags.
    pub store: Arc<dyn StateStore>,
}

/// Finds the store; components come and go.
pub trait ActorStores: Send + Sync + 'static {
    /// The store as of now.
    fn actor_store(&self) -> Option<ActorStore>;
}

/// When something was last heard from the placement service. Whoever reads its connection tells it of every byte, pings
/// too. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Heard {
    start: Instant,
    millis: Arc<AtomicU64>,
}

impl Default for Heard {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            millis: Arc::default(),
        }
    }
}

impl Heard {
    /// Something was heard just now.
    pub fn now(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.millis.fetch_max(millis, Ordering::Release);
    }

    /// When something was last heard; the start if nothing was.
    pub fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.millis.load(Ordering::Acquire))
    }
}

/// An open stream to the placement service.
pub struct PlacementStream {
    /// What this sidecar says. Dropping it ends the stream in order.
    pub reports: mpsc::Sender<Host>,
    /// What the service says; the end of it, or an error, is the end of the stream.
    pub orders: BoxStream<'static, Result<StreamEvent, StreamEnd>>,
    /// When something was last heard.
    pub heard: Heard,
}

/// Terms on which a placement service grants leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTerms {
    /// How long a lease runs (`outrigger-lease-ms`).
    pub length: Duration,
    /// Greater for every later leader (`outrigger-epoch`), for fences in the store; `None`: it tells none.
    pub epoch: Option<u64>,
}

/// What comes from the placement service.
#[derive(Debug, Clone, PartialEq)]
pub enum StreamEvent {
    /// The stream was accepted; the terms of leases if the service grants any (docs/ACTORS.md).
    Accepted(Option<LeaseTerms>),
    /// An order.
    Order(PlacementOrder),
}

/// Why there is no stream (any more).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct StreamEnd {
    /// The replica is not the leader: another one is to be asked at once.
    pub not_leader: bool,
    /// For the log.
    pub reason: String,
}

/// Opens streams to the placement service.
#[async_trait]
pub trait PlacementConnector: Send + 'static {
    /// Connects to the next replica; names are resolved anew each time.
    async fn connect(&mut self, first: Host) -> Result<PlacementStream, StreamEnd>;

    /// How many replicas there are to go round, as far as known; at least 1.
    fn replicas(&self) -> usize;
}
