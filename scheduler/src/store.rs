//! Where jobs are kept: a key-value store with revisions, whose keys and values are the reference's
//! (contract `scheduler`, section 2). Two implementations stand behind [`Store`]: [`embedded`] and [`etcd`].
//!
//! Every change is a [`Txn`]: checks and writes that happen together or not at all. Nothing is read first and then
//! written in the hope that it stayed the same.

pub mod batch;
pub mod embedded;
pub mod etcd;

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;
use tokio::sync::mpsc;

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The whole key, with its namespace.
    pub key: Bytes,
    /// What is kept.
    pub value: Bytes,
    /// Revision of the store at the write that made the key.
    pub create_revision: i64,
    /// Revision of the store at the last write of this key.
    pub mod_revision: i64,
    /// Number of writes since the key was made, 1 for the first.
    pub version: i64,
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Which key.
    pub key: Bytes,
    /// The revision its last write must have; 0 = the key must be absent.
    pub mod_revision: i64,
}

/// A change of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets a key.
    Put {
        /// Which.
        key: Bytes,
        /// To what.
        value: Bytes,
        /// The lease the key ends with; 0 = none.
        lease: i64,
    },
    /// Removes a key; an absent one is no failure.
    Delete(Bytes),
    /// Removes all keys that start like this.
    DeletePrefix(Bytes),
}

/// Checks and what is written if all of them hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// Conditions.
    pub checks: Vec<Check>,
    /// Changes.
    pub writes: Vec<Write>,
    /// Whether it is refused when the store is full. What notes that a tick is done, or removes keys, is not: jobs that
    /// are there go on as long as anything can be written at all.
    pub grows: bool,
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// Whether the checks held.
    pub succeeded: bool,
    /// The store's revision afterwards; that of every key that was set.
    pub revision: i64,
    /// Number of keys removed.
    pub deleted: u64,
}

/// A change that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A key was set.
    Put(KeyValue),
    /// A key was removed, at this revision.
    Deleted {
        /// Which.
        key: Bytes,
        /// When.
        revision: i64,
    },
}

/// What [`Store::follow`] tells, in this order: one `Begin`, the keys, one `Complete`, then events for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Feed {
    /// From here on the whole content follows; what is not mentioned until [`Self::Complete`] is gone.
    Begin,
    /// Some of the content.
    Keys(Vec<KeyValue>),
    /// That was everything.
    Complete,
    /// What changed since, in order.
    Events(Vec<Event>),
}

/// Why the store failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// No room for more. Reading and deleting still work.
    #[error("{0}")]
    Full(String),
    /// One transaction is more than the store takes at a time.
    #[error("{0}")]
    TooLarge(String),
    /// Not reachable or without a leader; worth trying again.
    #[error("{0}")]
    Unavailable(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// A key-value store with revisions.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug + 'static {
    /// The values of some keys, in the order asked for.
    async fn get(&self, keys: Vec<Bytes>) -> Result<Vec<Option<KeyValue>>, StoreError>;

    /// Hands on all keys that start with a prefix, ascending, as of one moment; stops when nobody takes them any more.
    async fn pages(&self, prefix: Bytes, pages: mpsc::Sender<Vec<KeyValue>>) -> Result<(), StoreError>;

    /// All keys that start with a prefix, ascending. If they and their values have more bytes than `most`, that is
    /// [`StoreError::TooLarge`].
    async fn list(&self, prefix: Bytes, most: usize) -> Result<Vec<KeyValue>, StoreError> {
        let (sender, mut pages) = mpsc::channel::<Vec<KeyValue>>(1);
        let gathering = async move {
            let (mut all, mut size) = (Vec::new(), 0);
            while let Some(page) = pages.recv().await {
                size += bytes(&page);
                if size > most {
                    return Err(StoreError::TooLarge(format!("they have more than {most} bytes")));
                }
                all.extend(page);
            }
            Ok(all)
        };
        let (read, all) = tokio::join!(self.pages(prefix, sender), gathering);
        let all = all?;
        read.map(|()| all)
    }

    /// Applies transactions, each by itself. Ok means durable. They are those of one [`batch::Sharing`].
    async fn apply(&self, txns: Vec<Txn>) -> Result<Vec<Applied>, StoreError>;

    /// Tells the content below the prefixes and then every change of it, until the receiver or the store is gone.
    async fn follow(&self, prefixes: &[&'static str], feed: mpsc::Sender<Feed>) -> StoreError;

    /// How much [`Self::apply`] takes at a time at most.
    fn batch(&self) -> batch::Limits;
}

/// A page with more bytes of keys and values ends.
const PAGE_BYTES: usize = 8 << 20;

/// The bytes of keys and values.
fn bytes(page: &[KeyValue]) -> usize {
    page.iter().map(|kv| kv.key.len() + kv.value.len()).sum()
}

/// The end of the range of all keys that start with a prefix, as etcd counts; `None` = there is no end.
pub fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_its_successor() {
        assert_eq!(prefix_end(b"dapr/jobs/").unwrap(), "dapr/jobs0");
        assert_eq!(prefix_end(b"a\xff").unwrap(), "b");
        assert_eq!(prefix_end(b"\xff\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }
}
