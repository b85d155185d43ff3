//! What every state store must do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use outrigger_gojson::Value;

use super::soon;
use crate::state::{
    DeleteRequest, GetRequest, GetResponse, Guard, SetRequest, StateError, StateFeature, StateOptions,
    StateStore, StateValue, TransactionOperation, TransactionRequest,
};

/// Where stores differ by contract.
#[derive(Debug, Clone)]
pub struct Traits {
    /// What it says it can: no more, and no less.
    pub features: &'static [StateFeature],
    /// Put before every key, so that runs do not meet.
    pub prefix: String,
    /// A failing transaction changes nothing (Redis keeps what came before the failure).
    pub rolls_back: bool,
    /// An etag for an absent key is a mismatch (Redis writes).
    pub etag_needs_key: bool,
    /// Reads tell `ttlExpireTime` (Redis does not).
    pub tells_expiry: bool,
    /// JSON comes back with other blanks (PostgreSQL's `jsonb`).
    pub normalises_json: bool,
}

impl Traits {
    /// A store with these capabilities that does everything else.
    pub fn all(prefix: &str, features: &'static [StateFeature]) -> Self {
        Self {
            features,
            prefix: prefix.to_owned(),
            rolls_back: true,
            etag_needs_key: true,
            tells_expiry: true,
            normalises_json: false,
        }
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

/// A write without conditions.
pub fn write(key: &str, value: &str) -> SetRequest {
    SetRequest {
        key: key.to_owned(),
        value: StateValue::Bytes(Bytes::copy_from_slice(value.as_bytes())),
        etag: None,
        metadata: BTreeMap::new(),
        options: StateOptions::default(),
        content_type: None,
    }
}

/// A removal without conditions.
pub fn removal(key: &str) -> DeleteRequest {
    DeleteRequest {
        key: key.to_owned(),
        ..Default::default()
    }
}

/// Reads a key.
///
/// # Panics
/// If reading fails.
pub async fn read(store: &dyn StateStore, key: &str) -> GetResponse {
    store
        .get(GetRequest {
            key: key.to_owned(),
            ..Default::default()
        })
        .await
        .unwrap()
}

async fn text(store: &dyn StateStore, key: &str) -> Option<String> {
    let data = read(store, key).await.data?;
    Some(String::from_utf8_lossy(&data).into_owned())
}

fn first_write() -> StateOptions {
    StateOptions {
        concurrency: "first-write".into(),
        consistency: String::new(),
    }
}

fn is_mismatch(result: &Result<(), StateError>) -> bool {
    matches!(result, Err(StateError::EtagMismatch(_)))
}

/// Runs all checks and closes the store at last.
///
/// # Panics
/// At the first broken promise.
pub async fn suite(store: Arc<dyn StateStore>, traits: &Traits) {
    store.ping().await.unwrap();
    assert_eq!(store.features(), traits.features);
    values_come_back_as_they_were(&*store, traits).await;
    keys_may_be_odd(&*store, traits).await;
    etags_guard_writes_and_removals(&*store, traits).await;
    the_first_writer_wins(&*store, traits).await;
    unknown_options_are_refused(&*store, traits).await;
    bulk_calls_report_every_key(&*store, traits).await;
    if store.has(StateFeature::Ttl) {
        expired_values_are_gone(&*store, traits).await;
    }
    if store.has(StateFeature::Transactional) {
        transactions_are_one_step(&*store, traits).await;
    }
    if store.guards() {
        nothing_is_written_once_the_guard_has_changed(&store, traits).await;
    }
    calls_that_are_given_up_disturb_nobody(&*store, traits).await;
    concurrent_updates_lose_nothing(store.clone(), traits).await;
    a_close_during_use_never_hangs(store, traits).await;
}

async fn values_come_back_as_they_were(store: &dyn StateStore, traits: &Traits) {
    let key = traits.key("value");
    assert_eq!(read(store, &key).await, GetResponse::default());
    store.delete(removal(&key)).await.unwrap();
    let every_byte: Bytes = (0..=255).collect::<Vec<u8>>().into();
    let large: Bytes = vec![b'x'; 1 << 20].into();
    let mut etags = Vec::new();
    for data in [Bytes::from_static(b"hello"), Bytes::new(), every_byte, large] {
        let mut request = write(&key, "");
        request.value = StateValue::Bytes(data.clone());
        store.set(request).await.unwrap();
        let got = read(store, &key).await;
        assert!(got.data.as_ref() == Some(&data), "{} bytes", data.len());
        etags.push(got.etag.unwrap());
    }
    etags.dedup();
    assert_eq!(etags.len(), 4, "every write has an etag of its own");
    for (value, expected) in [
        (Value::String("hi <b>".into()), "\"hi \\u003cb\\u003e\""),
        (Value::Number("42".into()), "42"),
        (Value::Null, "null"),
        (
            Value::Object([("a".to_owned(), Value::Array(vec![Value::Bool(true)]))].into()),
            "{\"a\":[true]}",
        ),
    ] {
        let mut request = write(&key, "");
        request.value = StateValue::Json(value);
        store.set(request).await.unwrap();
        let mut got = text(store, &key).await.unwrap();
        if traits.normalises_json {
            got = got.replace(": ", ":");
        }
        // Redis does not escape HTML.
        assert_eq!(got.replace('<', "\\u003c").replace('>', "\\u003e"), expected);
    }
    store.delete(removal(&key)).await.unwrap();
    assert_eq!(read(store, &key).await, GetResponse::default());
}

async fn keys_may_be_odd(store: &dyn StateStore, traits: &Traits) {
    let long = "k".repeat(1000);
    let odd = [
        "app||k",
        " ",
        "%",
        "_",
        "a'b",
        "a\"b",
        "a\\b",
        "é日本",
        "a/b?c#d",
        "a\nb",
        "'; DROP TABLE state;--",
        &long,
    ];
    for (n, key) in odd.iter().enumerate() {
        store.set(write(&traits.key(key), &n.to_string())).await.unwrap();
    }
    for (n, key) in odd.iter().enumerate() {
        assert_eq!(
            text(store, &traits.key(key)).await,
            Some(n.to_string()),
            "{key:?}"
        );
    }
    for key in odd {
        store.delete(removal(&traits.key(key))).await.unwrap();
        assert_eq!(text(store, &traits.key(key)).await, None, "{key:?}");
    }
}

async fn etags_guard_writes_and_removals(store: &dyn StateStore, traits: &Traits) {
    let key = traits.key("etag");
    let with = |value: &str, etag: &str| {
        let mut request = write(&key, value);
        request.etag = Some(etag.to_owned());
        request
    };
    let removal_with = |etag: &str| {
        let mut request = removal(&key);
        request.etag = Some(etag.to_owned());
        request
    };
    if traits.etag_needs_key {
        assert!(is_mismatch(&store.set(with("0", "7")).await));
        assert!(is_mismatch(&store.delete(removal_with("7")).await));
    }
    store.set(write(&key, "1")).await.unwrap();
    let first = read(store, &key).await.etag.unwrap();
    store.set(with("2", &first)).await.unwrap();
    let second = read(store, &key).await.etag.unwrap();
    assert_ne!(first, second);
    assert!(is_mismatch(&store.set(with("3", "999999")).await));
    assert!(is_mismatch(&store.set(with("3", &first)).await));
    assert!(is_mismatch(&store.delete(removal_with(&first)).await));
    assert_eq!(text(store, &key).await.as_deref(), Some("2"));
    store.delete(removal_with(&second)).await.unwrap();
    assert_eq!(text(store, &key).await, None);
}

async fn the_first_writer_wins(store: &dyn StateStore, traits: &Traits) {
    let key = traits.key("first");
    let with = |value: &str| {
        let mut request = write(&key, value);
        request.options = first_write();
        request
    };
    store.set(with("1")).await.unwrap();
    store.set(with("2")).await.unwrap_err();
    assert_eq!(text(store, &key).await.as_deref(), Some("1"));
    store.delete(removal(&key)).await.unwrap();
    store.set(with("3")).await.unwrap();
    assert_eq!(text(store, &key).await.as_deref(), Some("3"));
}

async fn unknown_options_are_refused(store: &dyn StateStore, traits: &Traits) {
    let mut request = write(&traits.key("options"), "1");
    request.options.concurrency = "whatever".into();
    let error = store.set(request.clone()).await.unwrap_err();
    assert_eq!(error.to_string(), "unrecognized concurrency model 'whatever'");
    request.options = StateOptions {
        concurrency: String::new(),
        consistency: "whatever".into(),
    };
    let error = store.set(request).await.unwrap_err();
    assert_eq!(error.to_string(), "unrecognized consistency model 'whatever'");
}

async fn bulk_calls_report_every_key(store: &dyn StateStore, traits: &Traits) {
    let keys: Vec<String> = (0..5).map(|n| traits.key(&format!("bulk{n}"))).collect();
    store
        .bulk_set(keys[..4].iter().map(|key| write(key, key)).collect())
        .await
        .unwrap();
    for parallelism in [0, 1, 3] {
        let requests = keys
            .iter()
            .map(|key| GetRequest {
                key: key.clone(),
                ..Default::default()
            })
            .collect();
        let items = store.bulk_get(requests, parallelism).await.unwrap();
        let found: BTreeMap<String, Option<Bytes>> = items
            .into_iter()
            .map(|item| (item.key, item.response.data))
            .collect();
        assert_eq!(found.len(), 5);
        for key in &keys[..4] {
            assert_eq!(found[key].as_deref(), Some(key.as_bytes()));
        }
        assert_eq!(found[&keys[4]], None);
    }
    let mut stale = removal(&keys[0]);
    stale.etag = Some("999999".into());
    let failed = store
        .bulk_delete(vec![stale, removal(&keys[1])])
        .await
        .unwrap_err();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].key, keys[0]);
    assert!(failed[0].error.is_etag());
    assert_eq!(text(store, &keys[1]).await, None);
    assert!(store.bulk_get(Vec::new(), 0).await.unwrap().is_empty());
}

