//! Every transactional store over both APIs, events whose transaction is late or missing, and kills at the two moments
//! that count: between the internal event and the transaction, and between the transaction and the event.

use std::path::PathBuf;

use outrigger_e2e::ask::{SOON, ask, get, soon, text};
use outrigger_e2e::http::app::FakeApp;
use outrigger_e2e::http::client::{Request, send};
use outrigger_e2e::process::{Daprd, DaprdOptions, RedisServer};
use outrigger_e2e::sdk::component;
use outrigger_proto::common::v1::StateItem;
use outrigger_proto::runtime::v1 as wire;
use serde_json::{Value, json};

use crate::{app, bus, events, redis, stream};
use outrigger_e2e::servers::{Kind, Server};

/// Every transactional store: how it is called here, its type and version.
const STORES: [(&str, &str, &str); 5] = [
    ("memory", "state.in-memory", "v1"),
    ("sqlite", "state.sqlite", "v1"),
    ("redis", "state.redis", "v1"),
    ("pg1", "state.postgresql", "v1"),
    ("pg2", "state.postgresql", "v2"),
];

/// The servers and files behind the stores.
struct Places {
    dir: tempfile::TempDir,
    postgres: Server,
    redis: Server,
}

impl Places {
    async fn start() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            postgres: Server::start(Kind::Postgres).await,
            redis: Server::start(Kind::RedisState).await,
        }
    }

    fn sqlite(&self) -> PathBuf {
        self.dir.path().join("state.db")
    }

    /// A component on the place of a store.
    fn component(&self, name: &str, store: &str, more: &[(&str, &str)]) -> String {
        let (_, kind, version) = STORES.into_iter().find(|one| one.0 == store).unwrap();
        let file = self.sqlite().display().to_string();
        let mut pairs = match store {
            "sqlite" => vec![("connectionString", file), ("busyTimeout", "1s".into())],
            "redis" => self.redis.component().2,
            "pg1" => self.postgres.component().2,
            // In the same database, beside the other one.
            "pg2" => [self.postgres.component().2, vec![("tablePrefix", "v2_".into())]].concat(),
            _ => Vec::new(),
        };
        pairs.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let pairs: Vec<(&str, &str)> = pairs
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        component(name, kind, &pairs).replace("version: v1", &format!("version: {version}"))
    }

    /// The store with its outbox, and the same place without prefixes.
    fn both(&self, store: &str, more: &[(&str, &str)]) -> [String; 2] {
        let outbox = [("outboxPublishPubsub", "bus"), ("outboxPublishTopic", "orders")];
        [
            self.component(store, store, &[&outbox, more].concat()),
            self.component(&format!("{store}-bare"), store, &[("keyPrefix", "none")]),
        ]
    }
}

async fn transact(port: u16, store: &str, operations: Value) -> u16 {
    let body = json!({"operations": operations}).to_string();
    let answer = ask(
        port,
        "POST",
        &format!("/v1.0/state/{store}/transaction"),
        body.as_bytes(),
    )
    .await;
    assert!(answer.status == 204 || answer.status == 500, "{}", text(&answer));
    answer.status
}

fn upsert(key: &str) -> Value {
    json!([{"operation": "upsert", "request": {"key": key, "value": key}}])
}

/// An operation of the gRPC API.
fn operation(
    kind: &str,
    key: &str,
    value: &str,
    metadata: &[(&str, &str)],
) -> wire::TransactionalStateOperation {
    let pairs = metadata
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    wire::TransactionalStateOperation {
        operation_type: kind.into(),
        request: Some(StateItem {
            key: key.into(),
            value: value.to_owned().into(),
            metadata: pairs.collect(),
            ..Default::default()
        }),
    }
}

