//! Removes expired rows from time to time; of several sidecars on one file only one does it.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::db::{Database, failed};

/// What to remove and where the last time stands.
#[derive(Debug, Clone)]
pub(crate) struct Cleanup {
    /// How often.
    pub(crate) interval: Duration,
    /// Row of the metadata table with the time of the last cleanup.
    pub(crate) key: &'static str,
    /// Table with columns `key` and `value`.
    pub(crate) metadata_table: String,
    /// The statement that removes expired rows.
    pub(crate) delete: String,
}

impl Cleanup {
    /// Cleans up each interval until told to stop.
    pub(crate) async fn run(self, database: Arc<Database>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.interval) => {}
            }
            match self.once(&database).await {
                Ok(Some(rows)) => debug!(rows, "removed expired rows"),
                Ok(None) => debug!("expired rows were removed by another sidecar"),
                Err(error) => warn!(%error, "expired rows not removed; trying again at the next interval"),
            }
        }
    }

    /// Cleans up if nobody did within the interval; how many rows, or `None` if somebody did.
    async fn once(&self, database: &Database) -> Result<Option<usize>, String> {
        let claim = format!(
            "INSERT INTO {table} (key, value) VALUES ('{key}', CURRENT_TIMESTAMP)
             ON CONFLICT (key) DO UPDATE SET value = CURRENT_TIMESTAMP
             WHERE (unixepoch(CURRENT_TIMESTAMP) - unixepoch(value)) * 1000 > ?1",
            table = self.metadata_table,
            key = self.key,
        );
        let delete = self.delete.clone();
        // A tenth of a second of grace: timers of equal length do not fire equally.
        let age = i64::try_from(self.interval.as_millis().saturating_sub(100)).unwrap_or(i64::MAX);
        database
            .write(move |connection| {
                if connection.execute(&claim, [age]).map_err(failed)? == 0 {
                    return Ok(None);
                }
                connection.execute(&delete, []).map(Some).map_err(failed)
            })
            .await
            .map_err(|error| error.to_string())
    }
}
