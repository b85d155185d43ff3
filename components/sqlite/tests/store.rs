//! What is particular to the SQLite store.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use outrigger_components_api::state::{GetRequest, KeysLikeRequest, StateStore};
use outrigger_components_api::testing::init_context;
use outrigger_components_api::testing::state::{read, removal, write};
use outrigger_components_sqlite::SqliteState;

struct File {
    dir: tempfile::TempDir,
}

impl File {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> String {
        self.dir.path().join("s.db").to_str().unwrap().to_owned()
    }

    async fn open(&self) -> SqliteState {
        SqliteState::open(&init_context("sq", [("connectionString", &self.path())]))
            .await
            .unwrap()
    }

    fn rows(&self) -> i64 {
        rusqlite::Connection::open(self.path())
            .unwrap()
            .query_row("SELECT count(*) FROM state", [], |row| row.get(0))
            .unwrap()
    }
}

#[tokio::test]
async fn errors_have_the_texts_of_dapr() {
    let file = File::new();
    let store = file.open().await;
    let mut request = removal("none");
    request.etag = Some("garbage".into());
    assert_eq!(
        store.delete(request).await.unwrap_err().to_string(),
        "possible etag mismatch. error from state store"
    );
    let mut request = write("k", "1");
    request.metadata.insert("ttlInSeconds".into(), "-5".into());
    assert_eq!(
        store.set(request).await.unwrap_err().to_string(),
        "error parsing TTL: incorrect value for metadata 'ttlInSeconds': must be -1 or greater"
    );
    let error = store.set(write("", "1")).await.unwrap_err();
    assert_eq!(error.to_string(), "missing key in set option");
    store.close().await;
    let error = store.set(write("k", "1")).await.unwrap_err();
    assert_eq!(error.to_string(), "component is closed");
    let error = store.ping().await.unwrap_err();
    assert_eq!(error.to_string(), "component is closed");
}

#[tokio::test]
async fn wrong_settings_are_named() {
    let file = File::new();
    let path = file.path();
    for (settings, text) in [
        (vec![], "missing connection string"),
        (
            vec![("connectionString", "a.db"), ("timeout", "500ms")],
            "'timeout'",
        ),
        (
            vec![("connectionString", "a.db"), ("timeout", "soon")],
            "error decoding 'timeout'",
        ),
        (
            vec![("connectionString", "a.db"), ("tableName", "a b")],
            "tableName",
        ),
        (
            vec![("connectionString", "a.db"), ("metadataTableName", "a;b")],
            "metadataTableName",
        ),
        (
            vec![("connectionString", "/nowhere/at/all.db")],
            "/nowhere/at/all.db",
        ),
        (
            vec![("connectionString", &path), ("CONNECTIONSTRING", "x")],
            "duplicate",
        ),
    ] {
        let mut context = init_context("sq", []);
        context.properties = settings
            .into_iter()
            .map(|(key, value): (&str, &str)| (key.to_owned(), value.to_owned()))
            .collect();
        let error = SqliteState::open(&context).await.unwrap_err();
        assert!(error.0.contains(text), "{error}");
    }
}

#[tokio::test]
async fn a_read_only_file_is_read() {
    let file = File::new();
    let writer = file.open().await;
    writer.set(write("k", "1")).await.unwrap();
    let path = format!("file:{}?mode=ro", file.path());
    let context = init_context("sq", [("connectionString", path.as_str())]);
    let store = SqliteState::open(&context).await.unwrap();
    assert_eq!(read(&store, "k").await.data.as_deref(), Some(&b"1"[..]));
    let error = store.set(write("k", "2")).await.unwrap_err();
    assert!(error.to_string().contains("readonly"), "{error}");
}

#[tokio::test]
async fn found_rows_come_before_missing_ones() {
    let file = File::new();
    let store = file.open().await;
    for key in ["b1", "b2"] {
        store.set(write(key, "1")).await.unwrap();
    }
    let requests = ["b2", "zz", "b1", "zz", "b2"].map(|key| GetRequest {
        key: key.into(),
        ..Default::default()
    });
    let items = store.bulk_get(requests.into(), 0).await.unwrap();
    let keys: Vec<&str> = items.iter().map(|item| item.key.as_str()).collect();
    assert_eq!(keys, ["b1", "b2", "zz", "zz"]);
}