async fn expired_values_are_gone(store: &dyn StateStore, traits: &Traits) {
    let with = |key: &str, ttl: &str| {
        let mut request = write(&traits.key(key), "1");
        request.metadata.insert("ttlInSeconds".into(), ttl.into());
        request
    };
    store.set(with("ttl-short", "1")).await.unwrap();
    store.set(with("ttl-long", "1000")).await.unwrap();
    store.set(with("ttl-reset", "1")).await.unwrap();
    store.set(with("ttl-reset", "-1")).await.unwrap();
    store.set(with("ttl-bad", "soon")).await.unwrap_err();
    assert_eq!(text(store, &traits.key("ttl-bad")).await, None);
    let long = read(store, &traits.key("ttl-long")).await;
    if traits.tells_expiry {
        let time = &long.metadata["ttlExpireTime"];
        assert!(time.len() == 20 && time.ends_with('Z'), "{time}");
        let reset = read(store, &traits.key("ttl-reset")).await;
        assert!(reset.metadata.is_empty());
    }
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(text(store, &traits.key("ttl-short")).await, None);
    assert!(text(store, &traits.key("ttl-long")).await.is_some());
    assert!(text(store, &traits.key("ttl-reset")).await.is_some());
    // An expired value does not stand in a first writer's way.
    let mut again = with("ttl-short", "0");
    again.options = first_write();
    store.set(again).await.unwrap();
    assert!(text(store, &traits.key("ttl-short")).await.is_some());
}

