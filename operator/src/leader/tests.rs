//! Replicas that share an API server of the test's own: one lease, optimistic locking, and outages of either way.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;

/// The lease as stored, with its version.
#[derive(Default)]
struct Store {
    lease: Option<Value>,
    version: u64,
    has_owner: bool,
}

/// How a replica's way to the API server is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Way {
    #[default]
    Open,
    /// Requests never arrive.
    Cut,
    /// Requests are carried out, and their answers never arrive.
    Deaf,
    /// Requests are carried out; answers come after three seconds.
    Slow,
}

impl Store {
    fn answer(&mut self, method: &Method, path: &str, body: &[u8]) -> (StatusCode, Value) {
        let status = |code: StatusCode, reason: &str| {
            let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason,
                "message": reason, "code": code.as_u16()});
            (code, body)
        };
        if path.contains("/configurations/") {
            let owner = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                "metadata": {"name": "daprsystem", "uid": "uid-1"}});
            return if self.has_owner {
                (StatusCode::OK, owner)
            } else {
                status(StatusCode::NOT_FOUND, "NotFound")
            };
        }
        let current = self.lease.as_ref().map(|_| self.version.to_string());
        if method == Method::GET {
            return match &self.lease {
                Some(lease) => (StatusCode::OK, lease.clone()),
                None => status(StatusCode::NOT_FOUND, "NotFound"),
            };
        }
        let mut lease: Value = serde_json::from_slice(body).unwrap();
        let based_on = lease["metadata"]["resourceVersion"].as_str();
        if based_on != current.as_deref() {
            return status(StatusCode::CONFLICT, "Conflict");
        }
        self.version += 1;
        lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.lease = Some(lease.clone());
        (StatusCode::OK, lease)
    }

    fn spec(&self, field: &str) -> Value {
        self.lease
            .as_ref()
            .map_or(Value::Null, |lease| lease["spec"][field].clone())
    }
}

/// One replica and the world it stands in.
struct Replica {
    way: Arc<Mutex<Way>>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

/// All that replicas share.
#[derive(Clone, Default)]
struct World {
    store: Arc<Mutex<Store>>,
    /// How many do a leader's work at this moment, and how often somebody began.
    working: Arc<AtomicU32>,
    terms: Arc<AtomicU32>,
}

/// Somebody works for as long as this lives.
struct Work(Arc<AtomicU32>);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl World {
    fn new() -> Self {
        let world = Self::default();
        world.store.lock().unwrap().has_owner = true;
        world
    }

    /// A replica whose work needs `ending` to end once its term is over.
    fn replica(&self, ending: Duration) -> Replica {
        let way: Arc<Mutex<Way>> = Arc::default();
        let client = self.client(&way);
        let gauge = IntGauge::new("leading", "x").unwrap();
        let election = Election::new(client, "dapr-system", "daprsystem", gauge);
        let stop = CancellationToken::new();
        let world = self.clone();
        let running = tokio::spawn(election.lead(stop.clone(), move |term| {
            let world = world.clone();
            async move {
                let others = world.working.fetch_add(1, Ordering::SeqCst);
                let _work = Work(world.working.clone());
                assert_eq!(others, 0, "two lead at once");
                world.terms.fetch_add(1, Ordering::SeqCst);
                term.cancelled().await;
                tokio::time::sleep(ending).await;
            }
        }));
        Replica { way, stop, running }
    }

    fn client(&self, way: &Arc<Mutex<Way>>) -> Client {
        let (store, way) = (self.store.clone(), way.clone());
        let service = tower::service_fn(move |request: Request<Body>| {
            let (store, way) = (store.clone(), way.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap();
                let state = *way.lock().unwrap();
                if state == Way::Cut {
                    std::future::pending::<()>().await;
                }
                let (code, answer) = store
                    .lock()
                    .unwrap()
                    .answer(&parts.method, parts.uri.path(), &body);
                match state {
                    Way::Deaf => std::future::pending::<()>().await,
                    Way::Slow => tokio::time::sleep(Duration::from_secs(3)).await,
                    Way::Open | Way::Cut => {}
                }
                let answer = Response::builder()
                    .status(code)
                    .body(Body::from(answer.to_string().into_bytes()))
                    .unwrap();
                Ok::<_, Infallible>(answer)
            }
        });
        Client::new(service, "dapr-system")
    }

