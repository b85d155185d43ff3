//! Components with servers behind them, each through a real `daprd` over both APIs, and to apps of both kinds: bindings on
//! RabbitMQ, Kafka, Mosquitto and PostgreSQL, configuration in PostgreSQL and in memory, locks in memory, Vault's secrets.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::Path;

use outrigger_e2e::ask::{SOON, ask, assert_calm, get, soon, text};
use outrigger_e2e::grpc::app::GrpcApp;
use outrigger_e2e::grpc::frame::base64;
use outrigger_e2e::http::app::FakeApp;
use outrigger_e2e::process::{Daprd, DaprdOptions};
use outrigger_e2e::sdk::component;
use outrigger_e2e::servers::{Kind, Server};
use outrigger_proto::runtime::v1 as wire;
use outrigger_proto::runtime::v1::unlock_response;
use serde_json::{Value, json};

/// An app of either kind.
enum App {
    Http(FakeApp),
    Grpc(GrpcApp),
}

impl App {
    async fn http() -> Self {
        let app = FakeApp::start("http").await;
        app.set_standing(serde_json::from_value(json!([{"path": "*", "status": 200}])).unwrap());
        Self::Http(app)
    }

    async fn grpc() -> Self {
        let answers = json!({
            "ListInputBindings": {"response": {"bindings": ["b"]}},
            "OnBindingEvent": {"response": {}},
        });
        Self::Grpc(GrpcApp::app("grpc", serde_json::from_value(answers).unwrap()).await)
    }

    fn port_and_protocol(&self) -> (u16, String) {
        match self {
            Self::Http(app) => (app.port(), "http".into()),
            Self::Grpc(app) => (app.port(), "grpc".into()),
        }
    }

    /// What has come since the last time, in a form that holds payloads as they are or in base 64.
    fn got(&self) -> Vec<String> {
        match self {
            Self::Http(app) => {
                let calls = app.take_calls().into_iter();
                let events = calls.filter(|call| call.method == "POST");
                events
                    .map(|call| format!("{} {}", call.path, String::from_utf8_lossy(&call.body)))
                    .collect()
            }
            Self::Grpc(app) => app.take_calls().iter().map(Value::to_string).collect(),
        }
    }
}

async fn start(app: Option<&App>, resources: Vec<String>, dir: &Path) -> Daprd {
    let mut options = DaprdOptions {
        app_id: "blocks".into(),
        resources,
        ..Default::default()
    };
    if let Some(app) = app {
        let (port, protocol) = app.port_and_protocol();
        options.app_port = Some(port);
        options.app_protocol = Some(protocol);
    }
    Daprd::start_ready(&options, dir).await
}

/// What a binding answers over HTTP: status, body, headers.
async fn over_http(sidecar: &Daprd, body: &Value) -> (u16, String, Vec<(String, String)>) {
    let answer = ask(
        sidecar.http_port(),
        "POST",
        "/v1.0/bindings/b",
        body.to_string().as_bytes(),
    )
    .await;
    (answer.status, text(&answer), answer.headers)
}

async fn over_grpc(
    sidecar: &Daprd,
    operation: &str,
    data: &[u8],
    metadata: &[(&str, &str)],
) -> wire::InvokeBindingResponse {
    let pairs = metadata
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let request = wire::InvokeBindingRequest {
        name: "b".into(),
        operation: operation.into(),
        data: data.to_vec().into(),
        metadata: pairs.collect(),
    };
    let answer = sidecar.grpc_client().await.invoke_binding(request).await;
    answer.unwrap().into_inner()
}

