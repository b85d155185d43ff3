//! The engine: what is hosted, what is active, and how an actor's time here ends.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use outrigger_resiliency::{BuiltIn, Policy, Resiliency};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ActorKey;
use crate::config::{HostedTypes, TypeConfig};
use crate::fence::Fences;
use crate::idle::IdleQueue;
use crate::instance::{Hosted, Hosting, Instance};
use crate::metrics::{ActorObserver, Unobserved};
use crate::reminders::Reminders;
use crate::routing::Routing;
use crate::seams::{ActorPeers, ActorStores, ActorTarget, PlacementConnector};
use crate::timers::Timers;

/// How long the app may take to be told that an actor ends.
const DEACTIVATION_LIMIT: Duration = Duration::from_secs(2);
/// How long a turn that was cut off may take to let go; it is only dropped, so this is for a busy machine.
const CUT_LIMIT: Duration = Duration::from_secs(1);
/// Actors whose end the app is told at the same time.
const DEACTIVATIONS: usize = 64;

/// Who this sidecar is, and its limits.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// `--app-id`
    pub app_id: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// `host:port` of its internal API, as other sidecars reach it.
    pub own_address: String,
    /// `--actors-disseminate-timeout`
    pub round_limit: Duration,
    /// Feature `ActorStateTTL`, until [`Engine::set_state_ttl`].
    pub state_ttl: bool,
}

/// What an engine is made of.
pub struct EngineParts {
    /// Who it is.
    pub options: EngineOptions,
    /// Calls to other sidecars.
    pub peers: Arc<dyn ActorPeers>,
    /// Where state is kept.
    pub stores: Arc<dyn ActorStores>,
    /// Policies of the user.
    pub resiliency: Resiliency,
    /// Every task of the engine.
    pub tasks: TaskTracker,
    /// Told what happens, for metrics.
    pub observer: Option<Arc<dyn ActorObserver>>,
}

/// Virtual actors of one sidecar.
pub struct Engine {
    pub(crate) options: EngineOptions,
    pub(crate) peers: Arc<dyn ActorPeers>,
    pub(crate) stores: Arc<dyn ActorStores>,
    pub(crate) resiliency: Resiliency,
    pub(crate) not_found: Policy,
    pub(crate) tasks: TaskTracker,
    pub(crate) observer: Arc<dyn ActorObserver>,
    pub(crate) hosting: Hosting,
    pub(crate) routing: Routing,
    pub(crate) timers: Timers,
    pub(crate) fences: Fences,
    pub(crate) reminders: OnceLock<Arc<dyn Reminders>>,
    /// Counts changes of what is to be reported to the placement service.
    pub(crate) reported: watch::Sender<u64>,
    /// Counts turns that the app took no connection for while others host the type.
    pub(crate) unreached: watch::Sender<u64>,
    /// The connection to the placement service as of now.
    pub(crate) link: watch::Sender<Link>,
    idle: IdleQueue,
    deactivations: Semaphore,
    stopping: AtomicBool,
    /// State may have a time to live.
    pub(crate) state_ttl: AtomicBool,
    /// Actors whose end has begun, whatever became of the registration of their type.
    ends: Mutex<HashMap<ActorKey, Arc<Instance>>>,
}

/// The connection to the placement service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Link {
    /// There is a stream.
    pub connected: bool,
    /// A table is in force.
    pub ready: bool,
    /// What was last put in force, counted from reports: how many changes of the types it takes in.
    pub(crate) reported: u64,
}

/// What the metadata API tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineStatus {
    /// Active actors by type; types without any are left out.
    pub active: BTreeMap<String, usize>,
    /// A table is in force.
    pub ready: bool,
    /// There is a stream to the placement service.
    pub connected: bool,
    /// Types hosted here.
    pub types: Vec<String>,
}

/// Why an actor's time here ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Nobody called it for a while.
    Idle,
    /// It moves to another host, or its type is hosted here no more.
    Moved,
    /// The placement service is out of reach; everything must be over at this time.
    Lost(Option<Instant>),
}

impl Engine {
    /// An engine that hosts nothing and knows no table.
    pub fn new(parts: EngineParts) -> Arc<Self> {
        Arc::new(Self {
            routing: Routing::new(&parts.options.own_address),
            not_found: parts.resiliency.built_in(BuiltIn::ActorNotFoundRetries),
            state_ttl: AtomicBool::new(parts.options.state_ttl),
            options: parts.options,
            peers: parts.peers,
            stores: parts.stores,
            resiliency: parts.resiliency,
            tasks: parts.tasks,
            observer: parts.observer.unwrap_or_else(|| Arc::new(Unobserved)),
            hosting: Hosting::default(),
            timers: Timers::default(),
            fences: Fences::default(),
            reminders: OnceLock::new(),
            reported: watch::Sender::new(0),
            unreached: watch::Sender::new(0),
            link: watch::Sender::new(Link::default()),
            idle: IdleQueue::default(),
            deactivations: Semaphore::new(DEACTIVATIONS),
            stopping: AtomicBool::new(false),
            ends: Mutex::default(),
        })
    }

