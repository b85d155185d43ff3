//! Several engines and a placement service of a few lines, in virtual time: nobody acts twice, nothing acknowledged is
//! lost, and what was lost is found again.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use outrigger_components_api::InitContext;
use outrigger_components_memory as memory;
use outrigger_model::GrpcCode;
use outrigger_proto::common::v1::InvokeRequest;
use outrigger_proto::internals::v1::{
    Actor, InternalInvokeRequest, InternalInvokeResponse, ListStringValue, Reminder,
};
use outrigger_proto::placement::v1::{Host, PlacementOrder, PlacementTable, PlacementTables};
use outrigger_resiliency::Resiliency;
use outrigger_sidecar_actors::config::{HostedTypes, TypeConfig};
use outrigger_sidecar_actors::reminders::ReminderCall;
use outrigger_sidecar_actors::router::REMOTE;
use outrigger_sidecar_actors::seams::{
    ActorPeers, ActorTarget, Heard, LeaseTerms, Owner, PlacementConnector, PlacementStream, StreamEnd,
    StreamEvent, TurnContext,
};
use outrigger_sidecar_actors::state::OneStore;
use outrigger_sidecar_actors::{ActorError, ActorKey, Engine, EngineOptions, EngineParts};
use outrigger_trace_context::TraceContext;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const LEASE: Duration = Duration::from_secs(3);

/// What all hosts of a test share.
#[derive(Default)]
struct World {
    engines: Mutex<HashMap<String, Arc<Engine>>>,
    /// Who is in a turn, by actor.
    running: Mutex<HashMap<String, String>>,
    turns: Mutex<BTreeMap<String, usize>>,
    deactivated: Mutex<Vec<String>>,
    doubles: Mutex<Vec<String>>,
}

/// The app of one host.
struct App {
    world: Arc<World>,
    address: String,
}

/// Leaves the turn, however it ends.
struct InTurn<'a>(&'a World, String);

impl Drop for InTurn<'_> {
    fn drop(&mut self) {
        self.0.running.lock().unwrap().remove(&self.1);
    }
}

#[async_trait]
impl ActorTarget for App {
    async fn invoke(
        &self,
        actor: &ActorKey,
        _request: Arc<InternalInvokeRequest>,
        _context: TurnContext,
    ) -> Result<InternalInvokeResponse, ActorError> {
        let id = actor.to_string();
        let other = self
            .world
            .running
            .lock()
            .unwrap()
            .insert(id.clone(), self.address.clone());
        if let Some(other) = other {
            self.world
                .doubles
                .lock()
                .unwrap()
                .push(format!("{id}: {other} and {}", self.address));
        }
        let _turn = InTurn(&self.world, id.clone());
        sleep(Duration::from_millis(20)).await;
        *self.world.turns.lock().unwrap().entry(id).or_default() += 1;
        Ok(InternalInvokeResponse::default())
    }

    async fn fire(&self, _call: &ReminderCall, _context: TurnContext) -> Result<(), ActorError> {
        Ok(())
    }

    async fn deactivate(&self, actor: &ActorKey) -> Result<(), ActorError> {
        self.world
            .deactivated
            .lock()
            .unwrap()
            .push(format!("{} {actor}", self.address));
        Ok(())
    }
}

struct Peers(Arc<World>);

#[async_trait]
impl ActorPeers for Peers {
    async fn call(
        &self,
        owner: &Owner,
        request: &InternalInvokeRequest,
        trace: Option<&TraceContext>,
    ) -> Result<InternalInvokeResponse, ActorError> {
        sleep(Duration::from_millis(1)).await;
        let engine = self.0.engines.lock().unwrap().get(&*owner.address).cloned();
        let Some(engine) = engine else {
            return Err(ActorError::Status {
                code: GrpcCode::Unavailable,
                message: "connection refused".into(),
            });
        };
        let mut request = request.clone();
        request.metadata.insert(
            REMOTE.into(),
            ListStringValue {
                values: vec!["true".into()],
            },
        );
        // What the callee's edge makes of an error.
        let answer = engine.invoke(request, trace.cloned()).await;
        answer.map_err(|error| {
            let (code, message) = error.grpc_status();
            ActorError::Status { code, message }
        })
    }

    async fn fire(&self, _: &Owner, _: Reminder, _: Option<&TraceContext>) -> Result<(), ActorError> {
        Ok(())
    }
}

enum Event {
    Open(usize, mpsc::Sender<PlacementOrder>),
    Said(usize, Host),
    Closed(usize),
    /// Nothing goes through to or from this address any more.
    Cut(String),
    /// Its lease is over.
    Gone(String),
}

/// Knows every stream; one round at a time.
struct Placement {
    events: mpsc::Sender<Event>,
    streams: BTreeMap<usize, (mpsc::Sender<PlacementOrder>, Option<Host>)>,
    version: u64,
    dirty: bool,
}