    fn holder(&self) -> String {
        let holder = self.store.lock().unwrap().spec("holderIdentity");
        holder.as_str().unwrap_or_default().to_owned()
    }

    fn terms(&self) -> u32 {
        self.terms.load(Ordering::SeqCst)
    }

    fn working(&self) -> u32 {
        self.working.load(Ordering::SeqCst)
    }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn one_of_two_leads_and_a_clean_end_hands_over_at_once() {
    let world = World::new();
    let first = world.replica(Duration::ZERO);
    let second = world.replica(Duration::ZERO);
    pass(60).await;
    assert_eq!((world.terms(), world.working()), (1, 1));
    assert_eq!(
        world.store.lock().unwrap().lease.as_ref().unwrap()["metadata"]["ownerReferences"][0]["uid"],
        "uid-1",
        "it goes with the installation"
    );
    let holder = world.holder();
    first.stop.cancel();
    first.running.await.unwrap();
    // A little more than between two tries, far less than the lease runs.
    pass(3).await;
    assert_eq!((world.terms(), world.working()), (2, 1));
    assert_ne!(world.holder(), holder);
    second.stop.cancel();
    second.running.await.unwrap();
    assert_eq!((world.holder().as_str(), world.working()), ("", 0), "given back");
    assert_eq!(
        world.store.lock().unwrap().spec("leaseTransitions"),
        world.terms()
    );
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_steps_down_before_the_other_takes_over() {
    for way in [Way::Cut, Way::Deaf] {
        let world = World::new();
        let first = world.replica(Duration::from_secs(4));
        pass(1).await;
        let second = world.replica(Duration::from_secs(4));
        pass(9).await;
        let holder = world.holder();
        *first.way.lock().unwrap() = way;
        pass(11).await;
        assert_eq!(
            (world.holder(), world.terms()),
            (holder.clone(), 1),
            "{way:?}: the lease runs 15 s"
        );
        pass(20).await;
        assert_ne!(world.holder(), holder, "{way:?}");
        assert_eq!((world.terms(), world.working()), (2, 1), "{way:?}");
        // Back again, it stands by.
        *first.way.lock().unwrap() = Way::Open;
        pass(60).await;
        assert_eq!((world.terms(), world.working()), (2, 1), "{way:?}");
        for replica in [first, second] {
            replica.stop.cancel();
            replica.running.await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_its_configuration_nobody_makes_a_lease() {
    let world = World::default();
    let replica = world.replica(Duration::ZERO);
    pass(20).await;
    assert_eq!((world.terms(), world.holder().as_str()), (0, ""));
    world.store.lock().unwrap().has_owner = true;
    pass(5).await;
    assert_eq!(world.working(), 1);
    replica.stop.cancel();
    replica.running.await.unwrap();
}

/// Ways open and close by chance, for half an hour of each seed; whoever leads must be alone, and somebody must lead again
/// once all is well.
#[tokio::test(start_paused = true)]
async fn never_two_lead_whatever_happens_to_their_ways() {
    for seed in 0..6 {
        let mut random = StdRng::seed_from_u64(seed);
        let world = World::new();
        let replicas: Vec<Replica> = (0..3)
            .map(|_| world.replica(Duration::from_secs(random.random_range(0..20))))
            .collect();
        for _ in 0..120 {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..30_000))).await;
            let replica = &replicas[random.random_range(0..replicas.len())];
            let ways = [Way::Open, Way::Open, Way::Cut, Way::Deaf, Way::Slow];
            *replica.way.lock().unwrap() = ways[random.random_range(0..ways.len())];
            assert!(world.working() <= 1, "seed {seed}");
        }
        for replica in &replicas {
            *replica.way.lock().unwrap() = Way::Open;
        }
        pass(60).await;
        assert_eq!(world.working(), 1, "seed {seed}");
        for replica in replicas {
            replica.stop.cancel();
            // A second leader would have failed its task.
            replica
                .running
                .await
                .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
    }
}
