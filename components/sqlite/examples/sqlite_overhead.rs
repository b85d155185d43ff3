//! What `state.sqlite` costs over `rusqlite`: `cargo xtask bench-components`.

// A failure ends the measurement.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outrigger_components_api::state::{GetRequest, StateStore as _};
use outrigger_components_api::testing::init_context;
use outrigger_components_api::testing::overhead::compare;
use outrigger_components_api::testing::state::write;
use outrigger_components_sqlite::SqliteState;
use rusqlite::{Connection, OptionalExtension as _};

/// Connections of the plain client. SQLite lets one write at a time, and the machine runs two threads.
const CONNECTIONS: usize = 2;

/// Connections, each for one thread at a time.
#[derive(Clone)]
struct Plain(Arc<[Mutex<Connection>]>);

impl Plain {
    fn open(file: &Path) -> Self {
        let open = |_| {
            let connection = Connection::open(file).unwrap();
            connection.busy_timeout(Duration::from_secs(2)).unwrap();
            connection.pragma_update(None, "journal_mode", "WAL").unwrap();
            connection.pragma_update(None, "synchronous", "FULL").unwrap();
            Mutex::new(connection)
        };
        Self((0..CONNECTIONS).map(open).collect())
    }

    /// As asynchronous programs call a library that blocks.
    async fn run(&self, n: u64, work: impl FnOnce(&Connection) + Send + 'static) {
        let connections = self.0.clone();
        let work = move || work(&connections[n as usize % CONNECTIONS].lock().unwrap());
        tokio::task::spawn_blocking(work).await.unwrap();
    }
}

#[tokio::main(worker_threads = 1)]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.db");
    let context = init_context("store", [("connectionString", file.to_str().unwrap())]);
    let store = Arc::new(SqliteState::open(&context).await.unwrap());
    let value = "x".repeat(1024);
    store.set(write("k", &value)).await.unwrap();
    let plain = Plain::open(&file);

    let reading = plain.clone();
    let get = move |n| {
        let reading = reading.clone();
        async move {
            let read = |connection: &Connection| {
                let sql = "SELECT value, is_binary, etag, expiration_time FROM state \
                           WHERE key = ? AND (expiration_time IS NULL OR expiration_time > CURRENT_TIMESTAMP)";
                let mut statement = connection.prepare_cached(sql).unwrap();
                let row = statement.query_row(["k"], |row| row.get::<_, String>(0));
                assert!(row.optional().unwrap().is_some());
            };
            reading.run(n, read).await;
        }
    };
    let reader = store.clone();
    let ours = move |_| {
        let store = reader.clone();
        async move {
            let request = GetRequest {
                key: "k".to_owned(),
                ..Default::default()
            };
            assert!(store.get(request).await.unwrap().data.is_some());
        }
    };
    compare("state.sqlite, get", get, ours).await;

    let data = value.clone();
    let set = move |n| {
        let (plain, data) = (plain.clone(), data.clone());
        async move {
            let write = move |connection: &Connection| {
                let sql = "INSERT OR REPLACE INTO state (key, value, is_binary, etag, update_time, expiration_time) \
                           VALUES (?, ?, 0, ?, CURRENT_TIMESTAMP, NULL)";
                let mut statement = connection.prepare_cached(sql).unwrap();
                let key = format!("plain{}", n % 1000);
                let etag = uuid::Uuid::new_v4().to_string();
                statement.execute([&key, &data, &etag]).unwrap();
            };
            plain.run(n, write).await;
        }
    };
    let ours = move |n| {
        let (store, value) = (store.clone(), value.clone());
        async move {
            store
                .set(write(&format!("ours{}", n % 1000), &value))
                .await
                .unwrap();
        }
    };
    compare("state.sqlite, set", set, ours).await;
}
