//! One engine whose placement service is the test itself.

use std::sync::atomic::{AtomicBool, Ordering};
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

pub(crate) const LEASE: Duration = Duration::from_secs(3);

/// The store of all hosts, as one of them reaches it: what it writes can be held up on the way.
pub(crate) struct Wire {
    store: Arc<MemoryState>,
    pub(crate) open: watch::Sender<bool>,
    pub(crate) reads: Mutex<Vec<String>>,
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

/// The app: a turn takes as many milliseconds as the method's name says.
#[derive(Default)]
pub(crate) struct App {
    /// Turns that ran to their end.
    pub(crate) turns: Mutex<Vec<String>>,
    pub(crate) deactivated: Mutex<Vec<String>>,
    /// It takes no connections.
    pub(crate) gone: AtomicBool,
}

#[async_trait]
impl ActorTarget for App {
    async fn invoke(
        &self,
        actor: &ActorKey,
        request: Arc<InternalInvokeRequest>,
        _: TurnContext,
    ) -> Result<InternalInvokeResponse, ActorError> {
        if self.gone.load(Ordering::SeqCst) {
            return Err(ActorError::Unreached("refused".to_owned()));
        }
        let method = &request.message.as_ref().unwrap().method;
        sleep(Duration::from_millis(method.parse().unwrap())).await;
        self.turns.lock().unwrap().push(format!("{actor} {method}"));
        Ok(InternalInvokeResponse::default())
    }

    async fn fire(&self, _: &ReminderCall, _: TurnContext) -> Result<(), ActorError> {
        Ok(())
    }

    async fn deactivate(&self, actor: &ActorKey) -> Result<(), ActorError> {
        self.deactivated.lock().unwrap().push(actor.to_string());
        Ok(())
    }
}

/// What the sidecar acknowledged: operation, version, when.
type Said = Arc<Mutex<Vec<(i32, u64, Instant)>>>;

/// The placement service of one host, told by the test what to say.
struct Connector {
    streams: mpsc::Sender<mpsc::Sender<PlacementOrder>>,
    epoch: Option<u64>,
    answers: watch::Receiver<bool>,
    said: Said,
}

#[async_trait]
impl PlacementConnector for Connector {
    async fn connect(&mut self, _first: Host) -> Result<PlacementStream, StreamEnd> {
        let (reports, mut said) = mpsc::channel::<Host>(32);
        let (to, orders) = mpsc::channel(64);
        self.streams.send(to.clone()).await.unwrap();
        let (answers, acknowledged) = (self.answers.clone(), Arc::clone(&self.said));
        tokio::spawn(async move {
            while let Some(host) = said.recv().await {
                let version = host.version.unwrap_or_default();
                acknowledged
                    .lock()
                    .unwrap()
                    .push((host.operation, version, Instant::now()));
                if host.operation == 5 && *answers.borrow() {
                    let _ = to.send(order("lease", version, &[])).await;
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

pub(crate) fn order(operation: &str, version: u64, hosts: &[&str]) -> PlacementOrder {
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

pub(crate) struct Node {
    pub(crate) engine: Arc<Engine>,
    pub(crate) wire: Arc<Wire>,
    pub(crate) app: Arc<App>,
    pub(crate) said: Said,
    /// The newest stream to the placement service.
    pub(crate) orders: mpsc::Sender<PlacementOrder>,
    /// Whether leases are granted.
    pub(crate) grants: watch::Sender<bool>,
    pub(crate) streams: mpsc::Receiver<mpsc::Sender<PlacementOrder>>,
}

pub(crate) fn store() -> Arc<MemoryState> {
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

pub(crate) async fn node(address: &str, store: &Arc<MemoryState>, epoch: Option<u64>) -> Node {
    node_with(address, store, epoch, TypeConfig::default()).await
}

/// The same with settings for the one type.
pub(crate) async fn node_with(
    address: &str,
    store: &Arc<MemoryState>,
    epoch: Option<u64>,
    config: TypeConfig,
) -> Node {
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
    let (app, said) = (Arc::new(App::default()), Said::default());
    let types = [("T".to_owned(), config)].into_iter().collect();
    engine.register(types, Arc::clone(&app) as _);
    let (to, mut streams) = mpsc::channel(8);
    let grants = watch::Sender::new(true);
    let connector = Connector {
        streams: to,
        epoch,
        answers: grants.subscribe(),
        said: Arc::clone(&said),
    };
    tokio::spawn(engine.clone().run(Box::new(connector), CancellationToken::new()));
    let orders = streams.recv().await.unwrap();
    Node {
        engine,
        wire,
        app,
        said,
        orders,
        grants,
        streams,
    }
}

impl Node {
    /// A whole round.
    pub(crate) async fn table(&self, version: u64, hosts: &[&str]) {
        for operation in ["lock", "update", "unlock"] {
            self.orders.send(order(operation, version, hosts)).await.unwrap();
        }
        sleep(Duration::from_millis(10)).await;
    }

    pub(crate) async fn activate(&self, id: &str) {
        self.engine.invoke(call(id, 0), None).await.unwrap();
    }

    pub(crate) async fn write(&self, id: &str, value: &str) -> Result<(), ApiError> {
        write(&self.engine, id, value).await
    }

    pub(crate) async fn read(&self, id: &str) -> Option<String> {
        let found = self.engine.get_state(&ActorKey::new("T", id), "k").await.unwrap();
        found.data.map(|data| serde_json::from_slice(&data).unwrap())
    }
}

/// A call whose turn takes so many milliseconds.
pub(crate) fn call(id: &str, millis: u64) -> InternalInvokeRequest {
    InternalInvokeRequest {
        message: Some(InvokeRequest {
            method: millis.to_string(),
            ..InvokeRequest::default()
        }),
        actor: Some(Actor {
            actor_type: "T".into(),
            actor_id: id.into(),
        }),
        ..InternalInvokeRequest::default()
    }
}

pub(crate) async fn write(engine: &Arc<Engine>, id: &str, value: &str) -> Result<(), ApiError> {
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