impl Placement {
    async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        loop {
            while self.dirty {
                self.dirty = false;
                self.round(&mut events).await;
            }
            let Some(event) = events.recv().await else { return };
            self.take(event).await;
        }
    }

    async fn round(&mut self, events: &mut mpsc::Receiver<Event>) {
        self.version += 1;
        for (operation, acknowledged) in [("lock", 2), ("update", 3), ("unlock", 4)] {
            let order = PlacementOrder {
                tables: (operation == "update").then(|| self.tables()),
                operation: operation.into(),
                version: self.version,
            };
            let mut awaited: Vec<usize> = self.streams.keys().copied().collect();
            for (to, _) in self.streams.values() {
                let _ = to.send(order.clone()).await;
            }
            while !awaited.is_empty() {
                let Some(event) = events.recv().await else { return };
                match event {
                    Event::Said(from, host)
                        if host.operation == acknowledged && host.version == Some(self.version) =>
                    {
                        awaited.retain(|stream| *stream != from);
                    }
                    event => self.take(event).await,
                }
                awaited.retain(|stream| self.streams.contains_key(stream));
                if self.dirty {
                    return;
                }
            }
        }
    }

    async fn take(&mut self, event: Event) {
        match event {
            Event::Open(stream, to) => drop(self.streams.insert(stream, (to, None))),
            Event::Closed(stream) => {
                let known = self.streams.remove(&stream);
                self.dirty |= known.is_some_and(|(_, host)| host.is_some_and(|h| !h.entities.is_empty()));
            }
            Event::Cut(address) => {
                // What our service does: the lease is waited for, and its eighth.
                let events = self.events.clone();
                tokio::spawn(async move {
                    sleep(LEASE + LEASE / 8).await;
                    let _ = events.send(Event::Gone(address)).await;
                });
            }
            Event::Gone(address) => {
                self.streams
                    .retain(|_, (_, host)| host.as_ref().is_none_or(|h| h.name != address));
                self.dirty = true;
            }
            Event::Said(stream, host) => {
                let Some((to, known)) = self.streams.get_mut(&stream) else {
                    return;
                };
                match host.operation {
                    1 => {
                        *known = Some(host);
                        self.dirty = true;
                    }
                    5 => {
                        let order = PlacementOrder {
                            operation: "lease".into(),
                            version: host.version.unwrap_or_default(),
                            tables: None,
                        };
                        let _ = to.send(order).await;
                    }
                    _ => {}
                }
            }
        }
    }

    fn tables(&self) -> PlacementTables {
        let hosts = self.streams.values().filter_map(|(_, host)| host.clone());
        let load_map: HashMap<_, _> = hosts
            .filter(|host| !host.entities.is_empty())
            .map(|host| (host.name.clone(), host))
            .collect();
        let table = PlacementTable {
            load_map,
            ..PlacementTable::default()
        };
        PlacementTables {
            entries: [("T".to_owned(), table)].into(),
            replication_factor: 100,
            ..PlacementTables::default()
        }
    }
}

/// Streams of one host; `cut` swallows everything in both directions.
struct Connector {
    events: mpsc::Sender<Event>,
    streams: Arc<Mutex<usize>>,
    cut: CancellationToken,
    drop_stream: Arc<tokio::sync::Notify>,
    /// Nothing answers at the service's address.
    away: Arc<AtomicBool>,
}

#[async_trait]
impl PlacementConnector for Connector {
    async fn connect(&mut self, first: Host) -> Result<PlacementStream, StreamEnd> {
        if self.cut.is_cancelled() {
            return std::future::pending().await;
        }
        if self.away.load(Ordering::SeqCst) {
            return Err(StreamEnd {
                not_leader: false,
                reason: "connection refused".into(),
            });
        }
        let stream = {
            let mut streams = self.streams.lock().unwrap();
            *streams += 1;
            *streams
        };
        let (reports, mut said) = mpsc::channel::<Host>(32);
        let (to, orders) = mpsc::channel(64);
        reports.try_send(first).expect("there is room");
        let (events, cut, dropped) = (self.events.clone(), self.cut.clone(), self.drop_stream.clone());
        let ended = CancellationToken::new();
        let end = ended.clone();
        tokio::spawn(async move {
            let _ = events.send(Event::Open(stream, to)).await;
            loop {
                tokio::select! {
                    host = said.recv() => match host {
                        Some(_) if cut.is_cancelled() => {}
                        Some(host) => drop(events.send(Event::Said(stream, host)).await),
                        None => break,
                    },
                    () = dropped.notified() => break,
                }
            }
            end.cancel();
            if !cut.is_cancelled() {
                let _ = events.send(Event::Closed(stream)).await;
            }
        });
        let cut = self.cut.clone();
        let orders =
            futures_util::stream::unfold((orders, ended, cut), |(mut orders, ended, cut)| async move {
                let order = tokio::select! {
                    order = orders.recv() => order,
                    () = ended.cancelled() => None,
                };
                if cut.is_cancelled() {
                    return std::future::pending().await;
                }
                order.map(|order| (Ok(StreamEvent::Order(order)), (orders, ended, cut)))
            });
        let accepted = futures_util::stream::iter([Ok(StreamEvent::Accepted(Some(LeaseTerms {
            length: LEASE,
            epoch: Some(1),
        })))]);
        Ok(PlacementStream {
            reports,
            orders: accepted.chain(orders).boxed(),
            heard: Heard::default(),
        })
    }

