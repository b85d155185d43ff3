//! `state.postgresql`: version v1 keeps values as `jsonb` with the row's `xmin` as ETag, version v2 as bytes with a
//! random UUID (contract `state`, section 7).

mod query;
mod table;

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use outrigger_components_api::metadata::Decoder;
use outrigger_components_api::state::{
    BulkGetItem, DeleteRequest, GetRequest, GetResponse, KeysLikeRequest, KeysLikeResponse, QueryRequest,
    QueryResponse, SetRequest, StateError, StateFeature, StateStore, TransactionOperation,
    TransactionRequest,
};
use outrigger_components_api::{InitContext, InitError};
use tokio_postgres::types::{ToSql, Type};

use crate::error::DbError;
use crate::gc::Cleanup;
use crate::migrations::Migrations;
use crate::pool::{Lease, Pool};
use crate::settings::{Settings, identifier};
use table::{GuardRow, Layout, Table, Write};

const CLEANUP_INTERVAL: Duration = Duration::from_secs(3600);

/// A state store in a PostgreSQL database.
#[derive(Debug)]
pub struct PostgresState {
    pool: Pool,
    table: Table,
}

impl PostgresState {
    /// Connects version v1. Settings: the shared ones, `tableName` (`state`), `metadataTableName`
    /// (`dapr_metadata`), `cleanupInterval` (1 h).
    ///
    /// # Errors
    /// Names the wrong setting, or why the database cannot be used.
    pub async fn connect_v1(context: &InitContext) -> Result<Self, InitError> {
        let decoder = Decoder::new(&context.properties)?;
        let table = identifier(&decoder, "tableName", "state")?;
        let metadata_table = identifier(&decoder, "metadataTableName", "dapr_metadata")?;
        let migrations = table::migrations_v1(&table, &metadata_table);
        let cleanup = "last-cleanup".to_owned();
        Self::connect(context, decoder, Table::v1(&table), migrations, cleanup).await
    }

    /// Connects version v2. Settings: the shared ones, `tablePrefix`, `metadataTableName` (`dapr_metadata`),
    /// `cleanupInterval` (1 h).
    ///
    /// # Errors
    /// Names the wrong setting, or why the database cannot be used.
    pub async fn connect_v2(context: &InitContext) -> Result<Self, InitError> {
        let decoder = Decoder::new(&context.properties)?;
        let prefix = identifier(&decoder, "tablePrefix", "")?;
        let metadata_table = identifier(&decoder, "metadataTableName", "dapr_metadata")?;
        let migrations = table::migrations_v2(&prefix, &metadata_table);
        let cleanup = format!("last-cleanup-state-v2-{prefix}");
        let table = Table::v2(&format!("{prefix}state"));
        Self::connect(context, decoder, table, migrations, cleanup).await
    }

    async fn connect(
        context: &InitContext,
        mut decoder: Decoder<'_>,
        table: Table,
        migrations: Migrations,
        cleanup_key: String,
    ) -> Result<Self, InitError> {
        let names = ["cleanupInterval", "cleanupIntervalInSeconds"];
        let given = decoder.text(&names);
        let interval = match (given, decoder.duration(&names)) {
            (None | Some(""), _) => Some(decoder.default_of("cleanupInterval", CLEANUP_INTERVAL)),
            (Some(_), interval) => interval.and_then(|interval| interval.positive()),
        };
        let settings = Settings::decode(&mut decoder, context)?;
        decoder.finish()?;
        let pool = Pool::new(context, settings?)?;
        pool.execute("SELECT 1", &[], true)
            .await
            .map_err(|error| InitError(format!("failed to ping the database: {error}")))?;
        migrations.apply(&pool).await?;
        if let Some(interval) = interval {
            let cleanup = Cleanup {
                interval,
                key: cleanup_key,
                metadata_table: migrations.metadata_table.clone(),
                delete: table.delete_expired.clone(),
            };
            context
                .tasks
                .spawn(cleanup.run(pool.clone(), context.shutdown.clone()));
        }
        Ok(Self { pool, table })
    }

    /// Writes or removes one row outside a transaction.
    async fn write(&self, write: &Write) -> Result<(), StateError> {
        let statement = self.table.statement(write);
        // A write without a condition may happen twice; one with a condition would meet itself.
        let changed = self
            .pool
            .execute(statement.sql, &statement.values(), write.is_unconditional())
            .await?;
        write.check(changed)
    }

    async fn in_transaction(
        &self,
        lease: &mut Lease,
        guard: Option<&GuardRow>,
        writes: &[Write],
    ) -> Result<(), TransactError> {
        match guard {
            None => lease.batch("BEGIN").await?,
            Some(guard) => {
                lease.batch(BEGIN_GUARDED).await?;
                let statement = self.table.guard(guard);
                if lease.rows(statement.sql, &statement.values()).await?.is_empty() {
                    return Err(TransactError::State(StateError::GuardMismatch));
                }
            }
        }
        for write in writes {
            let statement = self.table.statement(write);
            let changed = lease.execute(statement.sql, &statement.values()).await?;
            write.check(changed).map_err(TransactError::State)?;
        }
        lease.batch("COMMIT").await?;
        Ok(())
    }
}

/// A guarded transaction holds a lock on the row of its guard, which the next owner of the actors has to change. A
/// client that freezes between two statements must not hold it for ever.
const BEGIN_GUARDED: &str = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '3s'";

/// Why a transaction did not happen.
enum TransactError {
    Db(DbError),
    State(StateError),
}

impl From<DbError> for TransactError {
    fn from(error: DbError) -> Self {
        Self::Db(error)
    }
}

