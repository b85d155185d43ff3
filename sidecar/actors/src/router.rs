//! Where a call goes: the turn of an own actor, or the sidecar that hosts it (contract `actors`, section 4).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use outrigger_model::{ApiError, GrpcCode};
use outrigger_proto::internals::v1::{
    InternalInvokeRequest, InternalInvokeResponse, ListStringValue, Reminder,
};
use outrigger_resiliency::{Failure, Policy, PolicyError};
use outrigger_trace_context::TraceContext;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::config::DEFAULT_DRAIN;
use crate::engine::Engine;
use crate::error;
use crate::instance::Instance;
use crate::lock::LockError;
use crate::reminders::ReminderCall;
use crate::routing::Whose;
use crate::seams::{Owner, ResponseStream, TurnContext};
use crate::{ActorError, ActorKey};

/// Joins a call to the chain that it belongs to; exactly this spelling, in which Go's sidecars look for it.
pub const REENTRANCY_ID: &str = "Dapr-Reentrancy-Id";
/// Marks calls that came from another sidecar.
pub const REMOTE: &str = "X-Dapr-Remote";
/// Marks calls that a sidecar passed on, so that they are not passed on again.
const FORWARDED: &str = "X-Outrigger-Forwarded";
/// How long a call waits for a table. Go's waits for ever, which its callers take for a hang.
const LOOKUP_LIMIT: Duration = Duration::from_secs(60);
/// How long a turn goes on for a caller that has gone away.
const ABANDONED_LIMIT: Duration = Duration::from_secs(30);

/// What is to be done in a turn.
#[derive(Clone)]
enum Work {
    Invoke(Arc<InternalInvokeRequest>),
    Fire(Arc<ReminderCall>),
}

/// Where an actor is.
enum Located {
    Here(Arc<Instance>),
    There(Owner),
}

/// Why a turn has no result.
enum TurnError {
    /// The actor is on its way out: look again.
    Closed,
    Failed(ActorError),
}

impl Engine {
    /// Calls a method, wherever the actor is. The reference's built-in retries apply unless the user has a policy for the type;
    /// that one is the caller's to apply, see [`crate::service::ActorService`].
    ///
    /// # Errors
    /// See [`ActorError`].
    pub async fn invoke(
        self: &Arc<Self>,
        request: InternalInvokeRequest,
        trace: Option<TraceContext>,
    ) -> Result<InternalInvokeResponse, ActorError> {
        let key = actor_of(&request);
        let request = Arc::new(request);
        self.with_retries(&key, |key| {
            let (request, trace) = (Arc::clone(&request), trace.clone());
            async move { self.attempt(key, request, trace).await }
        })
        .await
    }

    async fn with_retries<T, F, Fut>(&self, key: &ActorKey, mut attempt: F) -> Result<T, ActorError>
    where
        F: FnMut(ActorKey) -> Fut,
        Fut: Future<Output = Result<T, ActorError>>,
    {
        let policy = if self.resiliency.has_actor(&key.actor_type) {
            &Policy::NONE
        } else {
            &self.not_found
        };
        policy
            .run(
                |_| {
                    let attempt = attempt(key.clone());
                    async move {
                        attempt.await.map_err(|error| {
                            if error.is_about_placement() {
                                Failure::new(error)
                            } else {
                                Failure::permanent(error)
                            }
                        })
                    }
                },
                policy_error,
            )
            .await
    }

    async fn attempt(
        self: &Arc<Self>,
        key: ActorKey,
        request: Arc<InternalInvokeRequest>,
        trace: Option<TraceContext>,
    ) -> Result<InternalInvokeResponse, ActorError> {
        let chain = chain_of(&request);
        loop {
            match self.locate(&key, chain).await? {
                Located::Here(instance) => {
                    match self
                        .turn(
                            &instance,
                            chain,
                            Work::Invoke(Arc::clone(&request)),
                            trace.clone(),
                        )
                        .await
                    {
                        Ok(response) => return Ok(response.unwrap_or_default()),
                        Err(TurnError::Failed(error)) => return Err(error),
                        Err(TurnError::Closed) => self.wait_out(&instance).await,
                    }
                }
                Located::There(owner) => return self.call_peer(&key, &owner, &request, trace.as_ref()).await,
            }
        }
    }