    /// Says who keeps reminders. Only the first call counts.
    pub fn set_reminders(&self, reminders: Arc<dyn Reminders>) {
        if self.reminders.set(reminders).is_err() {
            tracing::debug!(target: "dapr.runtime.actors", "reminders have a keeper already");
        }
    }

    /// Whether state may have a time to live (feature `ActorStateTTL`), from the next change of state on.
    pub fn set_state_ttl(&self, is_allowed: bool) {
        self.state_ttl.store(is_allowed, Ordering::Relaxed);
    }

    /// Runs until `stop`: keeps up the connection to the placement service and ends idle actors.
    pub async fn run(self: Arc<Self>, connector: Box<dyn PlacementConnector>, stop: CancellationToken) {
        tokio::join!(crate::session::run(&self, connector, &stop), self.end_idle(&stop),);
        self.routing.close();
        self.timers.clear();
    }

    async fn end_idle(self: &Arc<Self>, stop: &CancellationToken) {
        while let Some(instance) = stop.run_until_cancelled(self.idle.next()).await {
            self.release(&instance, Why::Idle);
        }
    }

    /// Hosts these types from now on; the number is for [`Self::unregister`]. Where several registrations name a type, the
    /// newest counts.
    pub fn register(self: &Arc<Self>, types: HostedTypes, target: Arc<dyn ActorTarget>) -> u64 {
        let (number, replaced) = self.hosting.add(types.types, target);
        self.end_types(&replaced);
        self.types_changed();
        number
    }

    /// Hosts the types of a registration no more: their actors end at once, and the placement service is told.
    pub fn unregister(self: &Arc<Self>, number: u64) {
        let ended = self.hosting.remove(number);
        self.end_types(&ended);
        self.types_changed();
    }

    /// Changes when the app takes no connections while others host what it hosts: time to [`Self::unregister`] it, as the calls
    /// that could not be made are tried again elsewhere.
    pub fn unreached(&self) -> watch::Receiver<u64> {
        self.unreached.subscribe()
    }

    fn end_types(self: &Arc<Self>, ended: &[Arc<Hosted>]) {
        for hosted in ended {
            self.timers.remove_type(&hosted.name);
            for instance in hosted.all() {
                self.release(&instance, Why::Moved);
            }
        }
    }

    /// What is reported to the placement service may have changed: the types, or the store.
    pub fn types_changed(&self) {
        self.reported.send_modify(|count| *count = count.wrapping_add(1));
        self.routing.announce();
    }

    /// The types that the placement service is told. None without a store: actors could keep nothing.
    pub(crate) fn types_to_report(&self) -> Vec<String> {
        if self.stopping.load(Ordering::Acquire) || self.stores.actor_store().is_none() {
            return Vec::new();
        }
        self.hosting.names()
    }

    /// `host:port` of this sidecar's internal API, as tables name it.
    pub fn own_address(&self) -> &str {
        &self.options.own_address
    }

    /// Whether a type is hosted here.
    pub fn is_hosted(&self, actor_type: &str) -> bool {
        self.hosting.get(actor_type).is_some()
    }

    /// Whether an actor is active here and may act.
    pub(crate) fn is_active(&self, actor_type: &str, id: &str) -> bool {
        let instance = self.hosting.get(actor_type).and_then(|hosted| hosted.get(id));
        instance.is_some_and(|instance| instance.may_write())
    }

