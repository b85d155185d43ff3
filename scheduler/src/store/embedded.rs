//! The store of a single replica: one SQLite file beside the process, written by one thread.
//!
//! The table holds what an etcd would hold, revisions included, so that the keys read over the etcd client port and
//! the keys of an etcd are the same. A transaction of SQLite carries all [`Txn`]s that wait, so the disk is synced
//! once for many.

mod rows;
mod thread;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::batch::Limits;
use super::{Applied, Feed, KeyValue, Store, StoreError, Txn, Write, prefix_end};
use thread::Command;

/// Calls that may wait for the thread.
const QUEUE: usize = 64;
/// How much shares a commit at most.
const BATCH: Limits = Limits {
    txns: 1024,
    bytes: 32 << 20,
};
/// Keys that one commit deletes of those under a prefix.
const FEW: usize = 5000;
/// Room that is kept on the disk for what jobs that are there have to write.
const RESERVE: u64 = 16 << 20;
/// What opening a file may take: its log, and the index of that.
const LEAST: u64 = 1 << 20;

/// Bytes that can still be written to the disk of a folder, or of the nearest one above it that exists.
fn disk_free(path: &Path) -> Option<u64> {
    let disk = path.ancestors().find_map(|path| rustix::fs::statvfs(path).ok())?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Sizes that the thread reports after each commit.
#[derive(Debug, Default)]
struct Gauges {
    revision: AtomicI64,
    bytes_in_use: AtomicU64,
    /// Bytes that can still be written to the file's disk.
    disk_free: AtomicU64,
}

/// A store in a file.
#[derive(Debug)]
pub struct Embedded {
    commands: mpsc::Sender<Command>,
    readers: rows::Readers,
    gauges: Arc<Gauges>,
    quota: u64,
    path: PathBuf,
}

impl Embedded {
    /// Opens or creates the file `scheduler.db` in a directory. Above `quota` bytes no new jobs are taken.
    ///
    /// # Errors
    /// Names the file and why; [`StoreError::Full`] if opening it takes room that its disk does not have.
    pub async fn open(directory: &Path, quota: u64) -> Result<Self, StoreError> {
        let path = directory.join("scheduler.db");
        let fail = |error: String| {
            let what = format!("cannot open the job store {}", path.display());
            // SQLite tells a full disk in many ways.
            match disk_free(directory) {
                Some(free) if free < LEAST => StoreError::Full(format!(
                    "{what}: its disk has {free} bytes left: make room on it ({error})"
                )),
                _ => StoreError::Other(format!("{what}: {error}")),
            }
        };
        std::fs::create_dir_all(directory).map_err(|error| fail(error.to_string()))?;
        let gauges = Arc::new(Gauges::default());
        let (commands, queue) = mpsc::channel(QUEUE);
        let (ready_sender, ready) = oneshot::channel();
        let (for_thread, gauges_of_thread) = (path.clone(), gauges.clone());
        std::thread::Builder::new()
            .name("job store".to_owned())
            .spawn(move || thread::run(&for_thread, &gauges_of_thread, queue, ready_sender))
            .map_err(|error| fail(error.to_string()))?;
        ready
            .await
            .unwrap_or_else(|_| Err("its thread ended".to_owned()))
            .map_err(fail)?;
        Ok(Self {
            commands,
            readers: rows::Readers::new(path.clone()),
            gauges,
            quota,
            path,
        })
    }

    /// The store's revision: that of the last change.
    pub fn revision(&self) -> i64 {
        self.gauges.revision.load(Ordering::Acquire)
    }

    /// Bytes that the content takes in the file, free pages left out.
    pub fn bytes_in_use(&self) -> u64 {
        self.gauges.bytes_in_use.load(Ordering::Relaxed)
    }

    /// Keys from one on (inclusive) up to another (exclusive; `None` = no end), ascending, at most `limit`.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn range(
        &self,
        from: Bytes,
        to: Option<Bytes>,
        limit: usize,
    ) -> Result<Vec<KeyValue>, StoreError> {
        self.readers
            .run(move |connection| rows::range(connection, &from, to.as_deref(), limit))
            .await
    }

    /// Whether there is room for new jobs, in the quota and on the disk.
    fn check_room(&self) -> Result<(), StoreError> {
        let (used, path) = (self.bytes_in_use(), self.path.display());
        if used >= self.quota {
            return Err(StoreError::Full(format!(
                "the job store is full: {path} holds {used} bytes of {} allowed; delete jobs or raise --etcd-space-quota",
                self.quota
            )));
        }
        let free = self.gauges.disk_free.load(Ordering::Relaxed);
        if free < RESERVE {
            return Err(StoreError::Full(format!(
                "the job store is full: the disk of {path} has {free} bytes left, of which {RESERVE} are kept for jobs that are there; make room on it or delete jobs"
            )));
        }
        Ok(())
    }

    /// Deletes what starts with a prefix until there are few left. All at once, a million jobs hold up every other write
    /// for eight seconds.
    async fn thin_out(&self, prefix: &Bytes) -> Result<u64, StoreError> {
        let (end, mut deleted) = (prefix_end(prefix), 0);
        loop {
            let page = self.range(prefix.clone(), end.clone(), FEW).await?;
            if page.len() < FEW {
                return Ok(deleted);
            }
            let part = Txn {
                checks: Vec::new(),
                writes: page.into_iter().map(|kv| Write::Delete(kv.key)).collect(),
                grows: false,
            };
            let applied = self.commit(vec![part]).await?;
            deleted += applied.iter().map(|applied| applied.deleted).sum::<u64>();
        }
    }

    async fn commit(&self, txns: Vec<Txn>) -> Result<Vec<Applied>, StoreError> {
        let (answer, result) = oneshot::channel();
        self.send(Command::Apply { txns, answer }).await?;
        result
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable("the job store has ended".to_owned())))
    }

    async fn send(&self, command: Command) -> Result<(), StoreError> {
        let ended = |_| StoreError::Unavailable("the job store has ended".to_owned());
        self.commands.send(command).await.map_err(ended)
    }
}