    fn replicas(&self) -> usize {
        1
    }
}

struct Node {
    address: String,
    engine: Arc<Engine>,
    stop: CancellationToken,
    cut: CancellationToken,
    drop_stream: Arc<tokio::sync::Notify>,
}

struct Cluster {
    world: Arc<World>,
    events: mpsc::Sender<Event>,
    streams: Arc<Mutex<usize>>,
    tasks: TaskTracker,
    away: Arc<AtomicBool>,
}

impl Cluster {
    fn new() -> Self {
        let (events, queue) = mpsc::channel(1024);
        let tasks = TaskTracker::new();
        let placement = Placement {
            events: events.clone(),
            streams: BTreeMap::new(),
            version: 0,
            dirty: false,
        };
        tasks.spawn(placement.run(queue));
        Self {
            world: Arc::default(),
            events,
            streams: Arc::default(),
            tasks,
            away: Arc::default(),
        }
    }

    /// A host, or a sidecar that only calls.
    async fn node(&self, address: &str, hosts: bool) -> Node {
        let engine = Engine::new(EngineParts {
            options: EngineOptions {
                app_id: "app".into(),
                namespace: "default".into(),
                own_address: address.into(),
                round_limit: Duration::from_secs(30),
                state_ttl: false,
            },
            peers: Arc::new(Peers(self.world.clone())),
            stores: Arc::new(OneStore::new(
                "memory",
                Arc::new(memory::MemoryState::new(&context())),
            )),
            resiliency: Resiliency::default(),
            tasks: self.tasks.clone(),
            observer: None,
        });
        let types: HostedTypes = hosts
            .then(|| ("T".to_owned(), TypeConfig::default()))
            .into_iter()
            .collect();
        engine.register(
            types,
            Arc::new(App {
                world: self.world.clone(),
                address: address.into(),
            }),
        );
        let (stop, cut, drop_stream) = (CancellationToken::new(), CancellationToken::new(), Arc::default());
        let connector = Connector {
            events: self.events.clone(),
            streams: self.streams.clone(),
            cut: cut.clone(),
            drop_stream: Arc::clone(&drop_stream),
            away: Arc::clone(&self.away),
        };
        self.tasks
            .spawn(engine.clone().run(Box::new(connector), stop.clone()));
        self.world
            .engines
            .lock()
            .unwrap()
            .insert(address.into(), engine.clone());
        let mut link = engine.link();
        link.wait_for(|link| link.ready).await.unwrap();
        Node {
            address: address.into(),
            engine,
            stop,
            cut,
            drop_stream,
        }
    }

    /// Calls actors 0 to 9 by turns until told to stop; the answers by actor, and the failures.
    fn callers(
        &self,
        engine: &Arc<Engine>,
        done: &CancellationToken,
    ) -> tokio::task::JoinHandle<(BTreeMap<String, usize>, Vec<String>)> {
        let (engine, done) = (engine.clone(), done.clone());
        tokio::spawn(async move {
            let (mut good, mut bad) = (BTreeMap::new(), Vec::new());
            for number in 0.. {
                if done.is_cancelled() {
                    break;
                }
                let id = (number % 10).to_string();
                match engine.invoke(request(&id), None).await {
                    Ok(_) => *good.entry(format!("T||{id}")).or_default() += 1,
                    Err(error) => bad.push(format!("{id}: {error}")),
                }
            }
            (good, bad)
        })
    }

    fn check(&self, good: &BTreeMap<String, usize>) {
        assert_eq!(
            *self.world.doubles.lock().unwrap(),
            Vec::<String>::new(),
            "two turns at once"
        );
        let turns = self.world.turns.lock().unwrap();
        for (actor, answers) in good {
            assert!(
                turns[actor] >= *answers,
                "{actor}: {answers} answers, {} turns",
                turns[actor]
            );
        }
        assert_eq!(good.len(), 10, "every actor answered");
    }
}

fn context() -> InitContext {
    InitContext {
        name: "memory".into(),
        app_id: "app".into(),
        namespace: "default".into(),
        properties: Default::default(),
        env: Default::default(),
        shutdown: CancellationToken::new(),
        tasks: TaskTracker::new(),
    }
}