/// Messages go out over both APIs, and come in at an app of each kind.
async fn a_broker_binding(of_type: &str, options_of: impl Fn(&str) -> Vec<(&'static str, String)>) {
    let dir = tempfile::tempdir().unwrap();
    for (kind, app) in [("http", App::http().await), ("grpc", App::grpc().await)] {
        let options = options_of(kind);
        let pairs: Vec<(&str, &str)> = options
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let mut sidecar = start(
            Some(&app),
            vec![component("b", of_type, &pairs)],
            &dir.path().join(kind),
        )
        .await;
        let mut got = Vec::new();
        // The consumer may join its group after the sidecar is ready: what is sent before is not for it.
        soon("the first message comes", async || {
            over_grpc(&sidecar, "create", b"first", &[]).await;
            got.extend(app.got());
            holds(&got, "first")
        })
        .await;
        let body = json!({"operation": "create", "data": {"from": "http"}});
        assert_eq!(over_http(&sidecar, &body).await.0, 204);
        over_grpc(&sidecar, "create", b"from grpc", &[]).await;
        soon(&format!("{of_type} to a {kind} app"), async || {
            got.extend(app.got());
            holds(&got, r#"{"from":"http"}"#) && holds(&got, "from grpc")
        })
        .await;
        if kind == "http" {
            assert!(got.iter().all(|event| event.starts_with("/b ")), "{got:?}");
        }
        let (status, answer, _) = over_http(&sidecar, &json!({"operation": "get", "data": ""})).await;
        assert!(
            status == 500 && answer.contains("ERR_INVOKE_OUTPUT_BINDING"),
            "{answer}"
        );
        assert_calm(&mut sidecar).await;
    }
}

fn holds(got: &[String], payload: &str) -> bool {
    let encoded = base64(payload.as_bytes());
    let quoted = Value::from(payload).to_string();
    got.iter().any(|event| {
        [payload, &encoded, &quoted]
            .iter()
            .any(|form| event.contains(*form))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binding_on_rabbitmq() {
    let server = Server::start(Kind::RabbitMq).await;
    a_broker_binding("bindings.rabbitmq", |kind| {
        vec![
            ("host", format!("amqp://guest:guest@127.0.0.1:{}", server.port())),
            ("queueName", format!("q-{kind}")),
            ("durable", "true".into()),
        ]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binding_on_kafka() {
    let server = Server::start(Kind::Kafka).await;
    a_broker_binding("bindings.kafka", |kind| {
        vec![
            ("brokers", format!("127.0.0.1:{}", server.port())),
            ("authType", "none".into()),
            ("topics", format!("t-{kind}")),
            ("publishTopic", format!("t-{kind}")),
            ("consumerGroup", format!("g-{kind}")),
            ("initialOffset", "oldest".into()),
        ]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binding_on_mosquitto() {
    let server = Server::start(Kind::Mosquitto).await;
    a_broker_binding("bindings.mqtt3", |kind| {
        vec![
            ("url", format!("mqtt://127.0.0.1:{}", server.port())),
            ("topic", format!("t-{kind}")),
            ("consumerID", format!("c-{kind}")),
        ]
    })
    .await;
}

fn postgres(server: &Server) -> String {
    format!(
        "postgres://dapr@127.0.0.1:{}/postgres?sslmode=disable",
        server.port()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binding_on_postgresql_and_configuration_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(Kind::Postgres).await;
    let place = postgres(&server);
    let binding = component("b", "bindings.postgresql", &[("connectionString", &place)]);
    let mut sidecar = start(None, vec![binding.clone()], &dir.path().join("first")).await;
    let exec =
        |sql: &str, params: &str| json!({"operation": "exec", "metadata": {"sql": sql, "params": params}});
    let table =
        "CREATE TABLE cfg (key TEXT NOT NULL, value TEXT NOT NULL, version TEXT NOT NULL, metadata JSON)";
    let (status, answer, _) = over_http(&sidecar, &exec(table, "[]")).await;
    assert_eq!(status, 200, "{answer}");
    let insert = "INSERT INTO cfg VALUES ($1, $2, '1', '{}')";
    let (status, _, headers) = over_http(&sidecar, &exec(insert, r#"["k","one"]"#)).await;
    assert_eq!(status, 200);
    let rows = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("metadata.rows-affected"));
    assert_eq!(rows.map(|(_, value)| value.as_str()), Some("1"), "{headers:?}");
    let inserted = over_grpc(
        &sidecar,
        "exec",
        b"",
        &[("sql", insert), ("params", r#"["other","two"]"#)],
    )
    .await;
    assert_eq!(inserted.metadata["rows-affected"], "1");
    let select = "SELECT key, value FROM cfg ORDER BY key";
    let found = over_grpc(&sidecar, "query", b"", &[("sql", select)]).await;
    let wanted = r#"[["k","one"],["other","two"]]"#;
    assert_eq!(String::from_utf8_lossy(&found.data), wanted);
    let query = json!({"operation": "query", "metadata": {"sql": select}});
    let (status, answer, _) = over_http(&sidecar, &query).await;
    assert_eq!((status, answer.as_str()), (200, wanted));
    let (status, answer, _) = over_http(&sidecar, &exec("SELEKT", "[]")).await;
    assert!(
        status == 500 && answer.contains("ERR_INVOKE_OUTPUT_BINDING"),
        "{answer}"
    );
    assert_calm(&mut sidecar).await;

    let configuration = component(
        "c",
        "configuration.postgresql",
        &[("connectionString", &place), ("table", "cfg")],
    );
    for app in [App::http().await, App::grpc().await] {
        let name = app.port_and_protocol().1;
        let resources = vec![binding.clone(), configuration.clone()];
        let mut sidecar = start(Some(&app), resources, &dir.path().join(&name)).await;
        reads_configuration(&sidecar, "k", "one", "1").await;
        follows_configuration(&sidecar, &app).await;
        assert_calm(&mut sidecar).await;
    }
}

async fn reads_configuration(sidecar: &Daprd, key: &str, value: &str, version: &str) {
    let answer = get(
        sidecar.http_port(),
        &format!("/v1.0/configuration/c?key={key}&key=none"),
    )
    .await;
    let read: Value = serde_json::from_str(&text(&answer)).unwrap();
    assert_eq!(read[key]["value"], value, "{read}");
    assert_eq!(read[key]["version"], version, "{read}");
    assert!(read.get("none").is_none(), "{read}");
    let request = wire::GetConfigurationRequest {
        store_name: "c".into(),
        keys: vec![key.into()],
        metadata: HashMap::new(),
    };
    let answer = sidecar.grpc_client().await.get_configuration(request).await;
    let items = answer.unwrap().into_inner().items;
    assert_eq!(
        (items[key].value.as_str(), items[key].version.as_str()),
        (value, version)
    );
}

/// A change is told to a stream over gRPC, and to the app that has subscribed over HTTP.
async fn follows_configuration(sidecar: &Daprd, app: &App) {
    let channel = HashMap::from([("pgNotifyChannel".to_owned(), "changes".to_owned())]);
    let request = wire::SubscribeConfigurationRequest {
        store_name: "c".into(),
        keys: vec!["k".into()],
        metadata: channel,
    };
    let mut client = sidecar.grpc_client().await;
    let mut stream = client
        .subscribe_configuration(request)
        .await
        .unwrap()
        .into_inner();
    let first = tokio::time::timeout(SOON, stream.message())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(!first.id.is_empty() && first.items.is_empty(), "{first:?}");
    let subscribe = "/v1.0/configuration/c/subscribe?key=k&metadata.pgNotifyChannel=changes";
    let told_app = match app {
        App::Http(_) => {
            let answer = get(sidecar.http_port(), subscribe).await;
            assert_eq!(answer.status, 200, "{}", text(&answer));
            true
        }
        // There is nobody who could be called over HTTP.
        App::Grpc(_) => false,
    };
    app.got();
    let notify = r#"SELECT pg_notify('changes', '{"data":{"key":"k","value":"new","version":"2"}}')"#;
    over_grpc(sidecar, "exec", b"", &[("sql", notify)]).await;
    let update = tokio::time::timeout(SOON, stream.message())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(update.id, first.id);
    assert_eq!(
        (
            update.items["k"].value.as_str(),
            update.items["k"].version.as_str()
        ),
        ("new", "2")
    );
    if told_app {
        let mut got = Vec::new();
        soon("the app is told", async || {
            got.extend(app.got());
            got.iter()
                .any(|event: &String| event.starts_with("/configuration/c/k ") && event.contains("\"new\""))
        })
        .await;
    }
    let id = first.id;
    let unsubscribe = format!("/v1.0/configuration/c/{id}/unsubscribe");
    let answer = get(sidecar.http_port(), &unsubscribe).await;
    let answer: Value = serde_json::from_str(&text(&answer)).unwrap();
    assert_eq!(answer["ok"], true, "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configuration_and_locks_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let resources = vec![
        component("c", "configuration.in-memory", &[("k", "one||7")]),
        component("l", "lock.in-memory", &[]),
    ];
    let mut sidecar = start(None, resources, dir.path()).await;
    reads_configuration(&sidecar, "k", "one", "7").await;
    let mut client = sidecar.grpc_client().await;

    // What is locked over one API is locked over the other.
    let lock =
        |owner: &str| json!({"resourceId": "r", "lockOwner": owner, "expiryInSeconds": 60}).to_string();
    let path = "/v1.0-alpha1/lock/l";
    let answer = ask(sidecar.http_port(), "POST", path, lock("me").as_bytes()).await;
    assert_eq!(text(&answer), r#"{"success":true}"#);
    let mut try_lock = async |owner: &str| {
        let request = wire::TryLockRequest {
            store_name: "l".into(),
            resource_id: "r".into(),
            lock_owner: owner.into(),
            expiry_in_seconds: 60,
        };
        client
            .try_lock_alpha1(request)
            .await
            .unwrap()
            .into_inner()
            .success
    };
    assert!(!try_lock("you").await);
    let mut unlocking = sidecar.grpc_client().await;
    let mut unlock = async |owner: &str| {
        let request = wire::UnlockRequest {
            store_name: "l".into(),
            resource_id: "r".into(),
            lock_owner: owner.into(),
        };
        unlocking
            .unlock_alpha1(request)
            .await
            .unwrap()
            .into_inner()
            .status()
    };
    assert_eq!(unlock("you").await, unlock_response::Status::LockBelongsToOthers);
    assert_eq!(unlock("me").await, unlock_response::Status::Success);
    assert!(try_lock("you").await);
    let body = json!({"resourceId": "r", "lockOwner": "you"}).to_string();
    let unlock_path = "/v1.0-alpha1/unlock/l";
    let answer = ask(sidecar.http_port(), "POST", unlock_path, body.as_bytes()).await;
    assert_eq!(text(&answer), r#"{"status":0}"#);
    let answer = ask(sidecar.http_port(), "POST", unlock_path, body.as_bytes()).await;
    assert_eq!(text(&answer), r#"{"status":1}"#);
    assert_calm(&mut sidecar).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_of_vault() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(Kind::Vault).await;
    let (_, of_type, pairs) = server.component();
    let pairs: Vec<(&str, &str)> = pairs
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let mut sidecar = start(None, vec![component("v", of_type, &pairs)], dir.path()).await;
    let answer = get(sidecar.http_port(), "/v1.0/secrets/v/load").await;
    assert_eq!(
        (answer.status, text(&answer)),
        (200, r#"{"word":"hush"}"#.to_owned())
    );
    let answer = get(sidecar.http_port(), "/v1.0/secrets/v/bulk").await;
    assert_eq!(text(&answer), r#"{"load":{"word":"hush"}}"#);
    let answer = get(sidecar.http_port(), "/v1.0/secrets/v/none").await;
    assert!(answer.status >= 400 || answer.status == 204, "{}", text(&answer));
    let mut client = sidecar.grpc_client().await;
    let request = wire::GetSecretRequest {
        store_name: "v".into(),
        key: "load".into(),
        metadata: HashMap::new(),
    };
    let word = HashMap::from([("word".to_owned(), "hush".to_owned())]);
    assert_eq!(client.get_secret(request).await.unwrap().into_inner().data, word);
    let request = wire::GetBulkSecretRequest {
        store_name: "v".into(),
        metadata: HashMap::new(),
    };
    let all = client.get_bulk_secret(request).await.unwrap().into_inner().data;
    assert_eq!((all.len(), &all["load"].secrets), (1, &word));
    assert_calm(&mut sidecar).await;
}
