//! A database: one thread that writes, a few connections that read.

mod readers;
mod writer;

use std::sync::{Mutex, PoisonError};

use outrigger_components_api::InitError;
use outrigger_components_api::state::StateError;
use rusqlite::{OpenFlags, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use crate::settings::Connection;
use readers::Readers;
use writer::{Call, Work};

/// Writes that may wait; more callers than that wait to be let in.
const QUEUE: usize = 256;

/// A handle for many callers. Statements run in closures that must not call back.
#[derive(Debug)]
pub(crate) struct Database {
    writer: Mutex<Option<mpsc::Sender<Box<dyn Work>>>>,
    /// `None`: the database lives in one connection, which serves reads as well.
    readers: Option<Readers>,
    ended: Mutex<Option<oneshot::Receiver<()>>>,
    settings: Connection,
}

impl Database {
    /// Opens the file, applies the migrations and starts the thread that writes.
    ///
    /// # Errors
    /// If the file cannot be opened or migrated; the text names it.
    pub(crate) async fn open(
        name: &str,
        settings: Connection,
        migrate: impl FnOnce(&rusqlite::Connection) -> Result<(), String> + Send + 'static,
    ) -> Result<Self, InitError> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (ready_sender, ready) = oneshot::channel();
        let (end_sender, ended) = oneshot::channel();
        let for_thread = settings.clone();
        std::thread::Builder::new()
            .name(format!("sqlite {name}"))
            .spawn(move || {
                let opened = open(&for_thread).and_then(|connection| {
                    migrate(&connection).map_err(|error| format!("failed to perform migrations: {error}"))?;
                    Ok(connection)
                });
                match opened {
                    Ok(connection) => {
                        let _ = ready_sender.send(Ok(()));
                        writer::run(connection, for_thread.begin, receiver);
                    }
                    Err(error) => {
                        let _ = ready_sender.send(Err(error));
                    }
                }
                let _ = end_sender.send(());
            })
            .map_err(|error| InitError(format!("cannot start a thread for SQLite: {error}")))?;
        ready
            .await
            .unwrap_or_else(|_| Err("the thread ended".to_owned()))
            .map_err(|error| InitError(format!("SQLite database {}: {error}", settings.uri)))?;
        Ok(Self {
            writer: Mutex::new(Some(sender)),
            readers: (!settings.in_memory).then(|| Readers::new(settings.clone())),
            ended: Mutex::new(Some(ended)),
            settings,
        })
    }

    /// Runs statements that write; `Ok` means committed. An error undoes them, and nothing but them.
    ///
    /// # Errors
    /// What the closure says, or why the transaction could not begin or be committed.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        self.bounded(self.enqueue(work)).await
    }

    /// Runs one statement that only reads.
    ///
    /// # Errors
    /// What the closure says, or why there is no connection.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        match &self.readers {
            Some(readers) => {
                self.bounded(readers.run(move |connection| work(connection)))
                    .await
            }
            None => self.bounded(self.enqueue(work)).await,
        }
    }

    /// Runs several of them, on one state of the database.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(crate) async fn read_together<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        let Some(readers) = &self.readers else {
            return self.bounded(self.enqueue(work)).await;
        };
        let together = |connection: &mut rusqlite::Connection| {
            let transaction = connection
                .transaction_with_behavior(TransactionBehavior::Deferred)
                .map_err(failed)?;
            work(&transaction)
        };
        self.bounded(readers.run(together)).await
    }

    async fn enqueue<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        let sender = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or_else(closed)?;
        let (call, answer) = Call::new(work);
        sender.send(Box::new(call)).await.map_err(|_| closed())?;
        drop(sender);
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    async fn bounded<T>(&self, call: impl Future<Output = Result<T, StateError>>) -> Result<T, StateError> {
        tokio::time::timeout(self.settings.timeout, call)
            .await
            .unwrap_or_else(|_| Err(StateError::other("context deadline exceeded")))
    }

    /// Lets queued writes finish and closes the connections. Later calls fail.
    pub(crate) async fn close(&self) {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(readers) = &self.readers {
            readers.close();
        }
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ended) = ended {
            // An error means that the thread has ended without a word, which is an end as well.
            let _ = ended.await;
        }
    }
}

/// How long a pragma waits for another process, and how often it looks.
const PRAGMA_PATIENCE: std::time::Duration = std::time::Duration::from_secs(4);
const PRAGMA_PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

/// A connection with its pragmas set. Texts and blobs only, so threads need no locks of SQLite's own.
fn open(settings: &Connection) -> Result<rusqlite::Connection, String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection =
        rusqlite::Connection::open_with_flags(&settings.uri, flags).map_err(|error| error.to_string())?;
    connection.set_prepared_statement_cache_capacity(32);
    for pragma in &settings.pragmas {
        set_pragma(&connection, pragma).map_err(|error| format!("PRAGMA {pragma}: {error}"))?;
    }
    Ok(connection)
}

/// Sets a pragma, waiting for other processes: SQLite's own busy time-out does not cover the change of the journal
/// mode, so of two sidecars that open a new file at once one would fail.
fn set_pragma(connection: &rusqlite::Connection, pragma: &str) -> Result<(), rusqlite::Error> {
    let deadline = std::time::Instant::now() + PRAGMA_PATIENCE;
    loop {
        let result = connection.execute_batch(&format!("PRAGMA {pragma}"));
        let busy = result.as_ref().is_err_and(|error| {
            matches!(
                error.sqlite_error_code(),
                Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked)
            )
        });
        if !busy || std::time::Instant::now() >= deadline {
            return result;
        }
        std::thread::sleep(PRAGMA_PAUSE);
    }
}

fn closed() -> StateError {
    StateError::other("component is closed")
}

/// SQLite's own words.
pub(crate) fn failed(error: rusqlite::Error) -> StateError {
    StateError::other(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sidecars of one run open the default store's file at the same moment, when it doesn't exist yet.
    #[test]
    fn a_new_file_can_be_opened_by_many_at_once() {
        for round in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(format!("{round}.db"));
            let settings = Connection {
                uri: format!("file:{}", path.display()),
                in_memory: false,
                pragmas: vec!["busy_timeout(2000)".into(), "journal_mode(WAL)".into()],
                begin: "BEGIN IMMEDIATE",
                timeout: std::time::Duration::from_secs(5),
            };
            std::thread::scope(|scope| {
                let opened: Vec<_> = (0..8)
                    .map(|_| scope.spawn(|| open(&settings).map(drop)))
                    .collect();
                for handle in opened {
                    assert_eq!(handle.join().unwrap(), Ok(()));
                }
            });
        }
    }
}
