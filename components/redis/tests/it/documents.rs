//! `state.redis` with documents, and queries over them, on the stand-in of `e2e/tools/redis_json.py`.

use std::collections::BTreeMap;

use outrigger_components_api::RequestMetadata;
use outrigger_components_api::state::{
    DeleteRequest, GetRequest, GetResponse, QueryRequest, QueryResponse, SetRequest, StateError,
    StateFeature, StateStore, StateValue, TransactionOperation, TransactionRequest,
};
use outrigger_components_api::testing::state::{removal, write};
use outrigger_components_redis::RedisState;

use crate::server::Server;

const INDEXES: &str = r#"[{"name": "people", "indexes": [{"key": "person.org", "type": "TEXT"},
    {"key": "age", "type": "NUMERIC"}]}]"#;

async fn connect(server: &Server) -> RedisState {
    RedisState::connect(&server.context([("queryIndexes", INDEXES)]))
        .await
        .unwrap()
}

fn metadata() -> RequestMetadata {
    BTreeMap::from([("contentType".to_owned(), "application/json".to_owned())])
}

fn set(key: &str, value: &str) -> SetRequest {
    SetRequest {
        value: StateValue::Json(outrigger_gojson::parse(value.as_bytes()).unwrap()),
        metadata: metadata(),
        ..write(key, "")
    }
}

fn delete(key: &str) -> DeleteRequest {
    DeleteRequest {
        metadata: metadata(),
        ..removal(key)
    }
}

async fn get(store: &RedisState, key: &str) -> GetResponse {
    let request = GetRequest {
        key: key.to_owned(),
        metadata: metadata(),
        ..Default::default()
    };
    store.get(request).await.unwrap()
}

async fn text(store: &RedisState, key: &str) -> Option<String> {
    let data = get(store, key).await.data;
    data.map(|data| String::from_utf8(data.to_vec()).unwrap())
}

