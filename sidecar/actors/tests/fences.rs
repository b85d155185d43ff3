//! Fences: what a replaced owner has under way is refused by the store, and nobody else is.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use outrigger_components_api::InitContext;
use outrigger_components_api::state::{
    DeleteRequest, GetRequest, GetResponse, SetRequest, StateError, StateFeature, StateStore, StateValue,
    TransactionRequest,
};
use outrigger_components_memory::MemoryState;
use outrigger_gojson::Value;
use outrigger_model::ApiError;
use outrigger_proto::common::v1::InvokeRequest;
use outrigger_proto::internals::v1::{Actor, InternalInvokeRequest, InternalInvokeResponse, Reminder};
use outrigger_proto::placement::v1::{Host, PlacementOrder, PlacementTable, PlacementTables};
use outrigger_resiliency::Resiliency;
use outrigger_sidecar_actors::config::TypeConfig;
use outrigger_sidecar_actors::reminders::ReminderCall;
use outrigger_sidecar_actors::seams::{
    ActorPeers, ActorTarget, Heard, LeaseTerms, Owner, PlacementConnector, PlacementStream, StreamEnd,
    StreamEvent, TurnContext,
};
use outrigger_sidecar_actors::state::{OneStore, StateChange, StateOperation};
use outrigger_sidecar_actors::{ActorError, ActorKey, Engine, EngineOptions, EngineParts};
use outrigger_trace_context::TraceContext;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const LEASE: Duration = Duration::from_secs(3);
const ROW: &str = "outrigger||fence||default||app||T";

/// The store of all hosts, as one of them reaches it: what it writes can be held up on the way.
struct Wire {
    store: Arc<MemoryState>,
    open: watch::Sender<bool>,
    reads: Mutex<Vec<String>>,
}

#[async_trait]
impl StateStore for Wire {
    fn features(&self) -> &[StateFeature] {
        self.store.features()
    }

    fn guards(&self) -> bool {
        true
    }

    async fn get(&self, request: GetRequest) -> Result<GetResponse, StateError> {
        self.reads.lock().unwrap().push(request.key.clone());
        self.store.get(request).await
    }

    async fn set(&self, request: SetRequest) -> Result<(), StateError> {
        self.store.set(request).await
    }

    async fn delete(&self, request: DeleteRequest) -> Result<(), StateError> {
        self.store.delete(request).await
    }

    async fn transact(&self, request: TransactionRequest) -> Result<(), StateError> {
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
        self.store.transact(request).await
    }

    async fn ping(&self) -> Result<(), StateError> {
        Ok(())
    }

    async fn close(&self) {}
}

struct Nobody;

#[async_trait]
impl ActorPeers for Nobody {
    async fn call(
        &self,
        _: &Owner,
        _: &InternalInvokeRequest,
        _: Option<&TraceContext>,
    ) -> Result<InternalInvokeResponse, ActorError> {
        Err(ActorError::failed("no peers here"))
    }

    async fn fire(&self, _: &Owner, _: Reminder, _: Option<&TraceContext>) -> Result<(), ActorError> {
        Ok(())
    }
}

#[async_trait]
impl ActorTarget for Nobody {
    async fn invoke(
        &self,
        _: &ActorKey,
        _: Arc<InternalInvokeRequest>,
        _: TurnContext,
    ) -> Result<InternalInvokeResponse, ActorError> {
        Ok(InternalInvokeResponse::default())
    }

    async fn fire(&self, _: &ReminderCall, _: TurnContext) -> Result<(), ActorError> {
        Ok(())
    }

    async fn deactivate(&self, _: &ActorKey) -> Result<(), ActorError> {
        Ok(())
    }
}

/// The placement service of one host, told by the test what to say.
struct Connector {
    streams: mpsc::Sender<mpsc::Sender<PlacementOrder>>,
    epoch: Option<u64>,
    answers: watch::Receiver<bool>,
}