fn request(id: &str) -> InternalInvokeRequest {
    InternalInvokeRequest {
        ver: 1,
        metadata: HashMap::new(),
        message: Some(InvokeRequest {
            method: "m".into(),
            ..InvokeRequest::default()
        }),
        actor: Some(Actor {
            actor_type: "T".into(),
            actor_id: id.into(),
        }),
    }
}

#[tokio::test(start_paused = true)]
async fn a_rolling_restart_fails_no_call() {
    let cluster = Cluster::new();
    let mut nodes = vec![
        cluster.node("a:1", true).await,
        cluster.node("b:1", true).await,
        cluster.node("c:1", true).await,
    ];
    let caller = cluster.node("caller:1", false).await;
    let done = CancellationToken::new();
    let callers: Vec<_> = (0..4).map(|_| cluster.callers(&caller.engine, &done)).collect();
    for index in 0..nodes.len() {
        sleep(Duration::from_millis(500)).await;
        let node = &nodes[index];
        node.engine.withdraw(Duration::from_secs(5)).await;
        assert!(node.engine.status().active.is_empty());
        // Late calls are passed on until the very end.
        sleep(Duration::from_millis(100)).await;
        cluster.world.engines.lock().unwrap().remove(&node.address);
        node.stop.cancel();
        let address = format!("{}{index}", node.address);
        nodes.push(cluster.node(&address, true).await);
    }
    sleep(Duration::from_millis(500)).await;
    done.cancel();
    for caller in callers {
        let (good, bad) = caller.await.unwrap();
        assert_eq!(bad, Vec::<String>::new());
        cluster.check(&good);
    }
    assert!(!cluster.world.deactivated.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_host_cut_off_from_placement_lets_go_before_another_begins() {
    let cluster = Cluster::new();
    let a = cluster.node("a:1", true).await;
    let b = cluster.node("b:1", true).await;
    let done = CancellationToken::new();
    // The app beside the host that is cut off goes on calling too.
    let inside = cluster.callers(&a.engine, &done);
    let outside = cluster.callers(&b.engine, &done);
    sleep(Duration::from_millis(500)).await;
    a.cut.cancel();
    cluster
        .events
        .send(Event::Cut(a.address.clone()))
        .await
        .ok()
        .unwrap();
    let start = Instant::now();
    sleep(LEASE + Duration::from_millis(100)).await;
    assert!(a.engine.status().active.is_empty(), "{:?}", a.engine.status());
    sleep(Duration::from_secs(10)).await;
    done.cancel();
    let (good, _) = outside.await.unwrap();
    cluster.check(&good);
    inside.abort();
    assert!(start.elapsed() < Duration::from_secs(60));
    assert!(b.engine.status().active.len() == 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_stream_is_opened_again_within_the_lease_and_nothing_is_noticed() {
    let cluster = Cluster::new();
    let a = cluster.node("a:1", true).await;
    let done = CancellationToken::new();
    let calls = cluster.callers(&a.engine, &done);
    for _ in 0..5 {
        sleep(Duration::from_secs(2)).await;
        a.drop_stream.notify_one();
    }
    sleep(Duration::from_secs(2)).await;
    done.cancel();
    let (good, bad) = calls.await.unwrap();
    assert_eq!(bad, Vec::<String>::new());
    cluster.check(&good);
    assert_eq!(*cluster.world.deactivated.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn after_minutes_without_placement_every_actor_is_reachable_within_seconds() {
    let cluster = Cluster::new();
    let nodes = [cluster.node("a:1", true).await, cluster.node("b:1", true).await];
    let done = CancellationToken::new();
    let calls = cluster.callers(&nodes[0].engine, &done);
    sleep(Duration::from_secs(1)).await;
    cluster.away.store(true, Ordering::SeqCst);
    for node in &nodes {
        node.drop_stream.notify_one();
    }
    sleep(LEASE + Duration::from_secs(1)).await;
    for node in &nodes {
        assert!(node.engine.status().active.is_empty(), "the lease is over");
        assert!(!node.engine.status().ready && !node.engine.status().connected);
    }
    sleep(Duration::from_secs(20 * 60)).await;
    // A call that waits says so in the end, and names the remedy.
    let error = nodes[1].engine.invoke(request("3"), None).await.unwrap_err();
    assert!(error.to_string().contains("--placement-host-address"), "{error}");
    cluster.away.store(false, Ordering::SeqCst);
    let start = Instant::now();
    for node in &nodes {
        for id in 0..10 {
            node.engine.invoke(request(&id.to_string()), None).await.unwrap();
        }
    }
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    done.cancel();
    let (good, _) = calls.await.unwrap();
    cluster.check(&good);
}
