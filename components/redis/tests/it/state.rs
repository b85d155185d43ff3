//! `state.redis`.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use outrigger_components_api::state::{
    DeleteRequest, QueryRequest, SetRequest, StateError, StateFeature, StateOptions, StateStore, StateValue,
    TransactionOperation, TransactionRequest,
};
use outrigger_components_api::testing::state::{Traits, read, removal, suite, write};
use outrigger_components_redis::RedisState;
use serde_json::{Value, json};

use crate::server::Server;

/// Of a server without modules.
pub(crate) const FEATURES: [StateFeature; 3] =
    [StateFeature::Etag, StateFeature::Transactional, StateFeature::Ttl];

async fn connect(server: &Server) -> RedisState {
    RedisState::connect(&server.context([])).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_keeps_every_promise() {
    let server = Server::start().await;
    let traits = Traits {
        features: &FEATURES,
        prefix: "app1||".into(),
        rolls_back: false,
        etag_needs_key: false,
        tells_expiry: false,
        normalises_json: false,
    };
    suite(Arc::new(connect(&server).await), &traits).await;
}

#[tokio::test]
async fn errors_have_the_kinds_and_texts_of_dapr() {
    let server = Server::start().await;
    let store = connect(&server).await;
    let mut request = write("k", "1");
    request.etag = Some("garbage".into());
    let error = store.set(request.clone()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid etag value: strconv.Atoi: parsing \"garbage\": invalid syntax"
    );
    // The last writer wins whatever its etag.
    request.options.concurrency = "last-write".into();
    store.set(request.clone()).await.unwrap();
    // But a removal minds its etag even then.
    let mut delete = removal("k");
    delete.etag = Some("9".into());
    delete.options.concurrency = "last-write".into();
    assert!(matches!(
        store.delete(delete).await,
        Err(StateError::EtagMismatch(Some(_)))
    ));
    request.metadata.insert("ttlInSeconds".into(), "abc".into());
    assert_eq!(
        store.set(request).await.unwrap_err().to_string(),
        "failed to parse ttl from metadata: strconv.ParseInt: parsing \"abc\": invalid syntax"
    );
    // Somebody wrote first and wants to stay the only one: no mismatch without an etag.
    let mut first = write("f", "1");
    first.options.concurrency = "first-write".into();
    store.set(first.clone()).await.unwrap();
    for second in [first, write("f", "2")] {
        let error = store.set(second).await.unwrap_err();
        assert!(
            matches!(&error, StateError::Other(text) if text.starts_with("failed to set key f: ")),
            "{error}"
        );
    }
    assert!(store.can_query());
    let query = QueryRequest {
        query: outrigger_gojson::Value::Null,
        metadata: BTreeMap::new(),
    };
    assert_eq!(
        store.query(query).await.unwrap_err().to_string(),
        "redis-json server support is required for query capability"
    );
}

#[tokio::test]
async fn plain_values_of_others_are_read_and_replaced() {
    let server = Server::start().await;
    let store = connect(&server).await;
    let _: String = server.command(&["SET", "k", "plain"]).await;
    let got = read(&store, "k").await;
    assert_eq!((got.data.as_deref(), got.etag), (Some(&b"plain"[..]), None));
    store.set(write("k", "hash")).await.unwrap();
    let got = read(&store, "k").await;
    assert_eq!(
        (got.data.as_deref(), got.etag.as_deref()),
        (Some(&b"hash"[..]), Some("1"))
    );
    let _: String = server.command(&["SET", "k", "plain"]).await;
    store.delete(removal("k")).await.unwrap();
    assert_eq!(read(&store, "k").await.data, None);
    let _: i64 = server.command(&["HSET", "k", "other", "1", "version", "1"]).await;
    let error = store
        .get(outrigger_components_api::state::GetRequest {
            key: "k".into(),
            ..Default::default()
        })
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "required hash field 'data' or 'version' was not found"
    );
}

#[tokio::test]
async fn lifetimes_follow_request_and_component() {
    let server = Server::start().await;
    let context = server.context([("ttlInSeconds", "50")]);
    let store = RedisState::connect(&context).await.unwrap();
    let with = |ttl: &str| {
        let mut request = write("k", "1");
        request.metadata.insert("ttlInSeconds".into(), ttl.into());
        request
    };
    let left = async || -> i64 { server.command(&["TTL", "k"]).await };
    store.set(write("k", "1")).await.unwrap();
    assert!((40..=50).contains(&left().await));
    store.set(with("1000")).await.unwrap();
    assert!(left().await > 900);
    store.set(with("-1")).await.unwrap();
    assert_eq!(left().await, -1);
    store.set(with("99999999999")).await.unwrap();
    assert!(left().await > 99_999_999_000);
    // Without a default of the component a lifetime stays as it was.
    let store = connect(&server).await;
    store.set(with("1000")).await.unwrap();
    store.set(write("k", "2")).await.unwrap();
    assert!(left().await > 900);
}