#[async_trait]
impl PlacementConnector for Connector {
    async fn connect(&mut self, _first: Host) -> Result<PlacementStream, StreamEnd> {
        let (reports, mut said) = mpsc::channel::<Host>(32);
        let (to, orders) = mpsc::channel(64);
        self.streams.send(to.clone()).await.unwrap();
        let answers = self.answers.clone();
        tokio::spawn(async move {
            while let Some(host) = said.recv().await {
                if host.operation == 5 && *answers.borrow() {
                    let _ = to.send(order("lease", host.version.unwrap(), &[])).await;
                }
            }
        });
        let accepted = StreamEvent::Accepted(Some(LeaseTerms {
            length: LEASE,
            epoch: self.epoch,
        }));
        let orders =
            tokio_stream::wrappers::ReceiverStream::new(orders).map(|order| Ok(StreamEvent::Order(order)));
        Ok(PlacementStream {
            reports,
            orders: futures_util::stream::iter([Ok(accepted)]).chain(orders).boxed(),
            heard: Heard::default(),
        })
    }

    fn replicas(&self) -> usize {
        1
    }
}

fn order(operation: &str, version: u64, hosts: &[&str]) -> PlacementOrder {
    let host = |name: &&str| {
        let host = Host {
            name: (*name).to_owned(),
            id: "app".into(),
            ..Host::default()
        };
        ((*name).to_owned(), host)
    };
    let table = PlacementTable {
        load_map: hosts.iter().map(host).collect(),
        ..PlacementTable::default()
    };
    PlacementOrder {
        operation: operation.into(),
        version,
        tables: (operation == "update").then(|| PlacementTables {
            entries: [("T".to_owned(), table)].into(),
            replication_factor: 100,
            ..PlacementTables::default()
        }),
    }
}

struct Node {
    engine: Arc<Engine>,
    wire: Arc<Wire>,
    /// The newest stream to the placement service.
    orders: mpsc::Sender<PlacementOrder>,
    /// Whether leases are granted.
    grants: watch::Sender<bool>,
    streams: mpsc::Receiver<mpsc::Sender<PlacementOrder>>,
}

fn store() -> Arc<MemoryState> {
    Arc::new(MemoryState::new(&InitContext {
        name: "memory".into(),
        app_id: "app".into(),
        namespace: "default".into(),
        properties: Default::default(),
        env: Default::default(),
        shutdown: CancellationToken::new(),
        tasks: TaskTracker::new(),
    }))
}

async fn node(address: &str, store: &Arc<MemoryState>, epoch: Option<u64>) -> Node {
    let wire = Arc::new(Wire {
        store: Arc::clone(store),
        open: watch::Sender::new(true),
        reads: Mutex::default(),
    });
    let engine = Engine::new(EngineParts {
        options: EngineOptions {
            app_id: "app".into(),
            namespace: "default".into(),
            own_address: address.into(),
            round_limit: Duration::from_secs(8),
            state_ttl: false,
        },
        peers: Arc::new(Nobody),
        stores: Arc::new(OneStore::new("memory", Arc::clone(&wire) as _)),
        resiliency: Resiliency::default(),
        tasks: TaskTracker::new(),
        observer: None,
    });
    let types = [("T".to_owned(), TypeConfig::default())].into_iter().collect();
    engine.register(types, Arc::new(Nobody));
    let (to, mut streams) = mpsc::channel(8);
    let grants = watch::Sender::new(true);
    let connector = Connector {
        streams: to,
        epoch,
        answers: grants.subscribe(),
    };
    tokio::spawn(engine.clone().run(Box::new(connector), CancellationToken::new()));
    let orders = streams.recv().await.unwrap();
    Node {
        engine,
        wire,
        orders,
        grants,
        streams,
    }
}

impl Node {
    /// A whole round.
    async fn table(&self, version: u64, hosts: &[&str]) {
        for operation in ["lock", "update", "unlock"] {
            self.orders.send(order(operation, version, hosts)).await.unwrap();
        }
        sleep(Duration::from_millis(10)).await;
    }