/// Collects events until there is one of this type.
async fn event(app: &FakeApp, all: &mut Vec<Value>, of_type: &str) -> Value {
    soon(of_type, async || {
        all.extend(events(app));
        all.iter().any(|event| event["type"] == of_type)
    })
    .await;
    all.iter().find(|event| event["type"] == of_type).unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transactional_store_has_an_outbox_over_both_apis() {
    let places = Places::start().await;
    let server = RedisServer::start(places.dir.path()).await;
    let app = app().await;
    let stores = STORES.iter().flat_map(|(store, ..)| places.both(store, &[]));
    let options = DaprdOptions {
        app_id: "shop".into(),
        app_port: Some(app.port()),
        resources: [bus(&server)].into_iter().chain(stores).collect(),
        ..Default::default()
    };
    let sidecar = Daprd::start_ready(&options, &places.dir.path().join("daprd")).await;
    let port = sidecar.http_port();
    let mut client = sidecar.grpc_client().await;
    let mut all = Vec::new();
    for (store, ..) in STORES {
        assert_eq!(transact(port, store, upsert("gone")).await, 204);
        let (plain, shown) = (format!("{store}.http"), format!("{store}.projected"));
        let operations = json!([
            {"operation": "upsert", "request": {"key": "a", "value": {"n": 1}, "metadata": {"type": plain, "contentType": "application/json"}}},
            {"operation": "upsert", "request": {"key": "b", "value": "secret", "metadata": {"type": shown}}},
            {"operation": "upsert", "request": {"key": "b", "value": "public", "metadata": {"outbox.projection": "true", "type": "unused"}}},
            {"operation": "delete", "request": {"key": "gone"}},
        ]);
        assert_eq!(transact(port, store, operations).await, 204);

        let (typed, bare) = (format!("{store}.grpc"), format!("{store}.text"));
        let mut request = tonic::Request::new(wire::ExecuteStateTransactionRequest {
            store_name: store.into(),
            operations: vec![
                operation(
                    "upsert",
                    "c",
                    r#"{"n": 2}"#,
                    &[
                        ("type", &typed),
                        ("contentType", "application/json"),
                        ("mine", "x"),
                    ],
                ),
                operation("upsert", "d", "bytes", &[("type", &bare)]),
                operation("delete", "a", "", &[]),
            ],
            metadata: Default::default(),
        });
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        request
            .metadata_mut()
            .insert("traceparent", parent.parse().unwrap());
        client.execute_state_transaction(request).await.unwrap();

        for (of_type, data, content_type) in [
            (&plain, json!({"n": 1}), "application/json"),
            (&shown, json!("public"), "text/plain"),
            (&typed, json!({"n": 2}), "application/json"),
            (&bare, json!("bytes"), "text/plain"),
        ] {
            let event = event(&app, &mut all, of_type).await;
            assert_eq!(
                (
                    &event["data"],
                    &event["datacontenttype"],
                    &event["source"],
                    &event["topic"],
                    &event["pubsubname"]
                ),
                (
                    &data,
                    &json!(content_type),
                    &json!("shop"),
                    &json!("orders"),
                    &json!("bus")
                ),
                "{event}"
            );
            if of_type == &typed {
                assert_eq!(event["mine"], "x", "{event}");
                assert_eq!(event["traceid"], parent, "{event}");
            }
            // The marker, whose name is the event's id, is removed.
            let marker = format!("/v1.0/state/{store}-bare/{}", event["id"].as_str().unwrap());
            soon(&marker, async || get(port, &marker).await.status == 204).await;
        }
        // What is stored is what was asked for.
        for (key, status, value) in [("a", 204, ""), ("b", 200, "\"secret\""), ("gone", 204, "")] {
            let answer = get(port, &format!("/v1.0/state/{store}/{key}")).await;
            assert_eq!(
                (answer.status, text(&answer).as_str()),
                (status, value),
                "{store} {key}"
            );
        }
    }
    assert!(
        !all.iter().any(|event| event["type"] == "unused"),
        "a projection is no event of its own"
    );
}

/// The event of a marker, as the internal topic has it.
fn internal(marker: &str) -> String {
    json!({
        "data": marker, "datacontenttype": "text/plain", "id": marker, "pubsubname": "bus", "source": "late",
        "specversion": "1.0", "topic": "", "traceid": "", "traceparent": "", "tracestate": "", "type": marker,
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_without_its_transaction_comes_again_unless_it_is_to_be_discarded() {
    let places = Places::start().await;
    let server = RedisServer::start(places.dir.path()).await;
    let app = app().await;
    let [keeps, bare] = places.both("redis", &[]);
    let discards = places.component(
        "discards",
        "redis",
        &[
            ("outboxPublishPubsub", "bus"),
            ("outboxPublishTopic", "orders"),
            ("outboxDiscardWhenMissingState", "true"),
        ],
    );
    for (app_id, store, then) in [
        ("keeps", keeps, "rejecting for later processing"),
        ("discards", discards, "discarding message"),
    ] {
        let options = DaprdOptions {
            app_id: app_id.into(),
            app_port: Some(app.port()),
            resources: vec![bus(&server), store, bare.clone()],
            ..Default::default()
        };
        let mut sidecar = Daprd::start_ready(&options, &places.dir.path().join(app_id)).await;
        let port = sidecar.http_port();
        let (marker, topic) = (format!("outbox-{app_id}"), format!("default{app_id}ordersoutbox"));
        redis(&server, &["XADD", &topic, "*", "data", &internal(&marker)]).await;
        soon(then, async || sidecar.process().log().contains(then)).await;
        let early = events(&app);
        assert!(
            !early.iter().any(|event| event["type"] == marker.as_str()),
            "there is no event without a transaction: {early:?}"
        );
        // The transaction takes place after all.
        let body = json!([{"key": marker, "value": "0"}]).to_string();
        let answer = ask(port, "POST", "/v1.0/state/redis-bare", body.as_bytes()).await;
        assert_eq!(answer.status, 204, "{}", text(&answer));
        let pending = async || {
            let answer = redis(&server, &["XPENDING", &topic, app_id]).await;
            let (count, ..): (u64, redis::Value, redis::Value, redis::Value) =
                redis::from_redis_value(answer).unwrap();
            count
        };
        if app_id == "keeps" {
            let mut all = Vec::new();
            event(&app, &mut all, &marker).await;
            soon("nothing is left", async || pending().await == 0).await;
        } else {
            assert_eq!(pending().await, 0, "it was taken for good");
            // Events that come later pass, so that one that was still under way would have come.
            assert_eq!(transact(port, "discards", upsert("later")).await, 204);
            let mut all = Vec::new();
            event(&app, &mut all, "com.dapr.event.sent").await;
            assert!(
                !all.iter().any(|event| event["type"] == marker.as_str()),
                "{all:?}"
            );
        }
    }
}

/// A transaction that the store refuses leaves nothing behind that would come again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_a_refused_transaction_is_given_up_by_any_sidecar_of_the_app() {
    let places = Places::start().await;
    let server = RedisServer::start(places.dir.path()).await;
    let app = app().await;
    let options = DaprdOptions {
        app_id: "conflicts".into(),
        app_port: Some(app.port()),
        resources: [bus(&server)]
            .into_iter()
            .chain(places.both("pg2", &[]))
            .collect(),
        ..Default::default()
    };
    let one = Daprd::start_ready(&options, &places.dir.path().join("one")).await;
    let two = Daprd::start_ready(&options, &places.dir.path().join("two")).await;
    for n in 0..40 {
        let key = format!("k{n}");
        assert_eq!(transact(one.http_port(), "pg2", upsert(&key)).await, 204);
        let mut refused = upsert(&key);
        refused[0]["request"]["etag"] = json!("00000000-0000-0000-0000-000000000000");
        refused[0]["request"]["options"] = json!({"concurrency": "first-write"});
        let port = [one.http_port(), two.http_port()][n % 2];
        assert_eq!(transact(port, "pg2", refused).await, 500);
    }
    let mut all = Vec::new();
    soon("all that was stored is told", async || {
        all.extend(events(&app));
        all.len() >= 40
    })
    .await;
    soon("nothing is left", async || {
        let answer = redis(
            &server,
            &["XPENDING", "defaultconflictsordersoutbox", "conflicts"],
        )
        .await;
        let (count, ..): (u64, redis::Value, redis::Value, redis::Value) =
            redis::from_redis_value(answer).unwrap();
        count == 0
    })
    .await;
    all.extend(events(&app));
    assert_eq!(all.len(), 40, "no event without a transaction");
}

fn options_of(
    places: &Places,
    server: &RedisServer,
    broker: &Server,
    app: &FakeApp,
    store: &str,
) -> DaprdOptions {
    let host = broker.component().2;
    let host: Vec<(&str, &str)> = host.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let inner = bus(server).replace("name: bus", "name: inner");
    let stores = places.both(store, &[("outboxPubsub", "inner")]);
    DaprdOptions {
        app_id: format!("killed-{store}"),
        app_port: Some(app.port()),
        resources: [inner, component("bus", "pubsub.redis", &host)]
            .into_iter()
            .chain(stores)
            .collect(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_the_transaction_and_its_event_loses_no_event() {
    let places = Places::start().await;
    let server = RedisServer::start(places.dir.path()).await;
    let mut broker = Server::start(Kind::RedisStreams).await;
    let app = app().await;
    for store in ["sqlite", "redis", "pg1", "pg2"] {
        let options = options_of(&places, &server, &broker, &app, store);
        let mut sidecar = Daprd::start_ready(&options, &places.dir.path().join(store)).await;
        // Without the broker of the events transactions are acknowledged, and events wait.
        broker.kill();
        let names: Vec<String> = (0..20).map(|n| format!("{store}-{n}")).collect();
        for name in &names {
            assert_eq!(transact(sidecar.http_port(), store, upsert(name)).await, 204);
        }
        let told = stream(&server, &format!("default{}ordersoutbox", options.app_id)).await;
        assert_eq!(told.len(), names.len());
        sidecar.process().kill();
        drop(sidecar);
        // Others may come again: each store's sidecar reads the topic from its beginning.
        let early: Vec<_> = events(&app)
            .into_iter()
            .map(|event| event["data"].clone())
            .collect();
        assert!(
            !early.iter().any(|data| names.iter().any(|name| data == name)),
            "{early:?}"
        );
        broker.start_again().await;
        let sidecar = Daprd::start_ready(&options, &places.dir.path().join(format!("{store}-again"))).await;
        let mut seen = Vec::new();
        soon("every event arrives", async || {
            seen.extend(events(&app).into_iter().map(|event| event["data"].clone()));
            names.iter().all(|name| seen.iter().any(|seen| seen == name))
        })
        .await;
        for event in told {
            let marker = format!("/v1.0/state/{store}-bare/{}", event["id"].as_str().unwrap());
            soon(&marker, async || {
                get(sidecar.http_port(), &marker).await.status == 204
            })
            .await;
        }
    }
}

/// Whether a key is there.
async fn is_stored(port: u16, store: &str, key: &str) -> bool {
    get(port, &format!("/v1.0/state/{store}/{key}")).await.status == 200
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_before_the_transaction_makes_an_event_only_if_it_took_place() {
    let places = Places::start().await;
    let server = RedisServer::start(places.dir.path()).await;
    let broker = Server::start(Kind::RedisStreams).await;
    let app = app().await;
    for store in ["sqlite", "redis", "pg1", "pg2"] {
        let options = options_of(&places, &server, &broker, &app, store);
        let mut sidecar = Daprd::start_ready(&options, &places.dir.path().join(store)).await;
        let port = sidecar.http_port();
        let before = format!("{store}-before");
        assert_eq!(transact(port, store, upsert(&before)).await, 204);
        soon("the first event arrives", async || {
            events(&app).iter().any(|event| event["data"] == before.as_str())
        })
        .await;
        let hold = Hold::on(&places, store);
        let late = format!("{store}-late");
        let call = tokio::spawn({
            let (store, late) = (store.to_owned(), late.clone());
            async move {
                let body = json!({"operations": upsert(&late)}).to_string().into_bytes();
                let request = Request {
                    method: "POST".into(),
                    path: format!("/v1.0/state/{store}/transaction"),
                    body: Some(body),
                    ..Default::default()
                };
                // The sidecar is killed meanwhile.
                let _ = send(port, &request, SOON).await;
            }
        });
        let topic = format!("default{}ordersoutbox", options.app_id);
        soon("the internal event is there", async || {
            stream(&server, &topic).await.len() == 2
        })
        .await;
        sidecar.process().kill();
        drop(sidecar);
        call.await.unwrap();
        drop(hold);
        let mut sidecar =
            Daprd::start_ready(&options, &places.dir.path().join(format!("{store}-again"))).await;
        let port = sidecar.http_port();
        let mut seen = Vec::new();
        soon("the event, or the word that there is none", async || {
            seen.extend(events(&app).into_iter().map(|event| event["data"].clone()));
            sidecar.process().log().contains("rejecting for later processing")
                || seen.iter().any(|seen| *seen == late)
        })
        .await;
        let is_told = seen.iter().any(|seen| *seen == late);
        assert_eq!(is_told, is_stored(port, store, &late).await, "{store}");
        assert!(is_stored(port, store, &before).await);
    }
}

/// Keeps a store from committing until dropped.
enum Hold<'a> {
    /// A connection that has the file for itself.
    Locked(#[expect(dead_code, reason = "its end is what counts")] rusqlite::Connection),
    Paused(&'a Server),
}

impl<'a> Hold<'a> {
    fn on(places: &'a Places, store: &str) -> Self {
        if store == "sqlite" {
            let db = rusqlite::Connection::open(places.sqlite()).unwrap();
            db.execute_batch("BEGIN EXCLUSIVE").unwrap();
            return Self::Locked(db);
        }
        let server = if store == "redis" {
            &places.redis
        } else {
            &places.postgres
        };
        server.pause();
        Self::Paused(server)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if let Self::Paused(server) = self {
            server.resume();
        }
    }
}
