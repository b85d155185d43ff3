//! Removes expired rows from time to time; of several sidecars on one table only one does it.

use std::time::Duration;

use tokio_postgres::types::Type;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::error::DbError;
use crate::pool::Pool;

/// What to remove and where the last time stands.
#[derive(Debug, Clone)]
pub(crate) struct Cleanup {
    /// How often.
    pub(crate) interval: Duration,
    /// Row of the metadata table with the time of the last cleanup.
    pub(crate) key: String,
    /// Table with columns `key` and `value`.
    pub(crate) metadata_table: String,
    /// The statement that removes expired rows.
    pub(crate) delete: String,
}

impl Cleanup {
    /// Cleans up each interval until told to stop.
    pub(crate) async fn run(self, pool: Pool, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.interval) => {}
            }
            match self.once(&pool).await {
                Ok(Some(rows)) => debug!(rows, "removed expired rows"),
                Ok(None) => debug!("expired rows were removed by another sidecar"),
                Err(error) => warn!(%error, "expired rows not removed; trying again at the next interval"),
            }
        }
    }

    /// Cleans up if nobody did within the interval; how many rows, or `None` if somebody did.
    async fn once(&self, pool: &Pool) -> Result<Option<u64>, DbError> {
        let claim = format!(
            "INSERT INTO {table} AS t (key, value) VALUES ($1, now()::text)
             ON CONFLICT (key) DO UPDATE SET value = now()::text
             WHERE (EXTRACT('epoch' FROM now() - t.value::timestamp with time zone) * 1000)::bigint > $2",
            table = self.metadata_table,
        );
        // A tenth of a second of grace: timers of equal length do not fire equally.
        let age = i64::try_from(self.interval.as_millis().saturating_sub(100)).unwrap_or(i64::MAX);
        let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&self.key, Type::TEXT), (&age, Type::INT8)];
        if pool.execute(&claim, &values, false).await? == 0 {
            return Ok(None);
        }
        pool.execute(&self.delete, &[], true).await.map(Some)
    }
}