    async fn call_peer(
        &self,
        key: &ActorKey,
        owner: &Owner,
        request: &Arc<InternalInvokeRequest>,
        trace: Option<&TraceContext>,
    ) -> Result<InternalInvokeResponse, ActorError> {
        let is_remote = request.metadata.contains_key(REMOTE);
        let passed_on = if is_remote {
            Some(pass_on(request).ok_or(ActorError::Moved)?)
        } else {
            None
        };
        let outgoing = passed_on.as_ref().unwrap_or(request);
        let answer = tokio::select! {
            answer = self.peers.call(owner, outgoing, trace) => answer?,
            () = self.left(key, owner) => return Err(ActorError::Interrupted),
        };
        if is_actor_error(&answer) {
            return Err(ActorError::Actor(Box::new(answer)));
        }
        Ok(answer)
    }

    /// Resolves when the actor has been somewhere else for longer than its old host may take to end its turns: an answer
    /// from there is not to be expected any more.
    async fn left(&self, key: &ActorKey, owner: &Owner) {
        let mut changes = self.routing.subscribe();
        let is_elsewhere = || {
            let state = self.routing.state();
            let current = state.current.as_ref();
            current.is_some_and(|tables| {
                tables
                    .owner(&key.actor_type, &key.id)
                    .is_none_or(|host| *host.address != *owner.address)
            })
        };
        loop {
            if is_elsewhere() {
                tokio::time::sleep(DEFAULT_DRAIN + Duration::from_secs(1)).await;
                if is_elsewhere() {
                    return;
                }
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// A reminder or timer that is due, wherever its actor is.
    ///
    /// # Errors
    /// See [`ActorError`]; [`ActorError::ReminderCanceled`] if the app asked for it.
    pub async fn fire(
        self: &Arc<Self>,
        call: ReminderCall,
        trace: Option<TraceContext>,
    ) -> Result<(), ActorError> {
        self.fire_from(call, trace, false).await
    }

    /// As [`Self::fire`], asked for by another sidecar: it is not passed on.
    ///
    /// # Errors
    /// As [`Self::fire`], and [`ActorError::Moved`].
    pub async fn fire_for_peer(
        self: &Arc<Self>,
        call: ReminderCall,
        trace: Option<TraceContext>,
    ) -> Result<(), ActorError> {
        self.fire_from(call, trace, true).await
    }

    async fn fire_from(
        self: &Arc<Self>,
        call: ReminderCall,
        trace: Option<TraceContext>,
        is_remote: bool,
    ) -> Result<(), ActorError> {
        let call = Arc::new(call);
        let attempt = |key: ActorKey| {
            let (call, trace) = (Arc::clone(&call), trace.clone());
            async move { self.fire_once(key, call, trace, is_remote).await }
        };
        let result = if call.skip_lock {
            attempt(call.actor.clone()).await
        } else {
            self.with_retries(&call.actor, attempt).await
        };
        let success = matches!(result, Ok(()) | Err(ActorError::ReminderCanceled));
        if !is_remote {
            self.observer
                .fired(&call.actor.actor_type, call.timer.is_some(), success);
        }
        result
    }

    async fn fire_once(
        self: &Arc<Self>,
        key: ActorKey,
        call: Arc<ReminderCall>,
        trace: Option<TraceContext>,
        is_remote: bool,
    ) -> Result<(), ActorError> {
        loop {
            match self.locate(&key, None).await? {
                Located::Here(instance) => {
                    match self
                        .turn(&instance, None, Work::Fire(Arc::clone(&call)), trace.clone())
                        .await
                    {
                        Ok(_) => return Ok(()),
                        Err(TurnError::Failed(error)) => return Err(error),
                        Err(TurnError::Closed) => self.wait_out(&instance).await,
                    }
                }
                Located::There(_) if is_remote => return Err(ActorError::Moved),
                Located::There(owner) => {
                    return tokio::select! {
                        answer = self.peers.fire(&owner, to_wire(&call), trace.as_ref()) => answer,
                        () = self.left(&key, &owner) => Err(ActorError::Interrupted),
                    };
                }
            }
        }
    }

    /// Calls a method with many answers; for the workflow engine's actors only, and without waiting for a turn, which is
    /// theirs to do.
    ///
    /// # Errors
    /// See [`ActorError`].
    pub async fn stream(
        self: &Arc<Self>,
        request: InternalInvokeRequest,
        trace: Option<TraceContext>,
    ) -> Result<ResponseStream, ActorError> {
        let key = actor_of(&request);
        let request = Arc::new(request);
        let open = |key: ActorKey| {
            let (request, trace) = (Arc::clone(&request), trace.clone());
            async move {
                match self.locate(&key, None).await? {
                    Located::Here(instance) => {
                        instance.touch();
                        let target = Arc::clone(&instance.hosted.target);
                        target.stream(&instance.key, request).await
                    }
                    Located::There(_) if request.metadata.contains_key(REMOTE) => Err(ActorError::Moved),
                    Located::There(owner) => self.peers.stream(&owner, &request, trace.as_ref()).await,
                }
            }
        };
        self.with_retries(&key, open).await
    }

    /// Finds the actor; waits while it moves or no table is there.
    async fn locate(&self, key: &ActorKey, chain: Option<&str>) -> Result<Located, ActorError> {
        let mut changes = None;
        let limit = Instant::now() + LOOKUP_LIMIT;
        loop {
            if let Some(located) = self.try_locate(key, chain)? {
                return Ok(located);
            }
            // Subscribed only now, since most calls never wait; hence once more before waiting.
            let Some(changes) = &mut changes else {
                changes = Some(self.routing.subscribe());
                continue;
            };
            match tokio::time::timeout_at(limit, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(error::closed().into()),
                Err(_) => return Err(no_table().into()),
            }
        }
    }

    fn try_locate(&self, key: &ActorKey, chain: Option<&str>) -> Result<Option<Located>, ActorError> {
        // Held until the actor is in the list of active ones: an update looks through that list.
        let state = self.routing.state();
        match self.routing.whose(&state, &key.actor_type, &key.id) {
            Whose::Own => {
                let Some(hosted) = self.hosting.get(&key.actor_type) else {
                    // The table is not of today: the next one will say who else.
                    return Ok(None);
                };
                // Its last time here must be over, even if that was under an earlier registration of the type.
                if let Some(ending) = self.ending(key) {
                    return Ok(Some(Located::Here(ending)));
                }
                Ok(Some(Located::Here(self.activate(&hosted, &key.id))))
            }
            Whose::Other(host) => Ok(Some(Located::There(Owner {
                address: (&*host.address).into(),
                app_id: (&*host.app_id).into(),
            }))),
            Whose::Nobody => Err(ActorError::NoAddress(key.clone())),
            Whose::Closed => Err(error::closed().into()),
            Whose::Unsettled => Ok(self.running_chain(key, chain).map(Located::Here)),
        }
    }

    /// A turn of an actor on its way out can only end if its own calls get through.
    fn running_chain(&self, key: &ActorKey, chain: Option<&str>) -> Option<Arc<Instance>> {
        let instance = self.hosting.get(&key.actor_type)?.get(&key.id)?;
        instance.lock.runs(chain?).then_some(instance)
    }

    /// Waits until the end of an actor's time here is complete.
    async fn wait_out(self: &Arc<Self>, instance: &Arc<Instance>) {
        instance.gone.cancelled().await;
    }

    /// Waits for the actor's turn and does the work in it. The turn goes on if the caller goes away: the actor stays locked until
    /// the app has answered.
    async fn turn(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        chain: Option<&str>,
        work: Work,
        trace: Option<TraceContext>,
    ) -> Result<Option<InternalInvokeResponse>, TurnError> {
        let config = &instance.hosted.config;
        let chain: Option<Arc<str>> = config.reentrancy.map(|_| match chain {
            Some(id) => id.into(),
            None => uuid::Uuid::new_v4().to_string().into(),
        });
        let _pending = Pending::new(self, instance);
        let turn = if config.turns && !matches!(&work, Work::Fire(call) if call.skip_lock) {
            let joined = chain.as_deref().zip(config.reentrancy);
            Some(
                instance
                    .lock
                    .acquire(joined)
                    .await
                    .map_err(|error| lock_error(instance, error))?,
            )
        } else if instance.is_releasing() {
            return Err(TurnError::Closed);
        } else {
            None
        };
        let joins = chain.is_some() && instance.is_releasing();
        if !joins && !self.routing.may_act() {
            return Err(self.interrupted(instance));
        }
        instance.touch();
        let context = TurnContext { chain, trace };
        let (engine, instance) = (Arc::clone(self), Arc::clone(instance));
        let doing = Box::pin(async move {
            // Given up at the end, not before.
            let _turn = turn;
            tokio::select! {
                biased;
                done = engine.work(&instance, work, context) => done.map_err(|error| engine.judge(&instance, error)),
                () = instance.cut.cancelled() => Err(ActorError::Interrupted),
            }
        });
        let done = Doing {
            doing: Some(doing),
            tasks: self.tasks.clone(),
        };
        done.await.map_err(TurnError::Failed)
    }

    /// What becomes of a turn that the app took no connection for. Where others host the type, they are to take the call and
    /// the app's other actors; where nobody does, this one goes on trying, as the reference does.
    fn judge(&self, instance: &Instance, error: ActorError) -> ActorError {
        match error {
            ActorError::Unreached(text) if !self.is_hosted_elsewhere(&instance.key.actor_type) => {
                ActorError::Failed(text)
            }
            ActorError::Unreached(_) => {
                self.unreached.send_modify(|count| *count = count.wrapping_add(1));
                error
            }
            other => other,
        }
    }

    fn is_hosted_elsewhere(&self, actor_type: &str) -> bool {
        let state = self.routing.state();
        let table = state.current.as_ref().and_then(|tables| tables.table(actor_type));
        table.is_some_and(|table| {
            table
                .hosts()
                .iter()
                .any(|host| !self.routing.is_own(&host.address))
        })
    }

    /// The right to act went while the turn was waited for.
    fn interrupted(self: &Arc<Self>, instance: &Arc<Instance>) -> TurnError {
        if instance.lock.is_closed() {
            TurnError::Closed
        } else {
            TurnError::Failed(ActorError::Interrupted)
        }
    }

    async fn work(
        &self,
        instance: &Arc<Instance>,
        work: Work,
        context: TurnContext,
    ) -> Result<Option<InternalInvokeResponse>, ActorError> {
        let (key, target) = (&instance.key, &instance.hosted.target);
        let policy = self.resiliency.actor_after_lock(&key.actor_type, &key.id);
        let doing = async {
            match work {
                Work::Invoke(request) => target.invoke(key, request, context).await.map(Some),
                Work::Fire(call) => target.fire(&call, context).await.map(|()| None),
            }
        };
        match policy.timeout() {
            None => doing.await,
            Some(limit) => tokio::time::timeout(limit, doing)
                .await
                .unwrap_or_else(|_| Err(policy_error(PolicyError::Timeout))),
        }
    }
}

/// What is done in a turn: by its caller, and once that has gone away by a task, until the app has answered or for
/// [`ABANDONED_LIMIT`].
struct Doing<F: Future + Send + 'static> {
    doing: Option<Pin<Box<F>>>,
    tasks: TaskTracker,
}

impl<F: Future + Send + 'static> Future for Doing<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(doing) = &mut self.doing else {
            // Nobody asks again for what was given already.
            return Poll::Pending;
        };
        let done = ready!(doing.as_mut().poll(cx));
        self.doing = None;
        Poll::Ready(done)
    }
}