#[async_trait]
impl StateStore for PostgresState {
    fn features(&self) -> &[StateFeature] {
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
        match self.table.layout {
            Layout::V1 => &V1,
            Layout::V2 => &V2,
        }
    }

    async fn get(&self, request: GetRequest) -> Result<GetResponse, StateError> {
        if request.key.is_empty() {
            return Err(StateError::other("missing key in get operation"));
        }
        let values: [(&(dyn ToSql + Sync), Type); 1] = [(&request.key, Type::TEXT)];
        let rows = self.pool.rows(&self.table.get, &values, true).await?;
        match rows.first() {
            Some(row) => self.table.response(row),
            None => Ok(GetResponse::default()),
        }
    }

    async fn bulk_get(
        &self,
        requests: Vec<GetRequest>,
        _parallelism: usize,
    ) -> Result<Vec<BulkGetItem>, StateError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<&str> = requests.iter().map(|request| request.key.as_str()).collect();
        let values: [(&(dyn ToSql + Sync), Type); 1] = [(&keys, Type::TEXT_ARRAY)];
        let rows = self.pool.rows(&self.table.bulk_get, &values, true).await?;
        // Found rows first, then one entry for every missing key.
        let mut items = Vec::with_capacity(requests.len());
        let mut found = BTreeSet::new();
        for row in &rows {
            let key: String = row
                .try_get(3)
                .map_err(|error| StateError::from(DbError::from(error)))?;
            let (response, error) = match self.table.response(row) {
                Ok(response) => (response, None),
                Err(error) => (GetResponse::default(), Some(error.to_string())),
            };
            found.insert(key.clone());
            items.push(BulkGetItem { key, response, error });
        }
        let missing = requests
            .iter()
            .filter(|request| !found.contains(request.key.as_str()));
        items.extend(missing.map(|request| BulkGetItem {
            key: request.key.clone(),
            ..Default::default()
        }));
        Ok(items)
    }

    async fn set(&self, request: SetRequest) -> Result<(), StateError> {
        self.write(&Write::set(self.table.layout, request)?).await
    }

    async fn delete(&self, request: DeleteRequest) -> Result<(), StateError> {
        self.write(&Write::delete(self.table.layout, request)?).await
    }

    async fn transact(&self, request: TransactionRequest) -> Result<(), StateError> {
        let layout = self.table.layout;
        let writes = request
            .operations
            .into_iter()
            .map(|operation| match operation {
                TransactionOperation::Upsert(set) => Write::set(layout, set),
                TransactionOperation::Delete(delete) => Write::delete(layout, delete),
            })
            .collect::<Result<Vec<Write>, StateError>>()?;
        let guard = request
            .guard
            .map(|guard| GuardRow::parse(layout, guard))
            .transpose()?;
        match (writes.as_slice(), &guard) {
            ([], _) => return Ok(()),
            ([one], None) => return self.write(one).await,
            _ => {}
        }
        let result = self
            .pool
            .within(async {
                let mut lease = self.pool.lease().await?;
                let mut again = true;
                loop {
                    let error = match self.in_transaction(&mut lease, guard.as_ref(), &writes).await {
                        Ok(()) => {
                            lease.give_back();
                            return Ok(Ok(()));
                        }
                        Err(error) => error,
                    };
                    // A connection that cannot roll back is closed, which rolls back.
                    let is_usable = lease.batch("ROLLBACK").await.is_ok();
                    let is_outdated = matches!(&error, TransactError::Db(error) if error.is_outdated());
                    if again && is_usable && is_outdated {
                        // What was prepared is forgotten, and nothing was done.
                        again = false;
                        continue;
                    }
                    if is_usable {
                        lease.give_back();
                    }
                    return match error {
                        TransactError::Db(error) => Err(error),
                        TransactError::State(error) => Ok(Err(error)),
                    };
                }
            })
            .await;
        result?
    }

    fn guards(&self) -> bool {
        true
    }

    async fn query(&self, request: QueryRequest) -> Result<QueryResponse, StateError> {
        let query = query::Query::translate(&self.table, &request)?;
        query.run(&self.pool).await
    }

    async fn keys_like(&self, request: KeysLikeRequest) -> Result<KeysLikeResponse, StateError> {
        if request.pattern.is_empty() {
            return Err(StateError::other("keys like pattern cannot be empty"));
        }
        let after: i64 = match request.continuation_token.as_deref() {
            None | Some("") => i64::MIN,
            Some(token) => token.parse().map_err(|_| {
                StateError::other(format!(
                    "invalid continue token: strconv.ParseInt: parsing {token:?}: invalid syntax"
                ))
            })?,
        };
        let page = request.page_size.filter(|size| *size > 0);
        // One more than the page tells whether there is another.
        let limit = page.map(|size| i64::from(size) + 1);
        let values: [(&(dyn ToSql + Sync), Type); 3] = [
            (&request.pattern, Type::TEXT),
            (&after, Type::INT8),
            (&limit, Type::INT8),
        ];
        let rows = self.pool.rows(&self.table.keys_like, &values, true).await?;
        let mut found = rows
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect::<Result<Vec<(String, i64)>, tokio_postgres::Error>>()
            .map_err(|error| StateError::from(DbError::from(error)))?;
        let mut continuation_token = None;
        if let Some(page) = page.map(|size| size as usize)
            && found.len() > page
        {
            found.truncate(page);
            continuation_token = found.last().map(|(_, row)| row.to_string());
        }
        Ok(KeysLikeResponse {
            keys: found.into_iter().map(|(key, _)| key).collect(),
            continuation_token,
        })
    }

    async fn ping(&self) -> Result<(), StateError> {
        self.pool.execute("SELECT 1", &[], true).await?;
        Ok(())
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}