async fn transactions_are_one_step(store: &dyn StateStore, traits: &Traits) {
    let upsert = |key: &str, value: &str| TransactionOperation::Upsert(write(&traits.key(key), value));
    let transact = async |operations| {
        store
            .transact(TransactionRequest {
                operations,
                ..Default::default()
            })
            .await
    };
    store.set(write(&traits.key("tx-gone"), "1")).await.unwrap();
    transact(vec![
        upsert("tx-a", "1"),
        upsert("tx-b", "1"),
        upsert("tx-b", "2"),
        TransactionOperation::Delete(removal(&traits.key("tx-gone"))),
        TransactionOperation::Delete(removal(&traits.key("tx-never"))),
    ])
    .await
    .unwrap();
    assert_eq!(text(store, &traits.key("tx-a")).await.as_deref(), Some("1"));
    assert_eq!(text(store, &traits.key("tx-b")).await.as_deref(), Some("2"));
    assert_eq!(text(store, &traits.key("tx-gone")).await, None);

    let mut stale = write(&traits.key("tx-b"), "3");
    stale.etag = Some("999999".into());
    transact(vec![upsert("tx-a", "9"), TransactionOperation::Upsert(stale)])
        .await
        .unwrap_err();
    assert_eq!(text(store, &traits.key("tx-b")).await.as_deref(), Some("2"));
    if traits.rolls_back {
        assert_eq!(text(store, &traits.key("tx-a")).await.as_deref(), Some("1"));
    }
    transact(Vec::new()).await.unwrap();
}

