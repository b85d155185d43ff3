//! The thread that writes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};
use tokio::sync::{mpsc, oneshot};

use super::rows::{create, failure, get_one, open_reader};
use super::{BATCH, Gauges};
use crate::store::{Applied, Event, KeyValue, StoreError, Txn, Write, prefix_end};

/// How often free pages are given back.
const VACUUM: Duration = Duration::from_secs(600);

/// What the thread is asked.
pub(super) enum Command {
    /// Transactions that share a commit.
    Apply {
        txns: Vec<Txn>,
        answer: oneshot::Sender<Result<Vec<Applied>, StoreError>>,
    },
    /// From now on tell every change; answered with a connection that sees the content as of now.
    Follow {
        events: mpsc::Sender<Vec<Event>>,
        ready: oneshot::Sender<Result<Connection, StoreError>>,
    },
}

/// Serves commands until all senders are gone.
pub(super) fn run(
    path: &Path,
    gauges: &Arc<Gauges>,
    mut queue: mpsc::Receiver<Command>,
    ready: oneshot::Sender<Result<(), String>>,
) {
    let mut writer = match Writer::open(path, gauges.clone()) {
        Ok(writer) => {
            let _ = ready.send(Ok(()));
            writer
        }
        Err(error) => {
            let _ = ready.send(Err(error.to_string()));
            return;
        }
    };
    let mut last_vacuum = Instant::now();
    while let Some(command) = queue.blocking_recv() {
        match command {
            Command::Apply { txns, answer } => {
                let mut group = vec![(txns, answer)];
                let mut held_over = None;
                // Whoever waits already shares the commit.
                while group.iter().map(|(txns, _)| txns.len()).sum::<usize>() < BATCH.txns {
                    match queue.try_recv() {
                        Ok(Command::Apply { txns, answer }) => group.push((txns, answer)),
                        Ok(other) => {
                            held_over = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                writer.commit(group);
                if let Some(Command::Follow { events, ready }) = held_over {
                    writer.follow(path, events, ready);
                }
            }
            Command::Follow { events, ready } => writer.follow(path, events, ready),
        }
        if last_vacuum.elapsed() > VACUUM {
            last_vacuum = Instant::now();
            writer.vacuum();
        }
    }
}

struct Writer {
    connection: Connection,
    revision: i64,
    followers: Vec<mpsc::Sender<Vec<Event>>>,
    gauges: Arc<Gauges>,
    path: PathBuf,
}

type Group = Vec<(Vec<Txn>, oneshot::Sender<Result<Vec<Applied>, StoreError>>)>;

impl Writer {
    fn open(path: &Path, gauges: Arc<Gauges>) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        // FULL: a job that was accepted is there after a power cut.
        connection.execute_batch(
            "PRAGMA auto_vacuum = INCREMENTAL;
             PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA busy_timeout = 5000;
             PRAGMA locking_mode = NORMAL;
             PRAGMA cache_size = -8000;",
        )?;
        connection.set_prepared_statement_cache_capacity(16);
        create(&connection)?;
        let revision = connection.query_row("SELECT revision FROM meta", [], |row| row.get(0))?;
        let writer = Self {
            connection,
            revision,
            followers: Vec::new(),
            gauges,
            path: path.to_owned(),
        };
        writer.report();
        Ok(writer)
    }

    /// Applies a group in one transaction of SQLite, tells the followers and answers.
    fn commit(&mut self, group: Group) {
        let before = self.revision;
        let mut events = Vec::new();
        let (batches, answers): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        let applied = self.apply_all(&batches, &mut events);
        match applied {
            Ok(applied) => {
                self.report();
                if !events.is_empty() {
                    // A follower that is behind holds up the writers, so nothing piles up.
                    self.followers
                        .retain(|follower| follower.blocking_send(events.clone()).is_ok());
                }
                for (answer, applied) in answers.into_iter().zip(applied) {
                    let _ = answer.send(Ok(applied)); // the caller may have given up
                }
            }
            Err(error) => {
                self.revision = before;
                let error = failure(&error);
                tracing::warn!("writing to the job store failed: {error}");
                for answer in answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }

    fn apply_all(
        &mut self,
        batches: &[Vec<Txn>],
        events: &mut Vec<Event>,
    ) -> rusqlite::Result<Vec<Vec<Applied>>> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let result = self.apply_in_transaction(batches, events).and_then(|applied| {
            self.connection.execute_batch("COMMIT")?;
            Ok(applied)
        });
        if result.is_err() {
            events.clear();
            // SQLite may have rolled back by itself already.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        result
    }

    fn apply_in_transaction(
        &mut self,
        batches: &[Vec<Txn>],
        events: &mut Vec<Event>,
    ) -> rusqlite::Result<Vec<Vec<Applied>>> {
        let mut all = Vec::with_capacity(batches.len());
        for txns in batches {
            let mut applied = Vec::with_capacity(txns.len());
            for txn in txns {
                applied.push(self.apply_one(txn, events)?);
            }
            all.push(applied);
        }
        self.connection
            .prepare_cached("UPDATE meta SET revision = ?1")?
            .execute([self.revision])?;
        Ok(all)
    }

    fn apply_one(&mut self, txn: &Txn, events: &mut Vec<Event>) -> rusqlite::Result<Applied> {
        for check in &txn.checks {
            let found: Option<i64> = rusqlite::OptionalExtension::optional(
                self.connection
                    .prepare_cached("SELECT modified FROM kv WHERE key = ?1")?
                    .query_row([&check.key[..]], |row| row.get(0)),
            )?;
            if found.unwrap_or(0) != check.mod_revision {
                return Ok(Applied {
                    succeeded: false,
                    revision: self.revision,
                    deleted: 0,
                });
            }
        }
        let revision = self.revision + 1;
        let before = events.len();
        let mut deleted = 0;
        for write in &txn.writes {
            match write {
                Write::Put { key, value, .. } => events.push(Event::Put(self.put(key, value, revision)?)),
                Write::Delete(key) => deleted += self.delete(key, revision, events)?,
                Write::DeletePrefix(prefix) => deleted += self.delete_prefix(prefix, revision, events)?,
            }
        }
        // As in etcd: what changes nothing makes no revision.
        if events.len() > before {
            self.revision = revision;
        }
        Ok(Applied {
            succeeded: true,
            revision: self.revision,
            deleted,
        })
    }

    fn put(&self, key: &bytes::Bytes, value: &bytes::Bytes, revision: i64) -> rusqlite::Result<KeyValue> {
        let (create_revision, version) = self
            .connection
            .prepare_cached(
                "INSERT INTO kv (key, value, created, modified, version) VALUES (?1, ?2, ?3, ?3, 1)
                 ON CONFLICT (key) DO UPDATE SET value = ?2, modified = ?3, version = version + 1
                 RETURNING created, version",
            )?
            .query_row(params![&key[..], &value[..], revision], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        Ok(KeyValue {
            key: key.clone(),
            value: value.clone(),
            create_revision,
            mod_revision: revision,
            version,
        })
    }

    fn delete(&self, key: &bytes::Bytes, revision: i64, events: &mut Vec<Event>) -> rusqlite::Result<u64> {
        let removed = self
            .connection
            .prepare_cached("DELETE FROM kv WHERE key = ?1")?
            .execute([&key[..]])?;
        if removed > 0 {
            events.push(Event::Deleted {
                key: key.clone(),
                revision,
            });
        }
        Ok(removed as u64)
    }

    fn delete_prefix(&self, prefix: &[u8], revision: i64, events: &mut Vec<Event>) -> rusqlite::Result<u64> {
        let end = prefix_end(prefix);
        let mut statement = self
            .connection
            .prepare_cached("DELETE FROM kv WHERE key >= ?1 AND (?2 IS NULL OR key < ?2) RETURNING key")?;
        let keys = statement.query_map(params![prefix, end.as_deref()], |row| row.get::<_, Vec<u8>>(0))?;
        let mut count = 0;
        for key in keys {
            events.push(Event::Deleted {
                key: key?.into(),
                revision,
            });
            count += 1;
        }
        Ok(count)
    }

    fn follow(
        &mut self,
        path: &Path,
        events: mpsc::Sender<Vec<Event>>,
        ready: oneshot::Sender<Result<Connection, StoreError>>,
    ) {
        let snapshot = || -> rusqlite::Result<Connection> {
            let connection = open_reader(path)?;
            connection.execute_batch("BEGIN")?;
            // The first read fixes what the transaction sees.
            get_one(&connection, b"")?;
            Ok(connection)
        };
        let snapshot = snapshot().map_err(|error| failure(&error));
        if snapshot.is_ok() {
            self.followers.push(events);
        }
        let _ = ready.send(snapshot);
    }

    fn report(&self) {
        self.gauges.revision.store(self.revision, Ordering::Release);
        let pages = |name: &str| {
            self.connection
                .query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0))
                .unwrap_or(0)
        };
        let in_use = (pages("page_count") - pages("freelist_count")) * pages("page_size");
        self.gauges
            .bytes_in_use
            .store(u64::try_from(in_use).unwrap_or(0), Ordering::Relaxed);
        // Where the disk cannot be asked, its own refusal has to do.
        let free = super::disk_free(&self.path).unwrap_or(u64::MAX);
        self.gauges.disk_free.store(free, Ordering::Relaxed);
    }

    /// Gives free pages back once they are half of the file.
    fn vacuum(&self) {
        let result = self.connection.query_row(
            "SELECT (SELECT * FROM pragma_freelist_count) * 2 > (SELECT * FROM pragma_page_count)",
            [],
            |row| row.get::<_, bool>(0),
        );
        if matches!(result, Ok(true))
            && let Err(error) = self.connection.execute_batch("PRAGMA incremental_vacuum")
        {
            tracing::warn!("giving free space of the job store back failed: {error}");
        }
    }
}
