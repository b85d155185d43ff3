//! What a write leaves in the file must be what Dapr leaves there: the recorded rows, replayed.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use base64::Engine as _;
use outrigger_components_api::state::{
    DeleteRequest, SetRequest, StateError, StateOptions, StateStore, StateValue, TransactionOperation,
    TransactionRequest,
};
use outrigger_components_api::testing::init_context;
use outrigger_components_sqlite::SqliteState;
use serde_json::{Value, json};

/// The part of the sidecar that is not ours here: key prefixes.
fn prefix(input: &Value) -> String {
    match input["component"]["metadata"]["keyPrefix"].as_str() {
        None | Some("appid") => "app1||".into(),
        Some("namespace") => "ns1.app1||".into(),
        Some("name") => format!("{}||", input["component"]["name"].as_str().unwrap()),
        Some("none") => String::new(),
        Some(other) => format!("{}||", other.to_lowercase()),
    }
}

fn metadata(value: &Value) -> BTreeMap<String, String> {
    match value {
        Value::Null => BTreeMap::new(),
        value => serde_json::from_value(value.clone()).unwrap(),
    }
}

fn json_value(value: &Value) -> StateValue {
    StateValue::Json(outrigger_gojson::parse(value.to_string().as_bytes()).unwrap())
}

/// A request as the HTTP API hands it to the store.
fn set(prefix: &str, request: &Value) -> SetRequest {
    SetRequest {
        key: format!("{prefix}{}", request["key"].as_str().unwrap()),
        value: json_value(&request["value"]),
        etag: request["etag"].as_str().map(str::to_owned),
        metadata: metadata(&request["metadata"]),
        options: StateOptions {
            concurrency: request["options"]["concurrency"].as_str().unwrap_or("").into(),
            consistency: String::new(),
        },
        content_type: None,
    }
}

fn operation(prefix: &str, operation: &Value) -> TransactionOperation {
    let request = &operation["request"];
    match operation["operation"].as_str().unwrap() {
        "upsert" => TransactionOperation::Upsert(set(prefix, request)),
        _ => TransactionOperation::Delete(DeleteRequest {
            key: format!("{prefix}{}", request["key"].as_str().unwrap()),
            ..Default::default()
        }),
    }
}

/// Plays one case; `None` if it never reaches a store.
async fn play(store: &SqliteState, input: &Value) -> Option<Vec<Result<(), StateError>>> {
    let prefix = prefix(input);
    let mut results = Vec::new();
    match input["api"].as_str().unwrap() {
        "http" => {
            for batch in input["requests"].as_array().unwrap() {
                for request in batch.as_array().unwrap() {
                    results.push(store.set(set(&prefix, request)).await);
                }
            }
        }
        "http transaction" => {
            for transaction in input["requests"].as_array().unwrap() {
                let operations = transaction["operations"].as_array().unwrap();
                let request = TransactionRequest {
                    operations: operations.iter().map(|step| operation(&prefix, step)).collect(),
                    ..Default::default()
                };
                results.push(store.transact(request).await);
            }
        }
        "grpc" => {
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(input["value_b64"].as_str().unwrap())
                .unwrap();
            let metadata = metadata(&input["metadata"]);
            let value = if metadata
                .get("contentType")
                .is_some_and(|t| t == "application/json")
            {
                // The API decodes it and refuses what is no JSON before the store sees it.
                StateValue::Json(outrigger_gojson::parse(&bytes).ok()?)
            } else {
                StateValue::Bytes(bytes.into())
            };
            let mut request = set(&prefix, &json!({"key": input["key"], "value": null}));
            request.value = value;
            request.metadata = metadata;
            results.push(store.set(request).await);
        }
        other => panic!("unknown api {other}"),
    }
    Some(results)
}

/// All rows, with what varies replaced as in the recording.
fn rows(path: &str, table: &str) -> Vec<Value> {
    let connection = rusqlite::Connection::open(path).unwrap();
    let mut statement = connection
        .prepare(&format!(
            "SELECT key, value, is_binary, etag, expiration_time, update_time,
             unixepoch(expiration_time) - unixepoch(update_time) FROM {table} ORDER BY key"
        ))
        .unwrap();
    let rows = statement.query_map([], |row| {
        let etag: String = row.get(3)?;
        assert_eq!(etag.len(), 36, "{etag}");
        let expiration: Option<String> = row.get(4)?;
        for time in expiration.iter().chain([&row.get::<_, String>(5)?]) {
            assert_eq!(time.len(), "2026-01-02 03:04:05".len(), "{time}");
        }
        let seconds: Option<i64> = row.get(6)?;
        Ok(json!({
            "key": row.get::<_, String>(0)?,
            "value": row.get::<_, String>(1)?,
            "is_binary": row.get::<_, i64>(2)?,
            "etag": "<uuid>",
            "expiration_time": seconds.map(|s| format!("<update_time + {s} s>")),
            "update_time": "<time>",
        }))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn every_recorded_write_leaves_the_rows_of_dapr() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../testdata/state-rows.json")).unwrap();
    assert!(cases.len() > 30);
    for case in cases {
        let id = &case["id"];
        let input = &case["input"];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.db");
        let path = path.to_str().unwrap();
        let mut context = init_context("sq", []);
        context.properties = metadata(&input["component"]["metadata"])
            .into_iter()
            .chain([("connectionString".to_owned(), path.to_owned())])
            .collect();
        let store = SqliteState::open(&context).await.unwrap();
        if let Some(results) = play(&store, input).await {
            let statuses: Vec<i64> = results
                .iter()
                .map(|result| match result {
                    Ok(()) => 204,
                    Err(StateError::EtagMismatch(_)) => 409,
                    Err(error) => panic!("{id}: {error}"),
                })
                .collect();
            if input["api"] != "grpc" {
                assert_eq!(json!(statuses), case["output"]["status"], "{id}");
            }
        }
        let table = context.properties.get("tableName").unwrap_or("state");
        assert_eq!(json!(rows(path, table)), case["output"]["rows"], "{id}");
        store.close().await;
    }
}

#[tokio::test]
async fn the_tables_are_those_of_dapr() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.db");
    let context = init_context("sq", [("URL", path.to_str().unwrap())]);
    SqliteState::open(&context).await.unwrap().close().await;
    let connection = rusqlite::Connection::open(&path).unwrap();
    let mut statement = connection
        .prepare("SELECT name, type, \"notnull\", pk FROM pragma_table_info('state')")
        .unwrap();
    let columns: Vec<(String, String, bool, bool)> = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let expected = [
        ("key", "TEXT", true, true),
        ("value", "TEXT", true, false),
        ("is_binary", "BOOLEAN", true, false),
        ("etag", "TEXT", true, false),
        ("expiration_time", "TIMESTAMP", false, false),
        ("update_time", "TIMESTAMP", true, false),
    ];
    assert_eq!(
        columns,
        expected.map(|(name, kind, required, key)| (name.to_owned(), kind.to_owned(), required, key))
    );
    let text = |sql: &str| -> String { connection.query_row(sql, [], |row| row.get(0)).unwrap() };
    assert_eq!(text("SELECT value FROM metadata WHERE key = 'migrations'"), "1");
    assert_eq!(text("PRAGMA journal_mode"), "wal");
}
