//! Name resolution through a table of hosts (contract `service-invocation`, section 8).
//!
//! Every sidecar keeps one row with its address alive; a row not renewed in time counts as gone.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outrigger_components_api::metadata::{Asked, Decoder, Properties};
use outrigger_components_api::name_resolution::{InstanceInfo, ResolveRequest, Resolver, ResolverFactory};
use outrigger_components_api::state::StateError;
use outrigger_components_api::{ComponentError, InitError};
use outrigger_gojson::{Numbers, Value};
use rusqlite::OptionalExtension;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::db::{Database, failed};
use crate::gc::Cleanup;
use crate::migrations::Migrations;
use crate::settings::{Connection, identifier};

const TIMEOUT: Duration = Duration::from_secs(1);
const BUSY_TIMEOUT: Duration = Duration::from_millis(800);

/// Creates [`SqliteResolver`]s.
#[derive(Debug, Clone, Copy)]
pub struct SqliteResolverFactory;

#[async_trait]
impl ResolverFactory for SqliteResolverFactory {
    fn options(&self) -> Vec<Asked> {
        let mut properties = Properties::default();
        let record = properties.recorded();
        // It fails for want of a connection string, and has asked for all by then.
        drop(Given::read(&properties));
        record.asked()
    }

    async fn create(&self, info: InstanceInfo) -> Result<Arc<dyn Resolver>, InitError> {
        Ok(Arc::new(SqliteResolver::open(info).await?))
    }
}

/// The name resolution component `sqlite`.
#[derive(Debug)]
pub struct SqliteResolver {
    database: Arc<Database>,
    table: String,
    /// Seconds after which a row that was not renewed counts as gone.
    lifetime: u64,
    registration: Arc<Registration>,
}

/// What the configuration says.
struct Given {
    table: String,
    metadata_table: String,
    update: Duration,
    /// `None` = never.
    cleanup: Option<Duration>,
    connection: Result<Connection, InitError>,
}

impl Given {
    fn read(properties: &Properties) -> Result<Self, InitError> {
        let mut decoder = Decoder::new(properties)?;
        let table = identifier(&decoder, "tableName", "hosts")?;
        let metadata_table = identifier(&decoder, "metadataTableName", "metadata")?;
        let (seconds, hour) = (Duration::from_secs(5), Duration::from_secs(3600));
        let update = decoder
            .duration(&["updateInterval"])
            .map_or(decoder.default_of("updateInterval", seconds), |given| {
                given.to_std().unwrap_or_default()
            });
        let cleanup = decoder
            .duration(&["cleanupInterval", "cleanupIntervalInSeconds"])
            .map_or(Some(decoder.default_of("cleanupInterval", hour)), |given| {
                given.positive()
            });
        let connection = Connection::decode(&mut decoder, TIMEOUT, BUSY_TIMEOUT);
        decoder.finish()?;
        Ok(Self {
            table,
            metadata_table,
            update,
            cleanup,
            connection,
        })
    }
}

/// The own row.
#[derive(Debug)]
struct Registration {
    table: String,
    id: String,
    address: String,
    app_id: String,
}

impl SqliteResolver {
    /// Opens the file, announces the sidecar and keeps the announcement alive. Settings: `connectionString`,
    /// `tableName` (`hosts`), `metadataTableName` (`metadata`), `updateInterval` (5 s), `cleanupInterval` (1 h),
    /// `timeout` (1 s), `busyTimeout` (800 ms), `disableWAL`.
    ///
    /// # Errors
    /// Names the wrong setting or the file that cannot be used.
    pub async fn open(info: InstanceInfo) -> Result<Self, InitError> {
        for (missing, text) in [
            (info.app_id.is_empty(), "name is missing"),
            (info.address.is_empty(), "address is missing"),
            (info.internal_port == 0, "port is missing or invalid"),
        ] {
            if missing {
                return Err(InitError::new(text));
            }
        }
        let Given {
            table,
            metadata_table,
            update,
            cleanup,
            connection,
        } = Given::read(&properties(info.configuration.as_ref())?)?;
        let connection = connection?;
        if update.subsec_nanos() != 0 {
            return Err(InitError::new(
                "update interval must not contain fractions of seconds",
            ));
        }
        if update < connection.timeout + Duration::from_secs(1) {
            return Err(InitError::new(
                "update interval must be at least 1s greater than timeout",
            ));
        }
        if connection.in_memory {
            warn!("SQLite name resolution in memory: service invocation across apps will not work");
        }

        let timeout = connection.timeout;
        let migrations = migrations(&table, &metadata_table);
        let database = Database::open("name resolution", connection, move |connection| {
            migrations.apply(connection)
        })
        .await?;
        let database = Arc::new(database);
        let registration = Arc::new(Registration {
            table: table.clone(),
            id: uuid::Uuid::new_v4().to_string(),
            address: join_host_port(&info.address, info.internal_port),
            app_id: info.app_id,
        });
        registration
            .announce(&database)
            .await
            .map_err(|error| InitError(format!("failed to register host: {error}")))?;
        info!(app_id = %registration.app_id, address = %registration.address, "announced in SQLite");

        // Renewed early enough that a renewal may take its whole timeout.
        let every = update - timeout;
        info.tasks.spawn(
            registration
                .clone()
                .renew(database.clone(), every, info.shutdown.clone()),
        );
        let lifetime = update.as_secs();
        if let Some(interval) = cleanup {
            let cleanup = Cleanup {
                interval,
                key: "nr-last-cleanup",
                metadata_table,
                delete: format!(
                    "DELETE FROM {table} WHERE unixepoch(CURRENT_TIMESTAMP) - last_update >= {lifetime}"
                ),
            };
            info.tasks.spawn(cleanup.run(database.clone(), info.shutdown));
        }
        Ok(Self {
            database,
            table,
            lifetime,
            registration,
        })
    }
}

