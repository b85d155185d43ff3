//! The table, and reading it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, params};
use tokio::sync::mpsc;

use crate::store::{Feed, KeyValue, PAGE_BYTES, StoreError, prefix_end};

/// Rows told at a time.
const PAGE: usize = 4096;
/// Keys of a range; a negative number = all.
const RANGE: &str = "SELECT key, value, created, modified, version FROM kv
     WHERE key >= ?1 AND (?2 IS NULL OR key < ?2) ORDER BY key LIMIT ?3";
/// Connections kept for reading.
const READERS: usize = 4;

/// Makes the table if it is not there.
pub(super) fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS kv (
            key BLOB PRIMARY KEY NOT NULL,
            value BLOB NOT NULL,
            created INTEGER NOT NULL,
            modified INTEGER NOT NULL,
            version INTEGER NOT NULL
        ) WITHOUT ROWID;
        CREATE TABLE IF NOT EXISTS meta (revision INTEGER NOT NULL);
        INSERT INTO meta (revision) SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM meta);",
    )
}

/// What went wrong, with disk-full told apart.
pub(super) fn failure(error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => StoreError::Full(format!(
            "the job store is full: {error}; make room on its disk, jobs are kept meanwhile"
        )),
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
            StoreError::Unavailable(error.to_string())
        }
        _ => StoreError::Other(format!("the job store failed: {error}")),
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<KeyValue> {
    Ok(KeyValue {
        key: row.get::<_, Vec<u8>>(0)?.into(),
        value: row.get::<_, Vec<u8>>(1)?.into(),
        create_revision: row.get(2)?,
        mod_revision: row.get(3)?,
        version: row.get(4)?,
    })
}

/// One key.
pub(super) fn get_one(connection: &Connection, key: &[u8]) -> rusqlite::Result<Option<KeyValue>> {
    connection
        .prepare_cached("SELECT key, value, created, modified, version FROM kv WHERE key = ?1")?
        .query_row([key], read)
        .optional()
}

/// Some keys, in the order asked for.
pub(super) fn get(connection: &Connection, keys: &[Bytes]) -> Result<Vec<Option<KeyValue>>, StoreError> {
    keys.iter()
        .map(|key| get_one(connection, key).map_err(|error| failure(&error)))
        .collect()
}

/// Keys of a range, ascending.
pub(super) fn range(
    connection: &Connection,
    from: &[u8],
    to: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<KeyValue>, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let query = || -> rusqlite::Result<Vec<KeyValue>> {
        let mut statement = connection.prepare_cached(RANGE)?;
        statement.query_map(params![from, to, limit], read)?.collect()
    };
    query().map_err(|error| failure(&error))
}

/// Tells everything below the prefixes, from a connection inside a read transaction.
pub(super) fn tell(
    snapshot: &Connection,
    prefixes: &[&'static str],
    feed: &mpsc::Sender<Feed>,
) -> Result<(), StoreError> {
    let gone = |_| StoreError::Unavailable("nobody follows any more".to_owned());
    feed.blocking_send(Feed::Begin).map_err(gone)?;
    for prefix in prefixes {
        pages(snapshot, Bytes::from_static(prefix.as_bytes()), |page| {
            feed.blocking_send(Feed::Keys(page)).map_err(gone)
        })?;
    }
    feed.blocking_send(Feed::Complete).map_err(gone)
}

/// Hands on all keys that start with a prefix, some at a time: the content as of one moment, since it is one statement.
pub(super) fn pages(
    connection: &Connection,
    prefix: Bytes,
    mut take: impl FnMut(Vec<KeyValue>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let end = prefix_end(&prefix);
    let mut statement = connection
        .prepare_cached(RANGE)
        .map_err(|error| failure(&error))?;
    let rows = statement.query_map(params![&prefix[..], end.as_deref(), -1], read);
    let (mut page, mut size) = (Vec::new(), 0);
    for row in rows.map_err(|error| failure(&error))? {
        let row = row.map_err(|error| failure(&error))?;
        size += row.key.len() + row.value.len();
        page.push(row);
        if page.len() == PAGE || size > PAGE_BYTES {
            size = 0;
            take(std::mem::take(&mut page))?;
        }
    }
    if page.is_empty() { Ok(()) } else { take(page) }
}

/// Opens a connection that only reads.
pub(super) fn open_reader(path: &std::path::Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.execute_batch("PRAGMA cache_size = -2000; PRAGMA mmap_size = 0;")?;
    Ok(connection)
}

/// A few connections for reading, opened when needed.
#[derive(Debug, Clone)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Arc<Mutex<Vec<Connection>>>,
    slots: Arc<tokio::sync::Semaphore>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            idle: Arc::default(),
            slots: Arc::new(tokio::sync::Semaphore::new(READERS)),
        }
    }

    /// Runs statements on one of the connections, off the runtime's threads.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let ended = || StoreError::Unavailable("the job store has ended".to_owned());
        let slot = self.slots.clone().acquire_owned().await.map_err(|_| ended())?;
        let this = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            let kept = this.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match kept {
                Some(connection) => connection,
                None => open_reader(&this.path).map_err(|error| failure(&error))?,
            };
            let result = work(&connection);
            this.idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(connection);
            result
        });
        task.await.unwrap_or_else(|_| Err(ended()))
    }
}
