//! `bindings.postgresql`: statements of the app.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use outrigger_components_api::bindings::{
    InvokeError, InvokeRequest, InvokeResponse, Operation, OutputBinding,
};
use outrigger_components_api::metadata::Decoder;
use outrigger_components_api::{InitContext, InitError, RequestMetadata};
use outrigger_gojson::{Numbers, Value};
use outrigger_model::duration::GoDuration;
use tokio::time::Instant;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use crate::error::DbError;
use crate::pool::{Answer, Lease, Pool};
use crate::settings::Settings;
use crate::values::{Cell, Loose, time};

/// Seconds from 1970 to 2000.
const EPOCH: u64 = 946_684_800;

/// Runs statements in a PostgreSQL database.
#[derive(Debug)]
pub struct PostgresBinding {
    pool: Pool,
}

impl PostgresBinding {
    /// Connects. Settings: those of all PostgreSQL components.
    ///
    /// # Errors
    /// Names the wrong setting, or why the database cannot be used.
    pub async fn connect(context: &InitContext) -> Result<Self, InitError> {
        let mut decoder = Decoder::new(&context.properties)?;
        let settings = Settings::decode(&mut decoder, context)?;
        decoder.finish()?;
        let pool = Pool::new(context, settings?)?;
        pool.execute("SELECT 1", &[], true)
            .await
            .map_err(|error| InitError(format!("failed to ping the DB: {error}")))?;
        Ok(Self { pool })
    }

    async fn run(&self, sql: &str, values: &[Value]) -> Result<Answer, DbError> {
        self.pool
            .within(async {
                let mut lease = self.pool.lease().await?;
                let result = run_on(&mut lease, sql, values).await;
                // A connection that still has an answer to come is not handed on.
                if !matches!(&result, Err(error) if error.is_lost()) {
                    lease.give_back();
                }
                result
            })
            .await
    }
}

/// The server decides what parameters are: they are sent as text.
async fn run_on(lease: &mut Lease, sql: &str, values: &[Value]) -> Result<Answer, DbError> {
    let loose: Vec<Loose<'_>> = values.iter().map(Loose).collect();
    if !lease.caches_statements() {
        // Without a name that a proxy would have to know on another connection.
        let typed: Vec<(&(dyn ToSql + Sync), Type)> =
            loose.iter().map(|value| (value as _, Type::UNKNOWN)).collect();
        return lease.run(sql, &typed).await;
    }
    let statement = lease.client().prepare(sql).await?;
    if statement.params().len() != loose.len() {
        return Err(DbError::Usage(format!(
            "expected {} arguments, got {}",
            statement.params().len(),
            loose.len()
        )));
    }
    let parameters = loose.iter().map(|value| value as &(dyn ToSql + Sync));
    Answer::read(lease.client().query_raw(&statement, parameters).await?).await
}

fn json(row: &Row) -> Result<Value, DbError> {
    let cells = (0..row.len()).map(|index| row.try_get::<_, Cell>(index).map(|cell| cell.0));
    Ok(Value::Array(cells.collect::<Result<_, _>>()?))
}

#[async_trait]
impl OutputBinding for PostgresBinding {
    fn operations(&self) -> &[Operation] {
        const OPERATIONS: [Operation; 3] = [
            Operation::Borrowed("exec"),
            Operation::Borrowed("query"),
            Operation::Borrowed("close"),
        ];
        &OPERATIONS
    }

    async fn invoke(&self, request: InvokeRequest) -> Result<Option<InvokeResponse>, InvokeError> {
        if request.operation == "close" {
            self.pool.close().await;
            return Ok(None);
        }
        let sql = request
            .metadata
            .get("sql")
            .filter(|sql| !sql.is_empty())
            .ok_or_else(|| InvokeError::new("required metadata not set: sql"))?;
        let values = match request.metadata.get("params").filter(|text| !text.is_empty()) {
            None => Vec::new(),
            Some(text) => match outrigger_gojson::parse(text.as_bytes()) {
                Ok(Value::Array(values)) => values,
                _ => {
                    return Err(InvokeError::new(
                        "invalid metadata property params: failed to unserialize into an array",
                    ));
                }
            },
        };
        let (started, clock) = (now(), Instant::now());
        let failed = |error: DbError| InvokeError::new(format!("error executing query: {error}"));
        let answer = self.run(sql, &values).await.map_err(failed)?;
        let mut response = InvokeResponse {
            data: None,
            metadata: RequestMetadata::from([
                ("operation".to_owned(), request.operation.clone()),
                ("sql".to_owned(), sql.clone()),
                ("start-time".to_owned(), started),
                ("end-time".to_owned(), now()),
                ("duration".to_owned(), duration(clock.elapsed())),
            ]),
        };
        if request.operation == "query" {
            let rows: Result<Vec<Value>, DbError> = answer.rows.iter().map(json).collect();
            let rows = Value::Array(rows.map_err(failed)?);
            response.data = Some(outrigger_gojson::to_vec(&rows, Numbers::Verbatim, true).into());
        } else {
            response
                .metadata
                .insert("rows-affected".to_owned(), answer.changed.to_string());
        }
        Ok(Some(response))
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}

fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let micros = since.saturating_sub(Duration::from_secs(EPOCH)).as_micros();
    time(i64::try_from(micros).unwrap_or(i64::MAX))
}

fn duration(elapsed: Duration) -> String {
    GoDuration::from_nanos(i64::try_from(elapsed.as_nanos()).unwrap_or(i64::MAX)).to_string()
}
