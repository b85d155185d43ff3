//! What `state.postgresql` costs over `tokio-postgres`: `cargo xtask bench-components`.

// A failure ends the measurement.
#![allow(clippy::unwrap_used)]

#[path = "../tests/it/server.rs"]
#[allow(dead_code, reason = "shared with the tests, which use more of it")]
mod server;

use std::sync::{Arc, Mutex};

use outrigger_components_api::state::{GetRequest, StateStore as _};
use outrigger_components_api::testing::overhead::compare;
use outrigger_components_api::testing::state::write;
use outrigger_components_postgresql::PostgresState;
use tokio_postgres::{Client, Statement};

/// Connections of either side, as many as calls at the same time, so that a call has one to itself on both.
const CONNECTIONS: usize = 16;

/// Connections of the plain client with a prepared statement.
#[derive(Clone)]
struct Plain(Arc<Mutex<Vec<(Client, Statement)>>>);

impl Plain {
    async fn new(server: &server::Server, sql: &str) -> Self {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            let client = server.client().await;
            let statement = client.prepare(sql).await.unwrap();
            clients.push((client, statement));
        }
        Self(Arc::new(Mutex::new(clients)))
    }

    async fn with(&self, call: impl AsyncFnOnce(&Client, &Statement)) {
        let (client, statement) = self.0.lock().unwrap().pop().unwrap();
        call(&client, &statement).await;
        self.0.lock().unwrap().push((client, statement));
    }
}

#[tokio::main(worker_threads = 1)]
async fn main() {
    let server = server::Server::start().await;
    let most = CONNECTIONS.to_string();
    let context = server.context(&[("maxConns", &most)]);
    let store = Arc::new(PostgresState::connect_v2(&context).await.unwrap());
    let value = "x".repeat(1024);
    store.set(write("k", &value)).await.unwrap();

    let sql = "SELECT value, etag::text, expires_at FROM state \
               WHERE key = $1 AND (expires_at IS NULL OR expires_at >= now())";
    let reading = Plain::new(&server, sql).await;
    let get = move |_| {
        let plain = reading.clone();
        async move {
            let read = async |client: &Client, statement: &Statement| {
                let row = client.query_opt(statement, &[&"k"]).await.unwrap().unwrap();
                let _: Vec<u8> = row.get(0);
            };
            plain.with(read).await;
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
            store.get(request).await.unwrap();
        }
    };
    compare("state.postgresql v2, get", get, ours).await;

    let sql = "INSERT INTO state AS t (key, value, etag) VALUES ($1, $2, gen_random_uuid()) \
               ON CONFLICT (key) DO UPDATE SET value = $2, etag = gen_random_uuid(), updated_at = now(), expires_at = NULL";
    let writing = Plain::new(&server, sql).await;
    let data = value.clone();
    let set = move |n| {
        let (plain, data) = (writing.clone(), data.clone());
        async move {
            let key = format!("plain{}", n % 1000);
            let write = async |client: &Client, statement: &Statement| {
                client
                    .execute(statement, &[&key, &data.as_bytes()])
                    .await
                    .unwrap();
            };
            plain.with(write).await;
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
    compare("state.postgresql v2, set", set, ours).await;
}