    async fn activate(&self, id: &str) {
        let request = InternalInvokeRequest {
            message: Some(InvokeRequest::default()),
            actor: Some(Actor {
                actor_type: "T".into(),
                actor_id: id.into(),
            }),
            ..InternalInvokeRequest::default()
        };
        self.engine.invoke(request, None).await.unwrap();
    }

    async fn write(&self, id: &str, value: &str) -> Result<(), ApiError> {
        write(&self.engine, id, value).await
    }

    async fn read(&self, id: &str) -> Option<String> {
        let found = self.engine.get_state(&ActorKey::new("T", id), "k").await.unwrap();
        found.data.map(|data| serde_json::from_slice(&data).unwrap())
    }
}

async fn write(engine: &Arc<Engine>, id: &str, value: &str) -> Result<(), ApiError> {
    let change = StateChange {
        key: "k".into(),
        value: StateValue::Json(Value::String(value.into())),
        etag: None,
        metadata: Default::default(),
    };
    let step = StateOperation {
        operation: "upsert".into(),
        request: Some(change),
    };
    engine.transact(&ActorKey::new("T", id), vec![step]).await
}

async fn row(store: &MemoryState) -> Option<String> {
    let request = GetRequest {
        key: ROW.into(),
        ..GetRequest::default()
    };
    let found = store.get(request).await.unwrap();
    found.data.map(|data| serde_json::from_slice(&data).unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_a_replaced_owner_has_under_way_is_refused_once_the_next_has_read() {
    let store = store();
    let a = node("a:1", &store, Some(7)).await;
    a.table(1, &["a:1"]).await;
    a.activate("x").await;
    a.write("x", "first").await.unwrap();
    assert_eq!(row(&store).await.as_deref(), Some("7.1"));
    // The write has passed every check of the sidecar and is on its way when the sidecar freezes.
    a.wire.open.send_replace(false);
    let late = tokio::spawn({
        let engine = Arc::clone(&a.engine);
        async move { write(&engine, "x", "late").await }
    });
    sleep(Duration::from_millis(10)).await;
    let b = node("b:1", &store, Some(7)).await;
    b.table(2, &["b:1"]).await;
    b.activate("x").await;
    assert_eq!(b.read("x").await.as_deref(), Some("first"));
    assert_eq!(row(&store).await.as_deref(), Some("7.2"));
    a.grants.send_replace(false);
    sleep(LEASE).await;
    a.wire.open.send_replace(true);
    let refusal = late.await.unwrap().unwrap_err();
    assert_eq!(refusal.error_code(), "ERR_ACTOR_INSTANCE_MISSING");
    assert_eq!(b.read("x").await.as_deref(), Some("first"));
    b.write("x", "second").await.unwrap();
    assert_eq!(b.read("x").await.as_deref(), Some("second"));
}

#[tokio::test(start_paused = true)]
async fn hosts_of_one_type_write_side_by_side_and_ask_for_the_row_once_for_each_table() {
    let store = store();
    let hosts = ["a:1", "b:1"];
    let a = node("a:1", &store, Some(7)).await;
    let b = node("b:1", &store, Some(7)).await;
    for (version, rows) in [(1, "7.1"), (2, "7.1"), (3, "7.1")] {
        for node in [&a, &b] {
            node.table(version, &hosts).await;
        }
        for number in 0..40 {
            let id = number.to_string();
            // Whose it is the ring says; the other one has no instance.
            let tables = [&a, &b].map(|node| node.engine.status());
            assert!(tables.iter().all(|status| status.ready));
            for node in [&a, &b] {
                if owns(node, &hosts, &id) {
                    node.activate(&id).await;
                    node.write(&id, "v").await.unwrap();
                }
            }
        }
        assert_eq!(row(&store).await.as_deref(), Some(rows), "hosts did not change");
    }
    let looked = |node: &Node| {
        node.wire
            .reads
            .lock()
            .unwrap()
            .iter()
            .filter(|key| *key == ROW)
            .count()
    };
    // Before and after writing it, and once more where the other one was later.
    assert!(
        looked(&a) <= 4 && looked(&b) <= 4,
        "{} {}",
        looked(&a),
        looked(&b)
    );
}

/// Whether a host owns an actor, as the ring of its table has it.
fn owns(node: &Node, hosts: &[&str], id: &str) -> bool {
    let entry = |name: &&str| outrigger_ring::Host {
        key: (*name).into(),
        address: (*name).into(),
        app_id: "app".into(),
        port: 0,
    };
    let entries = [("T".into(), hosts.iter().map(entry).collect::<Vec<_>>())];
    let tables = outrigger_ring::Tables::build(1, 100, entries, &Default::default()).unwrap();
    let owner = tables.owner("T", id).unwrap();
    *owner.address == *node.engine.own_address()
}

#[tokio::test(start_paused = true)]
async fn a_host_that_has_not_heard_of_the_newest_table_waits_for_it_and_then_writes() {
    let (store, hosts) = (store(), ["a:1", "b:1"]);
    let a = node("a:1", &store, Some(7)).await;
    let b = node("b:1", &store, Some(7)).await;
    let of = |node| {
        (0..100)
            .map(|id| id.to_string())
            .find(|id| owns(node, &hosts, id))
            .unwrap()
    };
    let (x, y) = (of(&a), of(&b));
    a.table(1, &hosts[..1]).await;
    a.activate(&x).await;
    a.write(&x, "1").await.unwrap();
    b.table(2, &hosts).await;
    b.activate(&y).await;
    b.write(&y, "1").await.unwrap();
    let start = Instant::now();
    let waiting = tokio::spawn({
        let engine = Arc::clone(&a.engine);
        async move { write(&engine, &x, "2").await }
    });
    sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
    a.table(2, &hosts).await;
    waiting.await.unwrap().unwrap();
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(row(&store).await.as_deref(), Some("7.2"));
}

#[tokio::test(start_paused = true)]
async fn a_row_of_a_leader_whose_leases_must_be_over_is_taken_over() {
    let store = store();
    // The clock of the service was set back, or it is another one: its epoch is lower now.
    let before = node("b:1", &store, Some(9)).await;
    before.table(5, &["b:1"]).await;
    before.activate("x").await;
    before.write("x", "old").await.unwrap();
    let a = node("a:1", &store, Some(7)).await;
    a.table(1, &["a:1"]).await;
    a.activate("x").await;
    let start = Instant::now();
    a.write("x", "new").await.unwrap();
    assert!(start.elapsed() >= LEASE + LEASE / 8, "{:?}", start.elapsed());
    assert_eq!(row(&store).await.as_deref(), Some("7.1"));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_lost_its_table_fences_what_it_had_under_way_itself() {
    let store = store();
    let mut a = node("a:1", &store, Some(7)).await;
    a.table(1, &["a:1"]).await;
    a.activate("x").await;
    a.write("x", "first").await.unwrap();
    a.wire.open.send_replace(false);
    let late = tokio::spawn({
        let engine = Arc::clone(&a.engine);
        async move { write(&engine, "x", "late").await }
    });
    sleep(Duration::from_millis(10)).await;
    a.grants.send_replace(false);
    sleep(LEASE + Duration::from_secs(3)).await;
    a.grants.send_replace(true);
    a.orders = a.streams.recv().await.unwrap();
    a.table(1, &["a:1"]).await;
    sleep(Duration::from_secs(30)).await;
    a.activate("x").await;
    assert_eq!(a.read("x").await.as_deref(), Some("first"));
    a.wire.open.send_replace(true);
    late.await.unwrap().unwrap_err();
    assert_eq!(a.read("x").await.as_deref(), Some("first"));
}

#[tokio::test(start_paused = true)]
async fn without_epochs_there_is_no_row() {
    let store = store();
    let a = node("a:1", &store, None).await;
    a.table(1, &["a:1"]).await;
    a.activate("x").await;
    a.write("x", "v").await.unwrap();
    assert_eq!(a.read("x").await.as_deref(), Some("v"));
    assert_eq!(row(&store).await, None);
}
