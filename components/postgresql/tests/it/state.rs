//! `state.postgresql`.

use std::sync::Arc;
use std::time::Duration;

use outrigger_components_api::state::{
    GetRequest, KeysLikeRequest, QueryRequest, StateError, StateFeature, StateStore, StateValue,
};
use outrigger_components_api::testing::init_context;
use outrigger_components_api::testing::state::{Traits, read, removal, suite, write};
use outrigger_components_postgresql::PostgresState;

use crate::server::Server;

const V1: [StateFeature; 5] = [
    StateFeature::Etag,
    StateFeature::Transactional,
    StateFeature::QueryApi,
    StateFeature::Ttl,
    StateFeature::KeysLike,
];
const V2: [StateFeature; 4] = [
    StateFeature::Etag,
    StateFeature::Transactional,
    StateFeature::Ttl,
    StateFeature::KeysLike,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_versions_keep_every_promise_in_every_mode() {
    let server = Server::start().await;
    for mode in ["cache_statement", "exec"] {
        let settings = [("queryExecMode", mode)];
        let mut traits = Traits::all(&format!("app1||{mode}"), &V2);
        let v2 = PostgresState::connect_v2(&server.context(&settings))
            .await
            .unwrap();
        suite(Arc::new(v2), &traits).await;
        let settings = [
            ("queryExecMode", mode),
            ("tableName", "v1"),
            ("metadataTableName", "v1m"),
        ];
        let v1 = PostgresState::connect_v1(&server.context(&settings))
            .await
            .unwrap();
        traits.normalises_json = true;
        traits.features = &V1;
        suite(Arc::new(v1), &traits).await;
    }
}

#[tokio::test]
async fn etags_are_those_of_dapr() {
    let server = Server::start().await;
    let v1 = PostgresState::connect_v1(&server.context(&[("tableName", "one"), ("metadataTableName", "m1")]))
        .await
        .unwrap();
    v1.set(write("k", "1")).await.unwrap();
    let etag = read(&v1, "k").await.etag.unwrap();
    etag.parse::<u32>().unwrap();
    let mut request = write("k", "2");
    request.etag = Some("abc".into());
    assert_eq!(
        v1.set(request.clone()).await.unwrap_err(),
        StateError::EtagInvalid(Some("strconv.ParseUint: parsing \"abc\": invalid syntax".into()))
    );
    request.etag = Some("4294967296".into());
    assert!(matches!(v1.set(request).await, Err(StateError::EtagInvalid(_))));

    let v2 = PostgresState::connect_v2(&server.context(&[])).await.unwrap();
    v2.set(write("k", "1")).await.unwrap();
    assert_eq!(read(&v2, "k").await.etag.unwrap().len(), 36);
    let mut request = removal("k");
    request.etag = Some("abc".into());
    assert_eq!(
        v2.delete(request).await.unwrap_err(),
        StateError::EtagMismatch(Some("invalid UUID length: 3".into()))
    );
    assert!(!v2.has(StateFeature::QueryApi) && v1.has(StateFeature::QueryApi));
}

#[tokio::test]
async fn wrong_settings_are_named() {
    for (settings, text) in [
        (vec![], "missing connection string"),
        (
            vec![("connectionString", "host=a"), ("timeout", "500ms")],
            "'timeout'",
        ),
        (
            vec![("connectionString", "host=a"), ("timeout", "soon")],
            "error decoding 'timeout'",
        ),
        (
            vec![("connectionString", "host=a port=x")],
            "failed to parse connection string",
        ),
        (
            vec![("url", "host=a"), ("tableName", "a; DROP TABLE b")],
            "tableName",
        ),
        (
            vec![("url", "host=a"), ("queryExecMode", "fast")],
            "invalid queryExecMode metadata value: fast",
        ),
        (vec![("url", "host=a"), ("useAzureAD", "true")], "useAzureAD"),
        (
            vec![(
                "connectionString",
                "host=127.0.0.1 port=1 user=u password=hunter2",
            )],
            "failed to connect to the database",
        ),
    ] {
        let mut context = init_context("pg", []);
        context.properties = settings
            .into_iter()
            .map(|(key, value): (&str, &str)| (key.to_owned(), value.to_owned()))
            .collect();
        let error = PostgresState::connect_v1(&context).await.unwrap_err();
        assert!(error.0.contains(text) && !error.0.contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn expired_rows_are_removed_by_one_of_many() {
    let server = Server::start().await;
    let context = server.context(&[("cleanupInterval", "1s")]);
    let (one, _two) = (
        PostgresState::connect_v2(&context).await.unwrap(),
        PostgresState::connect_v2(&context).await.unwrap(),
    );
    let mut request = write("short", "1");
    request.metadata.insert("ttlInSeconds".into(), "1".into());
    one.set(request).await.unwrap();
    one.set(write("stays", "1")).await.unwrap();
    let gone = async {
        while server.json("SELECT key FROM state").await.len() != 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
    assert_eq!(
        server
            .json("SELECT 1 FROM dapr_metadata WHERE key = 'last-cleanup-state-v2-'")
            .await
            .len(),
        1
    );
    context.shutdown.cancel();
    context.tasks.close();
    context.tasks.wait().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sidecars_that_start_at_once_make_the_tables_together() {
    let server = Server::start().await;
    let mut starts = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let context = server.context(&[]);
        starts.spawn(async move { PostgresState::connect_v2(&context).await.map(|_| context) });
    }
    while let Some(started) = starts.join_next().await {
        started.unwrap().unwrap();
    }
}

#[tokio::test]
async fn keys_are_listed_page_by_page_and_bulk_reads_put_found_rows_first() {
    let server = Server::start().await;
    let store = PostgresState::connect_v2(&server.context(&[])).await.unwrap();
    for key in ["app||a", "app||b", "app||c", "APP||d", "apple", "app||100%"] {
        store.set(write(key, "1")).await.unwrap();
    }
    let mut request = KeysLikeRequest {
        pattern: "app||%".into(),
        page_size: Some(2),
        continuation_token: None,
    };
    let first = store.keys_like(request.clone()).await.unwrap();
    assert_eq!(first.keys, ["app||a", "app||b"]);
    request.continuation_token = first.continuation_token;
    let second = store.keys_like(request.clone()).await.unwrap();
    assert_eq!(second.keys, ["app||c", "app||100%"]);
    assert_eq!(second.continuation_token, None);
    request = KeysLikeRequest {
        pattern: "app||100\\%".into(),
        ..Default::default()
    };
    assert_eq!(
        store.keys_like(request.clone()).await.unwrap().keys,
        ["app||100%"]
    );
    request.continuation_token = Some("x".into());
    store.keys_like(request).await.unwrap_err();

    let requests = ["zz", "apple", "zz"].map(|key| GetRequest {
        key: key.into(),
        ..Default::default()
    });
    let items = store.bulk_get(requests.into(), 0).await.unwrap();
    let keys: Vec<&str> = items.iter().map(|item| item.key.as_str()).collect();
    assert_eq!(keys, ["apple", "zz", "zz"]);
}

#[tokio::test]
async fn values_are_found_by_query() {
    let server = Server::start().await;
    let store = PostgresState::connect_v1(&server.context(&[])).await.unwrap();
    for (key, value) in [
        ("1", r#"{"person": {"org": "A", "id": 9}, "city": "Seattle"}"#),
        ("2", r#"{"person": {"org": "B", "id": 5}, "city": "Seattle"}"#),
        ("3", r#"{"person": {"org": "A", "id": 7}, "city": "Spokane"}"#),
    ] {
        let mut request = write(key, "");
        request.value = StateValue::Json(outrigger_gojson::parse(value.as_bytes()).unwrap());
        store.set(request).await.unwrap();
    }
    let ask = async |query: &str| {
        let request = QueryRequest {
            query: outrigger_gojson::parse(query.as_bytes()).unwrap(),
            metadata: Default::default(),
        };
        let response = store.query(request).await.unwrap();
        let keys: Vec<String> = response.results.into_iter().map(|item| item.key).collect();
        (keys.join(","), response.token)
    };
    let (keys, token) =
        ask(r#"{"filter": {"EQ": {"person.org": "A"}}, "sort": [{"key": "person.id"}]}"#).await;
    assert_eq!((keys.as_str(), token.as_str()), ("3,1", ""));
    let page = r#"{"sort": [{"key": "person.id", "order": "DESC"}], "page": {"limit": 2}}"#;
    assert_eq!(ask(page).await, ("1,3".to_owned(), "2".to_owned()));
    let page = r#"{"sort": [{"key": "person.id", "order": "DESC"}], "page": {"limit": 2, "token": "2"}}"#;
    assert_eq!(ask(page).await, ("2".to_owned(), "3".to_owned()));
    let both = r#"{"filter": {"AND": [{"IN": {"city": ["Seattle", "x"]}}, {"NEQ": {"person.org": "A"}}]}}"#;
    assert_eq!(ask(both).await.0, "2");
}
