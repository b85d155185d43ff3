//! What Raft remembers: in memory only, as in Dapr. All it decides is who leads, and how epochs grow.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Cursor;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{LogFlushed, RaftLogStorage, RaftStateMachine};
use openraft::{
    BasicNode, Entry, EntryPayload, LogId, LogState, OptionalSend, RaftLogReader, RaftSnapshotBuilder,
    Snapshot, SnapshotMeta, StorageError, StoredMembership, Vote,
};
use serde::{Deserialize, Serialize};

/// A leader asks for an epoch: at least this.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct WantEpoch(pub u64);

/// The epoch it gets: greater than any before.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Epoch(pub u64);

openraft::declare_raft_types!(
    /// The types of our Raft group.
    pub Group:
        D = WantEpoch,
        R = Epoch,
        NodeId = u64,
        Node = BasicNode,
);

type Result<T> = std::result::Result<T, StorageError<u64>>;

#[derive(Debug, Default)]
struct LogInner {
    entries: BTreeMap<u64, Entry<Group>>,
    purged: Option<LogId<u64>>,
    vote: Option<Vote<u64>>,
}

/// The log. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<LogInner>>);

impl Log {
    fn inner(&self) -> MutexGuard<'_, LogInner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RaftLogReader<Group> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<Group>>> {
        Ok(self
            .inner()
            .entries
            .range(range)
            .map(|(_, entry)| entry.clone())
            .collect())
    }
}

impl RaftLogStorage<Group> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Group>> {
        let inner = self.inner();
        let last = inner.entries.last_key_value().map(|(_, entry)| entry.log_id);
        Ok(LogState {
            last_purged_log_id: inner.purged,
            last_log_id: last.or(inner.purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<()> {
        self.inner().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>> {
        Ok(self.inner().vote)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Group>) -> Result<()>
    where
        I: IntoIterator<Item = Entry<Group>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(|entry| (entry.log_id.index, entry));
        self.inner().entries.extend(entries);
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId<u64>) -> Result<()> {
        self.inner().entries.split_off(&log_id.index);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId<u64>) -> Result<()> {
        let mut inner = self.inner();
        inner.entries = inner.entries.split_off(&(log_id.index + 1));
        inner.purged = Some(log_id);
        Ok(())
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Applied {
    last: Option<LogId<u64>>,
    membership: StoredMembership<u64, BasicNode>,
    epoch: u64,
}

/// What the log adds up to. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Machine(Arc<Mutex<Applied>>);

impl Machine {
    fn applied(&self) -> MutexGuard<'_, Applied> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot(&self) -> Snapshot<Group> {
        let applied = self.applied().clone();
        Snapshot {
            meta: SnapshotMeta {
                last_log_id: applied.last,
                last_membership: applied.membership.clone(),
                snapshot_id: format!("epoch-{}", applied.epoch),
            },
            snapshot: Box::new(Cursor::new(applied.epoch.to_be_bytes().to_vec())),
        }
    }
}

impl RaftSnapshotBuilder<Group> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Group>> {
        Ok(self.snapshot())
    }
}

impl RaftStateMachine<Group> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId<u64>>, StoredMembership<u64, BasicNode>)> {
        let applied = self.applied();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Epoch>>
    where
        I: IntoIterator<Item = Entry<Group>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut applied = self.applied();
        let mut answers = Vec::new();
        for entry in entries {
            applied.last = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Normal(WantEpoch(least)) => applied.epoch = least.max(applied.epoch + 1),
                EntryPayload::Membership(membership) => {
                    applied.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
                EntryPayload::Blank => {}
            }
            answers.push(Epoch(applied.epoch));
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, BasicNode>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<()> {
        let bytes = snapshot.into_inner();
        let epoch = bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        *self.applied() = Applied {
            last: meta.last_log_id,
            membership: meta.last_membership.clone(),
            epoch,
        };
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Group>>> {
        let known = self.applied().last.is_some();
        Ok(known.then(|| self.snapshot()))
    }
}