    /// Resolves once the app has said what it hosts, were it nothing.
    pub(crate) async fn registered(&self) {
        let mut changes = self.reported.subscribe();
        while !self.hosting.has_registered() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// The engine as of now.
    pub fn status(&self) -> EngineStatus {
        let link = *self.link.borrow();
        EngineStatus {
            active: self
                .hosting
                .all()
                .iter()
                .map(|hosted| (hosted.name.to_string(), hosted.len()))
                .filter(|(_, count)| *count > 0)
                .collect(),
            ready: link.ready,
            connected: link.connected,
            types: self.hosting.names(),
        }
    }

    /// The connection to the placement service as it changes.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// Makes an actor active; the caller has found that it belongs here.
    pub(crate) fn activate(&self, hosted: &Arc<Hosted>, id: &str) -> Arc<Instance> {
        let (instance, is_new) = hosted.activate(id);
        if is_new {
            self.idle.watch(&instance);
        }
        instance
    }

    /// Begins the end of an actor's time here, if it has not begun; the token is cancelled when it is over.
    pub(crate) fn release(self: &Arc<Self>, instance: &Arc<Instance>, why: Why) -> CancellationToken {
        let gone = instance.gone.clone();
        if let Why::Lost(Some(end)) = why {
            instance.set_deadline(end);
        }
        if !instance.begin_release() {
            if let Why::Lost(end) = why {
                // A drain that had more time than is left now.
                self.cut_at(instance, end);
            }
            return gone;
        }
        instance.lock.close();
        self.ends().insert(instance.key.clone(), Arc::clone(instance));
        let (engine, instance) = (Arc::clone(self), Arc::clone(instance));
        self.tasks.spawn(async move { engine.end(&instance, why).await });
        gone
    }

    fn cut_at(&self, instance: &Arc<Instance>, end: Option<Instant>) {
        let Some(end) = end else { return };
        let instance = Arc::clone(instance);
        self.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep_until(end) => instance.cut.cancel(),
                () = instance.gone.cancelled() => {}
            }
        });
    }

    async fn end(&self, instance: &Arc<Instance>, why: Why) {
        let hosted = &instance.hosted;
        let mut drain = match why {
            Why::Idle => Duration::ZERO,
            Why::Moved | Why::Lost(_) => hosted.config.drain(self.options.round_limit),
        };
        if let Why::Lost(Some(end)) = why {
            drain = drain.min(end.saturating_duration_since(Instant::now()));
        }
        let over = Instant::now() + drain + DEACTIVATION_LIMIT;
        if tokio::time::timeout(drain, instance.lock.idle()).await.is_err() {
            tracing::warn!(target: "dapr.runtime.actors", actor = %instance.key,
                "a turn is cut off: it did not end within {drain:?} (drainOngoingCallTimeout)");
        }
        instance.cut.cancel();
        if tokio::time::timeout(CUT_LIMIT, instance.lock.idle())
            .await
            .is_err()
        {
            tracing::error!(target: "dapr.runtime.actors", actor = %instance.key, "a turn cannot be cut off");
        }
        let telling = async {
            let _permit = self.deactivations.acquire().await;
            hosted.target.deactivate(&instance.key).await
        };
        match tokio::time::timeout_at(over, telling).await {
            Ok(Ok(())) => self.observer.deactivated(&hosted.name),
            Ok(Err(error)) => {
                tracing::debug!(target: "dapr.runtime.actors", actor = %instance.key, "deactivation failed: {error}");
                self.observer
                    .deactivation_failed(&hosted.name, &error.to_string());
            }
            Err(_) => {
                tracing::warn!(target: "dapr.runtime.actors", actor = %instance.key,
                    "the app did not answer to the deactivation in time");
                self.observer.deactivation_failed(&hosted.name, "timeout");
            }
        }
        if why == Why::Moved {
            self.observer.rebalanced(&hosted.name);
        }
        // Writes that were let through come to their end, or to that of the time there is.
        let _ = tokio::time::timeout_at(over, instance.writes.write()).await;
        instance.gone.cancel();
        hosted.remove(instance);
        self.ends().remove(&instance.key);
    }

    fn ends(&self) -> MutexGuard<'_, HashMap<ActorKey, Arc<Instance>>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The actor of this key if its end has begun and is not complete.
    pub(crate) fn ending(&self, actor: &ActorKey) -> Option<Arc<Instance>> {
        self.ends().get(actor).cloned()
    }

    /// What completes the ends of actors that are not this sidecar's any more.
    pub(crate) fn ending_elsewhere(&self, is_ours: impl Fn(&str, &str) -> bool) -> Vec<CancellationToken> {
        self.ends()
            .values()
            .filter(|instance| !is_ours(&instance.key.actor_type, &instance.key.id))
            .map(|instance| instance.gone.clone())
            .collect()
    }

    /// All active actors, those included whose end has begun.
    pub(crate) fn instances(&self) -> Vec<Arc<Instance>> {
        self.hosting
            .all()
            .iter()
            .flat_map(|hosted| hosted.all())
            .collect()
    }

    /// Leaves in order: the types are withdrawn, the actors stay in service until a new table moves them away, then
    /// their turns end and the app is told; the engine goes on passing calls to the new owners. Returns when nothing is active here any
    /// more. Without a placement service that answers, actors end by themselves after `patience`.
    pub async fn withdraw(self: &Arc<Self>, patience: Duration) {
        let count = self.reported.borrow().wrapping_add(1);
        let had_types = !self.types_to_report().is_empty();
        self.stopping.store(true, Ordering::Release);
        self.types_changed();
        let mut link = self.link.subscribe();
        if had_types && link.borrow().ready {
            let taken_in = link.wait_for(|link| !link.connected || link.reported >= count);
            // The sender lives as long as the engine.
            let _ = tokio::time::timeout(patience, taken_in).await;
        }
        let ends: Vec<_> = self
            .instances()
            .iter()
            .map(|instance| self.release(instance, Why::Moved))
            .collect();
        for gone in ends {
            gone.cancelled().await;
        }
        self.timers.clear();
    }
}

/// Types for tests and for parts of the sidecar that host types of their own.
impl FromIterator<(String, TypeConfig)> for HostedTypes {
    fn from_iter<I: IntoIterator<Item = (String, TypeConfig)>>(types: I) -> Self {
        Self {
            types: types.into_iter().collect::<HashMap<_, _>>(),
        }
    }
}