#[tokio::test]
async fn a_lost_connection_is_made_anew() {
    let mut server = Server::start().await;
    let context = server.context([("redisMinRetryInterval", "10ms")]);
    let store = RedisState::connect(&context).await.unwrap();
    store.set(write("k", "1")).await.unwrap();
    server.kill();
    store.set(write("k", "2")).await.unwrap_err();
    server.start_again().await;
    store.set(write("k", "3")).await.unwrap();
    assert_eq!(read(&store, "k").await.data.as_deref(), Some(&b"3"[..]));
}

fn metadata(value: &Value) -> BTreeMap<String, String> {
    match value {
        Value::Null => BTreeMap::new(),
        value => serde_json::from_value(value.clone()).unwrap(),
    }
}

fn prefix(input: &Value) -> &str {
    match input["component"]["metadata"]["keyPrefix"].as_str() {
        None => "app1||",
        Some("none") => "",
        Some(other) => panic!("{other}"),
    }
}

fn set(prefix: &str, request: &Value) -> SetRequest {
    SetRequest {
        key: format!("{prefix}{}", request["key"].as_str().unwrap()),
        value: StateValue::Json(outrigger_gojson::parse(request["value"].to_string().as_bytes()).unwrap()),
        etag: request["etag"].as_str().map(str::to_owned),
        metadata: metadata(&request["metadata"]),
        options: StateOptions {
            concurrency: request["options"]["concurrency"].as_str().unwrap_or("").into(),
            consistency: String::new(),
        },
        content_type: None,
    }
}

async fn play(store: &RedisState, input: &Value) -> Vec<Result<(), StateError>> {
    let prefix = prefix(input);
    let mut results = Vec::new();
    match input["api"].as_str().unwrap() {
        "http" => {
            for batch in input["requests"].as_array().unwrap() {
                for request in batch.as_array().unwrap() {
                    results.push(store.set(set(prefix, request)).await);
                }
            }
        }
        "http transaction" => {
            for transaction in input["requests"].as_array().unwrap() {
                let operations = transaction["operations"].as_array().unwrap().iter();
                let operations = operations.map(|step| match step["operation"].as_str().unwrap() {
                    "upsert" => TransactionOperation::Upsert(set(prefix, &step["request"])),
                    _ => TransactionOperation::Delete(DeleteRequest {
                        key: format!("{prefix}{}", step["request"]["key"].as_str().unwrap()),
                        ..Default::default()
                    }),
                });
                let request = TransactionRequest {
                    operations: operations.collect(),
                    ..Default::default()
                };
                results.push(store.transact(request).await);
            }
        }
        "grpc" => {
            let bytes = BASE64.decode(input["value_b64"].as_str().unwrap()).unwrap();
            let metadata = metadata(&input["metadata"]);
            let mut request = set(prefix, &json!({"key": input["key"], "value": null}));
            request.value = if metadata
                .get("contentType")
                .is_some_and(|t| t == "application/json")
            {
                // The API refuses what is no JSON before the store sees it.
                match outrigger_gojson::parse(&bytes) {
                    Ok(value) => StateValue::Json(value),
                    Err(_) => return results,
                }
            } else {
                StateValue::Bytes(bytes.into())
            };
            request.metadata = metadata;
            results.push(store.set(request).await);
        }
        other => panic!("unknown api {other}"),
    }
    results
}

fn field(value: Vec<u8>) -> Value {
    match String::from_utf8(value) {
        Ok(text) => Value::String(text),
        Err(error) => json!({"b64": BASE64.encode(error.as_bytes())}),
    }
}

async fn rows(server: &Server) -> Vec<Value> {
    let mut keys: Vec<String> = server.command(&["KEYS", "*"]).await;
    keys.sort();
    let mut rows = Vec::new();
    for key in keys {
        let kind: String = server.command(&["TYPE", &key]).await;
        let fields: BTreeMap<String, Vec<u8>> = server.command(&["HGETALL", &key]).await;
        let fields: BTreeMap<String, Value> = fields.into_iter().map(|(k, v)| (k, field(v))).collect();
        let ttl: i64 = server.command(&["TTL", &key]).await;
        let ttl = match ttl {
            -1 => json!(-1),
            490..=500 | 990..=1000 => json!("<about 1000 or 500>"),
            other => json!(other),
        };
        rows.push(json!({"fields": fields, "key": key, "ttl_s": ttl, "type": kind}));
    }
    rows
}

#[tokio::test]
async fn every_recorded_write_leaves_the_rows_of_dapr() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../../testdata/state-rows.json")).unwrap();
    assert!(cases.len() >= 30);
    let server = Server::start().await;
    let store = connect(&server).await;
    for case in cases {
        let id = &case["id"];
        let _: String = server.command(&["FLUSHALL"]).await;
        let results = play(&store, &case["input"]).await;
        let statuses: Vec<i64> = results
            .iter()
            .map(|result| match result {
                Ok(()) => 204,
                Err(StateError::EtagMismatch(_)) => 409,
                Err(_) => 500,
            })
            .collect();
        if case["input"]["api"] != "grpc" {
            assert_eq!(json!(statuses), case["output"]["status"], "{id}");
        }
        assert_eq!(json!(rows(&server).await), case["output"]["rows"], "{id}");
    }
}