async fn nothing_is_written_once_the_guard_has_changed(store: &Arc<dyn StateStore>, traits: &Traits) {
    const ROUNDS: usize = 10;
    let (row, data) = (traits.key("guard"), traits.key("guarded"));
    let guarded = |etag: &str, value: &str| TransactionRequest {
        operations: vec![TransactionOperation::Upsert(write(&data, value))],
        guard: Some(Guard {
            key: row.clone(),
            etag: etag.to_owned(),
        }),
        ..Default::default()
    };
    store.set(write(&row, "0")).await.unwrap();
    let etag = read(&**store, &row).await.etag.unwrap();
    store.transact(guarded(&etag, "a")).await.unwrap();
    assert_eq!(text(&**store, &data).await.as_deref(), Some("a"));
    assert_eq!(
        read(&**store, &row).await.etag.as_ref(),
        Some(&etag),
        "the row is not touched"
    );
    let mut several = guarded(&etag, "b");
    several
        .operations
        .push(TransactionOperation::Delete(removal(&traits.key("tx-a"))));
    store.transact(several.clone()).await.unwrap();
    store.set(write(&row, "1")).await.unwrap();
    several.operations[0] = TransactionOperation::Upsert(write(&data, "c"));
    assert_eq!(store.transact(several).await, Err(StateError::GuardMismatch));
    assert_eq!(text(&**store, &data).await.as_deref(), Some("b"));
    // Writers at work while the row changes: what is read after the change stays.
    for round in 0..ROUNDS {
        let etag = read(&**store, &row).await.etag.unwrap();
        let mut writers = tokio::task::JoinSet::new();
        let written = Arc::new(AtomicUsize::new(0));
        for writer in 0..4 {
            let written = written.clone();
            let (store, request) = (store.clone(), guarded(&etag, &format!("{round}-{writer}")));
            writers.spawn(async move {
                loop {
                    match store.transact(request.clone()).await {
                        Ok(()) => {
                            written.fetch_add(1, Ordering::Relaxed);
                            tokio::task::yield_now().await;
                        }
                        Err(error) => return error,
                    }
                }
            });
        }
        while written.load(Ordering::Relaxed) < 8 {
            tokio::task::yield_now().await;
        }
        let mut change = write(&row, &format!("round {round}"));
        change.etag = Some(etag);
        store.set(change).await.unwrap();
        let seen = text(&**store, &data).await;
        while let Some(ended) = writers.join_next().await {
            assert_eq!(ended.unwrap(), StateError::GuardMismatch);
        }
        assert_eq!(text(&**store, &data).await, seen, "written after the change");
    }
    store.delete(removal(&row)).await.unwrap();
    assert_eq!(
        store.transact(guarded(&etag, "d")).await,
        Err(StateError::GuardMismatch),
        "a row that is gone guards nothing"
    );
}

async fn concurrent_updates_lose_nothing(store: Arc<dyn StateStore>, traits: &Traits) {
    const TASKS: usize = 8;
    const ROUNDS: usize = 10;
    let key = traits.key("counter");
    store.set(write(&key, "0")).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..TASKS {
        let (store, key) = (store.clone(), key.clone());
        tasks.spawn(async move {
            let mut done = 0;
            while done < ROUNDS {
                let got = read(&*store, &key).await;
                let number: usize = String::from_utf8_lossy(&got.data.unwrap()).parse().unwrap();
                let mut request = write(&key, &(number + 1).to_string());
                request.etag = got.etag;
                match store.set(request).await {
                    Ok(()) => done += 1,
                    Err(error) => assert!(error.is_etag(), "{error}"),
                }
            }
        });
    }
    soon("the counters", async {
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
    })
    .await;
    assert_eq!(
        text(&*store, &key).await,
        Some((TASKS * ROUNDS).to_string()),
        "an update was lost"
    );
}

async fn calls_that_are_given_up_disturb_nobody(store: &dyn StateStore, traits: &Traits) {
    let key = traits.key("given-up");
    for n in 0..50_u32 {
        // Some are given up before they begin, some at work, some not. Whether they have an effect is open.
        let limit = Duration::from_micros(u64::from(n) * 40);
        let number = n.to_string();
        let _ = tokio::time::timeout(limit, store.set(write(&key, &number))).await;
        let _ = tokio::time::timeout(
            limit,
            store.get(GetRequest {
                key: key.clone(),
                ..Default::default()
            }),
        )
        .await;
    }
    // One that the server still had in hand may come after a write of another connection, but not for ever.
    let settles = async {
        loop {
            store.set(write(&key, "last")).await.unwrap();
            if text(store, &key).await.as_deref() == Some("last") {
                return;
            }
        }
    };
    soon("a write after those", settles).await;
}

async fn a_close_during_use_never_hangs(store: Arc<dyn StateStore>, traits: &Traits) {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let (store, key) = (store.clone(), traits.key(&format!("close{n}")));
        tasks.spawn(async move {
            // Writing or failing are both right; waiting for ever is not.
            for round in 0..20 {
                let _ = store.set(write(&key, &round.to_string())).await;
            }
        });
    }
    tokio::task::yield_now().await;
    soon("the close", store.close()).await;
    soon("calls during the close", async {
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
    })
    .await;
}