fn migrations(table: &str, metadata_table: &str) -> Migrations {
    Migrations {
        metadata_table: metadata_table.to_owned(),
        key: "nr-migrations",
        steps: vec![format!(
            "CREATE TABLE {table} (
                registration_id TEXT NOT NULL PRIMARY KEY,
                address TEXT NOT NULL,
                app_id TEXT NOT NULL,
                namespace TEXT NOT NULL,
                last_update INTEGER NOT NULL
            );
            CREATE UNIQUE INDEX {table}_address_idx ON {table} (address);
            CREATE INDEX {table}_last_update_idx ON {table} (last_update);"
        )],
    }
}

/// The configuration object as names and texts.
fn properties(configuration: Option<&Value>) -> Result<Properties, InitError> {
    match configuration {
        None | Some(Value::Null) => Ok(Properties::default()),
        Some(Value::Object(members)) => Ok(members
            .iter()
            .map(|(name, value)| {
                let text = match value {
                    Value::String(text) => text.clone(),
                    other => outrigger_gojson::to_string(other, Numbers::Verbatim, false),
                };
                (name.clone(), text)
            })
            .collect()),
        Some(_) => Err(InitError::new(
            "spec.nameResolution.configuration must be an object for component sqlite",
        )),
    }
}

fn join_host_port(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

impl Registration {
    /// Writes the row, taking over the address from whoever had it: it died or it is us.
    async fn announce(&self, database: &Database) -> Result<(), StateError> {
        let sql = format!(
            "REPLACE INTO {} (registration_id, address, app_id, namespace, last_update)
             VALUES (?1, ?2, ?3, '', unixepoch(CURRENT_TIMESTAMP))",
            self.table
        );
        let values = [self.id.clone(), self.address.clone(), self.app_id.clone()];
        database
            .write(move |connection| connection.execute(&sql, values).map_err(failed))
            .await?;
        Ok(())
    }

    /// Keeps the row alive until told to stop.
    async fn renew(self: Arc<Self>, database: Arc<Database>, every: Duration, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            let sql = format!(
                "UPDATE {} SET last_update = unixepoch(CURRENT_TIMESTAMP) WHERE registration_id = ?1 AND address = ?2",
                self.table
            );
            let values = [self.id.clone(), self.address.clone()];
            let renewed = database
                .write(move |connection| connection.execute(&sql, values).map_err(failed))
                .await;
            // Go's sidecar ends itself when its row is gone. The row can be written again, so that a wiped file
            // or an overeager cleanup does not take the app down with it.
            let result = match renewed {
                Ok(0) => {
                    warn!(app_id = %self.app_id, "registration lost; announcing again");
                    self.announce(&database).await
                }
                other => other.map(|_| ()),
            };
            if let Err(error) = result {
                warn!(%error, "registration not renewed; trying again soon");
            }
        }
    }
}

#[async_trait]
impl Resolver for SqliteResolver {
    async fn resolve(&self, request: &ResolveRequest) -> Result<Vec<String>, ComponentError> {
        let sql = format!(
            "SELECT address FROM {} WHERE app_id = ?1
             AND unixepoch(CURRENT_TIMESTAMP) - last_update < ?2 ORDER BY RANDOM() LIMIT 1",
            self.table
        );
        let (app_id, lifetime) = (
            request.app_id.clone(),
            i64::try_from(self.lifetime).unwrap_or(i64::MAX),
        );
        let found: Option<String> = self
            .database
            .read(move |connection| {
                connection
                    .prepare_cached(&sql)
                    .and_then(|mut statement| {
                        statement
                            .query_row((app_id, lifetime), |row| row.get(0))
                            .optional()
                    })
                    .map_err(failed)
            })
            .await
            .map_err(|error| ComponentError(format!("failed to look up address: {error}")))?;
        match found {
            Some(address) => Ok(vec![address]),
            None => Err(ComponentError::new("no host found with the given ID")),
        }
    }

    async fn announce(&self) {
        if let Err(error) = self.registration.announce(&self.database).await {
            warn!(%error, "registration not renewed; trying again soon");
        }
    }

    async fn close(&self) {
        let sql = format!(
            "DELETE FROM {} WHERE registration_id = ?1 AND address = ?2",
            self.table
        );
        let values = [self.registration.id.clone(), self.registration.address.clone()];
        let removed = self
            .database
            .write(move |connection| connection.execute(&sql, values).map_err(failed))
            .await;
        if let Err(error) = removed {
            warn!(%error, "registration not withdrawn; it expires by itself");
        }
        self.database.close().await;
    }
}
