//! `state.sqlite`.

mod rows;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outrigger_components_api::metadata::Decoder;
use outrigger_components_api::state::{
    BulkGetItem, DeleteRequest, GetRequest, GetResponse, KeysLikeRequest, KeysLikeResponse, SetRequest,
    StateError, StateFeature, StateStore, TransactionOperation, TransactionRequest,
};
use outrigger_components_api::{InitContext, InitError};

use crate::db::Database;
use crate::gc::Cleanup;
use crate::migrations::Migrations;
use crate::settings::{Connection, identifier};
use rows::{Table, Write};

const TIMEOUT: Duration = Duration::from_secs(20);
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// A state store in a SQLite file.
#[derive(Debug)]
pub struct SqliteState {
    database: Arc<Database>,
    table: Arc<Table>,
}

impl SqliteState {
    /// Opens the file and brings its tables up to date. Settings: `connectionString`, `timeout` (20 s),
    /// `busyTimeout` (2 s), `disableWAL`, `tableName` (`state`), `metadataTableName` (`metadata`),
    /// `cleanupInterval` (off).
    ///
    /// # Errors
    /// Names the wrong setting or the file that cannot be used.
    pub async fn open(context: &InitContext) -> Result<Self, InitError> {
        let mut decoder = Decoder::new(&context.properties)?;
        let table = identifier(&decoder, "tableName", "state")?;
        let metadata_table = identifier(&decoder, "metadataTableName", "metadata")?;
        let interval = decoder
            .duration(&["cleanupInterval", "cleanupIntervalInSeconds"])
            .and_then(|interval| interval.positive());
        let connection = Connection::decode(&mut decoder, TIMEOUT, BUSY_TIMEOUT);
        decoder.finish()?;

        let migrations = migrations(&table, &metadata_table);
        let database = Database::open(&context.name, connection?, move |connection| {
            migrations.apply(connection)
        })
        .await?;
        let database = Arc::new(database);
        if let Some(interval) = interval {
            let cleanup = Cleanup {
                interval,
                key: "last-cleanup",
                metadata_table,
                delete: format!(
                    "DELETE FROM {table} WHERE expiration_time IS NOT NULL AND expiration_time < CURRENT_TIMESTAMP"
                ),
            };
            context
                .tasks
                .spawn(cleanup.run(database.clone(), context.shutdown.clone()));
        }
        Ok(Self {
            database,
            table: Arc::new(Table::new(&table)),
        })
    }
}

fn migrations(table: &str, metadata_table: &str) -> Migrations {
    Migrations {
        metadata_table: metadata_table.to_owned(),
        key: "migrations",
        // Databases older than the metadata table have this one already.
        steps: vec![format!(
            "CREATE TABLE IF NOT EXISTS {table} (
                key TEXT NOT NULL PRIMARY KEY,
                value TEXT NOT NULL,
                is_binary BOOLEAN NOT NULL,
                etag TEXT NOT NULL,
                expiration_time TIMESTAMP DEFAULT NULL,
                update_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
            )"
        )],
    }
}

#[async_trait]
impl StateStore for SqliteState {
    fn features(&self) -> &[StateFeature] {
        &[
            StateFeature::Etag,
            StateFeature::Transactional,
            StateFeature::Ttl,
            StateFeature::KeysLike,
        ]
    }

    async fn get(&self, request: GetRequest) -> Result<GetResponse, StateError> {
        if request.key.is_empty() {
            return Err(StateError::other("missing key in get operation"));
        }
        let table = self.table.clone();
        let found = self
            .database
            .read(move |connection| table.get(connection, &request.key))
            .await?;
        Ok(found.unwrap_or_default())
    }

    async fn bulk_get(
        &self,
        requests: Vec<GetRequest>,
        _parallelism: usize,
    ) -> Result<Vec<BulkGetItem>, StateError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let table = self.table.clone();
        self.database
            .read_together(move |connection| {
                // Found rows first, in the order of their keys, then one entry for every missing key.
                let keys: BTreeSet<&str> = requests.iter().map(|request| request.key.as_str()).collect();
                let mut items = Vec::with_capacity(requests.len());
                let mut found = BTreeSet::new();
                for key in keys {
                    let (response, error) = match table.get(connection, key) {
                        Ok(None) => continue,
                        Ok(Some(response)) => (response, None),
                        Err(error) => (GetResponse::default(), Some(error.to_string())),
                    };
                    found.insert(key);
                    items.push(BulkGetItem {
                        key: key.to_owned(),
                        response,
                        error,
                    });
                }
                for request in requests
                    .iter()
                    .filter(|request| !found.contains(request.key.as_str()))
                {
                    items.push(BulkGetItem {
                        key: request.key.clone(),
                        ..Default::default()
                    });
                }
                Ok(items)
            })
            .await
    }

    async fn set(&self, request: SetRequest) -> Result<(), StateError> {
        let table = self.table.clone();
        let write = Write::set(request)?;
        self.database
            .write(move |connection| table.write(connection, &write))
            .await
    }

    async fn delete(&self, request: DeleteRequest) -> Result<(), StateError> {
        let table = self.table.clone();
        let write = Write::delete(request)?;
        self.database
            .write(move |connection| table.write(connection, &write))
            .await
    }

    async fn transact(&self, request: TransactionRequest) -> Result<(), StateError> {
        let writes: Result<Vec<Write>, StateError> = request
            .operations
            .into_iter()
            .map(|operation| match operation {
                TransactionOperation::Upsert(set) => Write::set(set),
                TransactionOperation::Delete(delete) => Write::delete(delete),
            })
            .collect();
        let writes = writes?;
        if writes.is_empty() {
            return Ok(());
        }
        let (table, guard) = (self.table.clone(), request.guard);
        self.database
            .write(move |connection| {
                if let Some(guard) = &guard {
                    table.check_guard(connection, guard)?;
                }
                writes.iter().try_for_each(|write| table.write(connection, write))
            })
            .await
    }

    fn guards(&self) -> bool {
        true
    }

    async fn keys_like(&self, request: KeysLikeRequest) -> Result<KeysLikeResponse, StateError> {
        if request.pattern.is_empty() {
            return Err(StateError::other("keys like pattern cannot be empty"));
        }
        let table = self.table.clone();
        self.database
            .read(move |connection| table.keys_like(connection, &request))
            .await
    }

    async fn ping(&self) -> Result<(), StateError> {
        self.database
            .read(|connection| {
                connection
                    .query_row("SELECT 1", [], |_| Ok(()))
                    .map_err(crate::db::failed)
            })
            .await
    }

    async fn close(&self) {
        self.database.close().await;
    }
}
