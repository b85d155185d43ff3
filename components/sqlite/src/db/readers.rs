//! Connections that only read.

use std::sync::{Arc, Mutex, PoisonError};

use outrigger_components_api::state::StateError;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::{closed, failed, open};
use crate::settings;

/// Reads at the same time: more would only share two cores and cost a page cache each.
const MOST: usize = 4;

/// Opened when first needed, kept for the next read.
#[derive(Debug, Clone)]
pub(super) struct Readers {
    settings: Arc<settings::Connection>,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(settings: settings::Connection) -> Self {
        Self {
            settings: Arc::new(settings),
            idle: Arc::default(),
            permits: Arc::new(Semaphore::new(MOST)),
        }
    }

    /// Runs a closure on a thread that may block.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| closed())?;
        let readers = self.clone();
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let mut connection = readers.take()?;
            let result = work(&mut connection);
            if !readers.permits.is_closed() {
                readers.lock().push(connection);
            }
            result
        })
        .await
        .unwrap_or_else(|_| Err(closed()))
    }

    fn take(&self) -> Result<Connection, StateError> {
        if let Some(connection) = self.lock().pop() {
            return Ok(connection);
        }
        let connection = open(&self.settings).map_err(StateError::Other)?;
        connection.execute_batch("PRAGMA query_only(1)").map_err(failed)?;
        Ok(connection)
    }

    /// Later reads fail; running ones close their connection at their end.
    pub(super) fn close(&self) {
        self.permits.close();
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
