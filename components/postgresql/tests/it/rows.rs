//! What a write leaves in the database must be what Dapr leaves there: the recorded rows, replayed.

use std::collections::BTreeMap;

use base64::Engine as _;
use outrigger_components_api::InitContext;
use outrigger_components_api::state::{
    DeleteRequest, SetRequest, StateError, StateOptions, StateStore, StateValue, TransactionOperation,
    TransactionRequest,
};
use outrigger_components_postgresql::PostgresState;
use serde_json::{Value, json};

use crate::server::Server;

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
fn set(request: &Value) -> SetRequest {
    SetRequest {
        key: format!("app1||{}", request["key"].as_str().unwrap()),
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

fn operation(operation: &Value) -> TransactionOperation {
    let request = &operation["request"];
    match operation["operation"].as_str().unwrap() {
        "upsert" => TransactionOperation::Upsert(set(request)),
        _ => TransactionOperation::Delete(DeleteRequest {
            key: format!("app1||{}", request["key"].as_str().unwrap()),
            ..Default::default()
        }),
    }
}

/// Plays one case; `None` if it never reaches a store.
async fn play(store: &PostgresState, input: &Value) -> Option<Vec<Result<(), StateError>>> {
    let mut results = Vec::new();
    match input["api"].as_str().unwrap() {
        "http" => {
            for batch in input["requests"].as_array().unwrap() {
                for request in batch.as_array().unwrap() {
                    results.push(store.set(set(request)).await);
                }
            }
        }
        "http transaction" => {
            for transaction in input["requests"].as_array().unwrap() {
                let operations = transaction["operations"].as_array().unwrap();
                let request = TransactionRequest {
                    operations: operations.iter().map(operation).collect(),
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
            let is_json = metadata
                .get("contentType")
                .is_some_and(|t| t == "application/json");
            let value = if is_json {
                // The API decodes it and refuses what is no JSON before the store sees it.
                StateValue::Json(outrigger_gojson::parse(&bytes).ok()?)
            } else {
                StateValue::Bytes(bytes.into())
            };
            let mut request = set(&json!({"key": input["key"], "value": null}));
            request.value = value;
            request.metadata = metadata;
            results.push(store.set(request).await);
        }
        other => panic!("unknown api {other}"),
    }
    Some(results)
}

/// The component of a case, on a schema of its own.
fn context(server: &Server, input: &Value, schema: &str) -> InitContext {
    let given = metadata(&input["component"]["metadata"]);
    let mut context = server.context(&[]);
    let url = format!("{}&search_path={schema}", server.url());
    context.properties = given
        .into_iter()
        .chain([("connectionString".to_owned(), url)])
        .collect();
    context
}

async fn connect(context: &InitContext, version: &Value) -> PostgresState {
    match version.as_str() {
        Some("v2") => PostgresState::connect_v2(context).await.unwrap(),
        _ => PostgresState::connect_v1(context).await.unwrap(),
    }
}

/// All rows, with what varies replaced as in the recording.
async fn rows(server: &Server, schema: &str, version: &Value) -> Vec<Value> {
    let (table, expires, extra) = match version.as_str() {
        Some("v2") => ("p_state", "expires_at", ", value::text AS value"),
        _ => ("s1", "expiredate", ""),
    };
    let made = if table == "s1" { "insertdate" } else { "created_at" };
    let updated = if table == "s1" { "updatedate" } else { "updated_at" };
    let sql = format!(
        "SELECT t.*{extra}, round(extract(epoch FROM {expires} - coalesce({updated}, {made})))::int AS expires_in
         FROM {schema}.{table} t ORDER BY row_id"
    );
    let mut rows = server.json(&sql).await;
    for row in &mut rows {
        for name in [made, updated, expires] {
            if !row[name].is_null() {
                row[name] = json!("<time>");
            }
        }
        row["row_id"] = json!("<n>");
        if !row["etag"].is_null() {
            assert_eq!(row["etag"].as_str().unwrap().len(), 36);
            row["etag"] = json!("<uuid>");
        }
    }
    rows
}

/// Numbers by value: both sides were through different JSON readers.
fn normal(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64().unwrap().to_string()),
        Value::Array(list) => list.iter().map(normal).collect(),
        Value::Object(members) => members.iter().map(|(k, v)| (k.clone(), normal(v))).collect(),
        other => other.clone(),
    }
}

#[tokio::test]
async fn every_recorded_write_leaves_the_rows_of_dapr() {
    let server = Server::start().await;
    let cases: Vec<Value> = serde_json::from_str(include_str!("../../testdata/state-rows.json")).unwrap();
    assert!(cases.len() > 55);
    let exceptions: BTreeMap<String, String> =
        serde_json::from_str(include_str!("../../testdata/state-rows-exceptions.json")).unwrap();
    for (number, case) in cases.iter().enumerate() {
        let id = case["id"].as_str().unwrap();
        let schema = format!("case{number}");
        server
            .client()
            .await
            .batch_execute(&format!("CREATE SCHEMA {schema}"))
            .await
            .unwrap();
        if id.ends_with("-schema") {
            check_schema(&server, case, &schema).await;
            continue;
        }
        let input = &case["input"];
        let context = context(&server, input, &schema);
        let version = &input["component"]["version"];
        let store = connect(&context, version).await;
        if let Some(results) = play(&store, input).await {
            let statuses: Vec<i64> = results
                .iter()
                .map(|result| match result {
                    Ok(()) => 204,
                    Err(StateError::EtagMismatch(_)) => 409,
                    Err(_) => 500,
                })
                .collect();
            if input["api"] != "grpc" {
                assert_eq!(json!(statuses), case["output"]["status"], "{id}");
            }
        }
        let got = json!(rows(&server, &schema, version).await);
        let is_same = normal(&got) == normal(&case["output"]["rows"]);
        assert_eq!(is_same, !exceptions.contains_key(id), "{id}: {got}");
        context.shutdown.cancel();
        store.close().await;
    }
}

async fn check_schema(server: &Server, case: &Value, schema: &str) {
    let version = &case["input"]["component"]["version"];
    let metadata = match version.as_str() {
        Some("v2") => json!({"tablePrefix": "p_"}),
        _ => json!({"tableName": "s1", "metadataTableName": "m1"}),
    };
    let input = json!({"component": {"metadata": metadata}});
    let context = context(server, &input, schema);
    connect(&context, version).await.close().await;
    // A second start changes nothing.
    connect(&context, version).await.close().await;
    context.shutdown.cancel();
    let mut lines: Vec<String> = server
        .json(&format!(
            "SELECT table_name || '|' || column_name || '|' || data_type || '|' || is_nullable || '|'
                 || coalesce(column_default, '') AS line
             FROM information_schema.columns WHERE table_schema = '{schema}'
             ORDER BY table_name, ordinal_position"
        ))
        .await
        .iter()
        .map(|row| row["line"].as_str().unwrap().to_owned())
        .collect();
    let table = if version == "v2" { "dapr_metadata" } else { "m1" };
    let migrations = server
        .json(&format!(
            "SELECT key || '|' || value AS line FROM {schema}.{table} WHERE key LIKE 'migrations%'"
        ))
        .await;
    lines.extend(
        migrations
            .iter()
            .map(|row| row["line"].as_str().unwrap().to_owned()),
    );
    let indexes = server
        .json(&format!(
            "SELECT replace(indexdef, '{schema}.', 'public.') AS line FROM pg_indexes
             WHERE schemaname = '{schema}' AND tablename <> '{table}' ORDER BY indexname"
        ))
        .await;
    lines.extend(indexes.iter().map(|row| row["line"].as_str().unwrap().to_owned()));
    assert_eq!(json!(lines), case["output"]["lines"], "{}", case["id"]);
}