#[async_trait]
impl Store for Embedded {
    async fn get(&self, keys: Vec<Bytes>) -> Result<Vec<Option<KeyValue>>, StoreError> {
        self.readers
            .run(move |connection| rows::get(connection, &keys))
            .await
    }

    async fn pages(&self, prefix: Bytes, pages: mpsc::Sender<Vec<KeyValue>>) -> Result<(), StoreError> {
        self.readers
            .run(move |connection| {
                let gone = |_| StoreError::Unavailable("nobody reads any more".to_owned());
                rows::pages(connection, prefix, |page| pages.blocking_send(page).map_err(gone))
            })
            .await
    }

    async fn apply(&self, txns: Vec<Txn>) -> Result<Vec<Applied>, StoreError> {
        if txns.iter().any(|txn| txn.grows) {
            self.check_room()?;
        }
        let mut thinned = 0;
        let unconditional = txns.iter().filter(|txn| txn.checks.is_empty());
        for write in unconditional.flat_map(|txn| &txn.writes) {
            if let Write::DeletePrefix(prefix) = write {
                thinned += self.thin_out(prefix).await?;
            }
        }
        let mut applied = self.commit(txns).await?;
        if let Some(first) = applied.first_mut() {
            first.deleted += thinned;
        }
        Ok(applied)
    }

    async fn follow(&self, prefixes: &[&'static str], feed: mpsc::Sender<Feed>) -> StoreError {
        let (events_sender, mut events) = mpsc::channel(QUEUE);
        let (ready_sender, ready) = oneshot::channel();
        let follower = Command::Follow {
            events: events_sender,
            ready: ready_sender,
        };
        if let Err(error) = self.send(follower).await {
            return error;
        }
        let ended = || StoreError::Unavailable("the job store has ended".to_owned());
        // The snapshot was taken at a moment after which every change is among the events.
        let snapshot = match ready.await {
            Ok(Ok(snapshot)) => snapshot,
            Ok(Err(error)) => return error,
            Err(_) => return ended(),
        };
        let (prefixes, to_feed) = (prefixes.to_vec(), feed.clone());
        let told = tokio::task::spawn_blocking(move || rows::tell(&snapshot, &prefixes, &to_feed)).await;
        match told {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error,
            Err(_) => return ended(),
        }
        while let Some(batch) = events.recv().await {
            if feed.send(Feed::Events(batch)).await.is_err() {
                break;
            }
        }
        ended()
    }

    fn batch(&self) -> Limits {
        BATCH
    }
}