#[tokio::test]
async fn keys_are_listed_page_by_page_and_case_matters() {
    let file = File::new();
    let store = file.open().await;
    for key in ["app||a", "app||b", "app||c", "APP||d", "apple", "app||100%"] {
        store.set(write(key, "1")).await.unwrap();
    }
    let mut request = KeysLikeRequest {
        pattern: "app||%".into(),
        page_size: Some(2),
        continuation_token: None,
    };
    let first = store.keys_like(request.clone()).await.unwrap();
    assert_eq!(first.keys, ["app||100%", "app||a"]);
    request.continuation_token = first.continuation_token;
    let second = store.keys_like(request.clone()).await.unwrap();
    assert_eq!(second.keys, ["app||b", "app||c"]);
    assert_eq!(second.continuation_token, None);
    request = KeysLikeRequest {
        pattern: "app||100\\%".into(),
        ..Default::default()
    };
    assert_eq!(
        store.keys_like(request.clone()).await.unwrap().keys,
        ["app||100%"]
    );
    request.pattern.clear();
    store.keys_like(request).await.unwrap_err();
}

#[tokio::test]
async fn expired_rows_are_removed_when_asked_to() {
    let file = File::new();
    let context = init_context(
        "sq",
        [("connectionString", &file.path()), ("cleanupInterval", "1s")],
    );
    let store = SqliteState::open(&context).await.unwrap();
    let mut request = write("short", "1");
    request.metadata.insert("ttlInSeconds".into(), "1".into());
    store.set(request).await.unwrap();
    store.set(write("stays", "1")).await.unwrap();
    assert_eq!(file.rows(), 2);
    let gone = async {
        while file.rows() != 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
    context.shutdown.cancel();
    context.tasks.close();
    context.tasks.wait().await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sidecars_share_a_file() {
    let file = File::new();
    let (one, two) = tokio::join!(file.open(), file.open());
    let stores = [Arc::new(one), Arc::new(two)];
    let mut tasks = tokio::task::JoinSet::new();
    for (number, store) in stores.iter().enumerate() {
        for n in 0..50 {
            let store = store.clone();
            tasks.spawn(async move { store.set(write(&format!("{number}-{n}"), "1")).await });
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap().unwrap();
    }
    assert_eq!(file.rows(), 100);
    assert!(read(&*stores[1], "0-7").await.data.is_some());
}

/// Not a test of its own: the process that [`a_killed_process_loses_no_acknowledged_write`] kills.
#[test]
#[ignore = "started by another test as a child process"]
fn child_that_writes_until_killed() {
    let path = std::env::var("SQLITE_CHILD_FILE").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = SqliteState::open(&init_context("sq", [("connectionString", &path)]))
            .await
            .unwrap();
        let store = Arc::new(store);
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..4 {
            let store = store.clone();
            tasks.spawn(async move {
                for n in 0.. {
                    let key = format!("{task}-{n}");
                    store.set(write(&key, &key)).await.unwrap();
                    eprintln!("ack {key}");
                }
            });
        }
        tasks.join_next().await;
    });
}

#[test]
fn a_killed_process_loses_no_acknowledged_write() {
    let file = File::new();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "child_that_writes_until_killed",
            "--nocapture",
        ])
        .env("SQLITE_CHILD_FILE", file.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = Vec::new();
    let mut killed = false;
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        if let Some(key) = line.unwrap().strip_prefix("ack ") {
            acknowledged.push(key.to_owned());
        }
        if acknowledged.len() == 300 && !killed {
            child.kill().unwrap(); // SIGKILL, in the middle of the next writes
            killed = true;
        }
    }
    child.wait().unwrap();
    assert!(killed, "the child ended by itself: {acknowledged:?}");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = file.open().await;
        for key in &acknowledged {
            let data = read(&store, key).await.data;
            assert_eq!(
                data.as_deref(),
                Some(key.as_bytes()),
                "{key} was acknowledged and is lost"
            );
        }
    });
}