#[tokio::test]
async fn documents_have_etags_first_writers_and_lifetimes() {
    let server = Server::start_with_documents().await;
    let store = connect(&server).await;
    assert!(store.features().contains(&StateFeature::QueryApi));
    assert_eq!(text(&store, "k").await, None);
    store.set(set("k", r#"{"b": 1, "a": "x"}"#)).await.unwrap();
    assert_eq!(text(&store, "k").await.as_deref(), Some(r#"{"a":"x","b":1}"#));
    let stored: String = server.command(&["JSON.GET", "k"]).await;
    let stored: serde_json::Value = serde_json::from_str(&stored).unwrap();
    assert_eq!(
        stored,
        serde_json::json!({"data": {"a": "x", "b": 1}, "version": 1})
    );

    let mut next = set("k", "2");
    next.etag = get(&store, "k").await.etag;
    assert_eq!(next.etag.as_deref(), Some("1"));
    store.set(next.clone()).await.unwrap();
    let stale = store.set(next).await.unwrap_err();
    assert!(matches!(stale, StateError::EtagMismatch(Some(_))), "{stale}");
    assert_eq!(
        (
            text(&store, "k").await.as_deref(),
            get(&store, "k").await.etag.as_deref()
        ),
        (Some("2"), Some("2"))
    );

    let mut guarded = delete("k");
    guarded.etag = Some("1".to_owned());
    assert!(matches!(
        store.delete(guarded).await,
        Err(StateError::EtagMismatch(_))
    ));
    store.delete(delete("k")).await.unwrap();
    assert_eq!(text(&store, "k").await, None);

    let mut first = set("f", "1");
    first.options.concurrency = "first-write".to_owned();
    store.set(first.clone()).await.unwrap();
    for second in [first, set("f", "2")] {
        let error = store.set(second).await.unwrap_err().to_string();
        assert!(error.starts_with("failed to set key f: "), "{error}");
    }
    let mut short = set("t", "1");
    short.metadata.insert("ttlInSeconds".to_owned(), "100".to_owned());
    store.set(short).await.unwrap();
    let left: i64 = server.command(&["TTL", "t"]).await;
    assert!((1..=100).contains(&left), "{left}");
}

#[tokio::test]
async fn a_hash_becomes_a_document_and_each_request_says_what_it_wants() {
    let server = Server::start_with_documents().await;
    let store = connect(&server).await;
    store.set(write("h", "plain")).await.unwrap();
    let is_hash: i64 = server.command(&["HEXISTS", "h", "data"]).await;
    assert_eq!(is_hash, 1);
    store.set(set("h", "[1]")).await.unwrap();
    assert_eq!(text(&store, "h").await.as_deref(), Some("[1]"));
    let operations = vec![
        TransactionOperation::Upsert(set("a", "1")),
        TransactionOperation::Upsert(write("b", "2")),
        TransactionOperation::Delete(delete("h")),
    ];
    let request = TransactionRequest {
        operations,
        ..Default::default()
    };
    store.transact(request).await.unwrap();
    assert_eq!(text(&store, "a").await.as_deref(), Some("1"));
    assert_eq!(server.command::<i64>(&["HEXISTS", "b", "data"]).await, 1);
    assert_eq!(text(&store, "h").await, None);
}

async fn query(store: &RedisState, document: &str) -> Result<QueryResponse, StateError> {
    let mut metadata = metadata();
    metadata.insert("queryIndexName".to_owned(), "people".to_owned());
    let query = outrigger_gojson::parse(document.as_bytes()).unwrap();
    store.query(QueryRequest { query, metadata }).await
}

fn keys(response: &QueryResponse) -> Vec<&str> {
    response.results.iter().map(|item| item.key.as_str()).collect()
}

#[tokio::test]
async fn queries_find_sort_and_turn_pages_over_what_is_indexed() {
    let server = Server::start_with_documents().await;
    let store = connect(&server).await;
    for (key, org, age) in [
        ("1", "Dev Ops", 30),
        ("2", "Finance", 41),
        ("3", "Dev Ops", 25),
        ("4", "Hardware", 41),
    ] {
        let value = format!(r#"{{"person": {{"org": "{org}", "id": {key}}}, "age": {age}}}"#);
        store.set(set(&format!("app||{key}"), &value)).await.unwrap();
    }
    store.set(write("app||plain", "no document")).await.unwrap();
    for (document, found) in [
        (
            r#"{"filter": {"EQ": {"person.org": "Dev Ops"}}, "sort": [{"key": "age"}]}"#,
            "3 1",
        ),
        (
            r#"{"filter": {"NEQ": {"person.org": "Dev Ops"}}, "sort": [{"key": "person.org", "order": "DESC"}]}"#,
            "4 2",
        ),
        (
            r#"{"filter": {"IN": {"person.org": ["Finance", "Hardware"]}}}"#,
            "2 4",
        ),
        (r#"{"filter": {"IN": {"age": [25, 30]}}}"#, "1 3"),
        (
            r#"{"filter": {"AND": [{"GTE": {"age": 41}}, {"NEQ": {"person.org": "Finance"}}]}}"#,
            "4",
        ),
        (
            r#"{"filter": {"OR": [{"LT": {"age": 30}}, {"GT": {"age": 40}}]}}"#,
            "2 3 4",
        ),
        ("{}", "1 2 3 4"),
    ] {
        let response = query(&store, document).await.unwrap();
        let numbers: Vec<&str> = keys(&response).iter().map(|key| &key[5..]).collect();
        assert_eq!(numbers.join(" "), found, "{document}");
        assert_eq!(response.token, "", "{document}");
    }
    let mut token = String::new();
    let mut seen = Vec::new();
    loop {
        let page = format!(r#"{{"sort": [{{"key": "age"}}], "page": {{"limit": 3, "token": "{token}"}}}}"#);
        let response = query(&store, &page).await.unwrap();
        seen.extend(keys(&response).iter().map(|key| (*key).to_owned()));
        if response.token.is_empty() {
            break;
        }
        token = response.token;
    }
    assert_eq!(token, "4");
    assert_eq!(seen[..2], ["app||3", "app||1"]);
    assert_eq!(seen.len(), 4);
    let first = &query(&store, r#"{"filter": {"EQ": {"age": 25}}}"#)
        .await
        .unwrap()
        .results[0];
    let value: serde_json::Value = serde_json::from_slice(first.response.data.as_ref().unwrap()).unwrap();
    assert_eq!(value["person"]["id"], 3);
    assert_eq!(first.response.etag.as_deref(), Some("1"));

    // A new start makes the index anew.
    let again = connect(&server).await;
    assert_eq!(query(&again, "{}").await.unwrap().results.len(), 4);
}

#[tokio::test]
async fn what_cannot_be_queried_is_told() {
    let server = Server::start_with_documents().await;
    let store = connect(&server).await;
    let error = query(&store, r#"{"filter": {"EQ": {"name": "x"}}}"#)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "JSON path \"name\" is not indexed");
    for (name, words) in [
        (None, "query index not found"),
        (Some("other"), "query index schema \"other\" not found"),
    ] {
        let mut metadata = metadata();
        metadata.extend(name.map(|name| ("queryIndexName".to_owned(), name.to_owned())));
        let query = outrigger_gojson::Value::Null;
        let error = store.query(QueryRequest { query, metadata }).await.unwrap_err();
        assert_eq!(error.to_string(), words);
    }
    let plain = Server::start().await;
    let error = RedisState::connect(&plain.context([("queryIndexes", INDEXES)]))
        .await
        .unwrap_err()
        .0;
    assert!(
        error.contains("queryIndexes") && error.contains("unknown command"),
        "{error}"
    );
}
