//! Brings tables up to date, under the same lock and with the same count as Dapr's.

use std::time::Duration;

use outrigger_components_api::InitError;
use tokio_postgres::types::Type;

use crate::error::DbError;
use crate::pool::Pool;

/// How long another sidecar may hold the lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);
const CREATE_TRIES: u32 = 3;

/// Steps from nothing to the newest layout, and where the count of done ones stands.
#[derive(Debug)]
pub(crate) struct Migrations {
    pub(crate) metadata_table: String,
    pub(crate) key: String,
    /// Each may hold several statements.
    pub(crate) steps: Vec<String>,
}

impl Migrations {
    /// Does the steps that were not done yet.
    ///
    /// # Errors
    /// Names the step that failed.
    pub(crate) async fn apply(&self, pool: &Pool) -> Result<(), InitError> {
        self.ensure_metadata_table(pool).await?;
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: DbError| InitError(format!("{what}: {error}"))
        };
        let table = &self.metadata_table;
        let insert =
            format!("INSERT INTO {table} (key, value) VALUES ('lock', 'lock') ON CONFLICT (key) DO NOTHING");
        pool.execute(&insert, &[], true)
            .await
            .map_err(failed("failed to ensure lock row 'lock' exists"))?;
        let locked = tokio::time::timeout(LOCK_PATIENCE, async {
            let mut lock = pool.lease().await?;
            lock.batch("BEGIN").await?;
            let select = format!("SELECT value FROM {table} WHERE key = 'lock' FOR UPDATE");
            lock.rows(&select, &[]).await?;
            Ok(lock)
        })
        .await
        .unwrap_or(Err(DbError::Timeout(LOCK_PATIENCE)));
        let lock = locked.map_err(failed(
            "failed to acquire migration lock (row-level lock on key 'lock')",
        ))?;
        let result = self.steps(pool).await;
        if lock.batch("ROLLBACK").await.is_ok() {
            lock.give_back();
        }
        result
    }

    async fn steps(&self, pool: &Pool) -> Result<(), InitError> {
        let failed = |error: DbError| InitError(format!("failed to perform migrations: {error}"));
        let select = format!("SELECT value FROM {} WHERE key = $1", self.metadata_table);
        let rows = pool
            .rows(&select, &[(&self.key, Type::TEXT)], true)
            .await
            .map_err(failed)?;
        let done: usize = match rows.first() {
            None => 0,
            Some(row) => {
                let text: &str = row.try_get(0).map_err(|error| failed(error.into()))?;
                text.parse().map_err(|_| {
                    InitError(format!("invalid migration level found in metadata table: {text}"))
                })?
            }
        };
        let update = format!(
            "INSERT INTO {} (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = $2",
            self.metadata_table
        );
        for (number, step) in self.steps.iter().enumerate().skip(done) {
            let mut lease = pool.lease().await.map_err(failed)?;
            lease.batch(step).await.map_err(failed)?;
            let level = (number + 1).to_string();
            lease
                .execute(&update, &[(&self.key, Type::TEXT), (&level, Type::TEXT)])
                .await
                .map_err(failed)?;
            lease.give_back();
        }
        Ok(())
    }

    /// Two sidecars that create the table at the same moment meet in the system's catalogue; one of them tries again.
    async fn ensure_metadata_table(&self, pool: &Pool) -> Result<(), InitError> {
        let create = format!(
            "CREATE TABLE IF NOT EXISTS {} (key text NOT NULL PRIMARY KEY, value text NOT NULL)",
            self.metadata_table
        );
        let mut tries = 0;
        loop {
            tries += 1;
            match pool.execute(&create, &[], true).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_duplicate() && tries < CREATE_TRIES => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => {
                    return Err(InitError(format!(
                        "failed to ensure metadata table exists: failed to create metadata table: {error}"
                    )));
                }
            }
        }
    }
}