impl<F: Future + Send + 'static> Drop for Doing<F> {
    fn drop(&mut self) {
        // Without a runtime the process ends, and the turn with it.
        if let Some(doing) = self.doing.take()
            && let Ok(runtime) = Handle::try_current()
        {
            self.tasks.spawn_on(
                async move {
                    let _ = tokio::time::timeout(ABANDONED_LIMIT, doing).await;
                },
                &runtime,
            );
        }
    }
}

/// Counts a call from the moment it wants a turn.
struct Pending<'a> {
    engine: &'a Engine,
    instance: &'a Instance,
}

impl<'a> Pending<'a> {
    fn new(engine: &'a Engine, instance: &'a Instance) -> Self {
        engine.observer.pending_calls(&instance.key.actor_type, 1);
        Self { engine, instance }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.engine
            .observer
            .pending_calls(&self.instance.key.actor_type, -1);
    }
}

/// The actor that a request is for. Without a type or an id it is for none, which nobody hosts.
pub(crate) fn actor_of(request: &InternalInvokeRequest) -> ActorKey {
    match &request.actor {
        Some(actor) if !actor.actor_type.is_empty() && !actor.actor_id.is_empty() => {
            ActorKey::new(actor.actor_type.as_str(), actor.actor_id.as_str())
        }
        _ => ActorKey::new("", ""),
    }
}

fn chain_of(request: &InternalInvokeRequest) -> Option<&str> {
    let id = request.metadata.get(REENTRANCY_ID)?.values.first()?;
    Some(id.as_str()).filter(|id| !id.is_empty())
}

/// Whether the app marked its answer as an error of the actor.
pub fn is_actor_error(answer: &InternalInvokeResponse) -> bool {
    const MARK: &str = "X-Daprerrorresponseheader";
    answer
        .headers
        .get(MARK)
        .is_some_and(|values| !values.values.is_empty())
}

/// A call that came here though the actor is elsewhere, as it is passed on; `None` if it was passed on before.
fn pass_on(request: &InternalInvokeRequest) -> Option<Arc<InternalInvokeRequest>> {
    if request.metadata.contains_key(FORWARDED) {
        return None;
    }
    let mut request = request.clone();
    request.metadata.remove(REMOTE);
    let mark = ListStringValue {
        values: vec!["true".to_owned()],
    };
    request.metadata.insert(FORWARDED.to_owned(), mark);
    Some(Arc::new(request))
}

fn to_wire(call: &ReminderCall) -> Reminder {
    // The year 1, which is how Go's zero time reads.
    let never = prost_types::Timestamp {
        seconds: -62_135_596_800,
        nanos: 0,
    };
    Reminder {
        actor_id: call.actor.id.to_string(),
        actor_type: call.actor.actor_type.to_string(),
        name: call.name.clone(),
        data: call.data.clone(),
        period: call.period.clone(),
        registered_time: Some(never),
        due_time: call.due_time.clone(),
        expiration_time: Some(never),
        is_timer: call.timer.is_some(),
        skip_lock: call.skip_lock,
    }
}

fn lock_error(instance: &Instance, error: LockError) -> TurnError {
    match error {
        LockError::Closed => TurnError::Closed,
        LockError::TooDeep => TurnError::Failed(error::stack_depth().into()),
        LockError::TooManyWaiting => TurnError::Failed(ActorError::failed(format!(
            "{} calls wait for actor {} already",
            crate::lock::MAX_WAITING,
            instance.key
        ))),
    }
}

pub(crate) fn policy_error(error: PolicyError) -> ActorError {
    ActorError::failed(error.to_string())
}

fn no_table() -> ApiError {
    ApiError::legacy(
        "ERR_ACTOR_NO_PLACEMENT",
        503,
        GrpcCode::Unavailable,
        format!(
            "the placement service has sent no table for {} s: check --placement-host-address and the service",
            LOOKUP_LIMIT.as_secs()
        ),
    )
}
