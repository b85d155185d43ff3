//! Gathers the transactions of many callers, so that they share a round trip and a sync to disk: one caller alone
//! waits for nobody, many are not bound by the disk.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use super::{Applied, Store, StoreError, Txn, Write};

/// Transactions that may wait; more callers than that wait to be let in.
const QUEUE: usize = 8192;
/// Batches under way at a time.
const IN_FLIGHT: usize = 4;

/// What one caller waits for.
type Waiting = (Txn, oneshot::Sender<Result<Applied, StoreError>>);

/// A handle for many callers.
#[derive(Debug, Clone)]
pub struct Batcher {
    queue: mpsc::Sender<Waiting>,
}

impl Batcher {
    /// A handle, and the task that gathers: it ends when all handles are gone. `tracker` has the writes under way.
    pub fn new(
        store: Arc<dyn Store>,
        tracker: TaskTracker,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (queue, mut waiting) = mpsc::channel::<Waiting>(QUEUE);
        let gathering = async move {
            let slots = Arc::new(tokio::sync::Semaphore::new(IN_FLIGHT));
            let mut held_over: Option<Waiting> = None;
            loop {
                let Ok(slot) = slots.clone().acquire_owned().await else {
                    return;
                };
                let first = match held_over.take() {
                    Some(first) => first,
                    None => match waiting.recv().await {
                        Some(first) => first,
                        None => return,
                    },
                };
                let (txns, answers, left) = gather(first, &mut waiting, store.batch());
                held_over = left;
                let store = store.clone();
                tracker.spawn(async move {
                    let result = store.apply(txns).await;
                    drop(slot);
                    answer(result, answers);
                });
            }
        };
        (Self { queue }, gathering)
    }

    /// Applies a transaction. Ok means durable.
    ///
    /// # Errors
    /// Why the store failed; then it is not known whether the transaction happened.
    pub async fn apply(&self, txn: Txn) -> Result<Applied, StoreError> {
        let stopping = || StoreError::Unavailable("the scheduler is stopping".to_owned());
        let (answer, result) = oneshot::channel();
        self.queue.send((txn, answer)).await.map_err(|_| stopping())?;
        result.await.unwrap_or_else(|_| Err(stopping()))
    }
}

type Answers = Vec<oneshot::Sender<Result<Applied, StoreError>>>;

/// Takes what waits, up to a batch.
fn gather(
    first: Waiting,
    waiting: &mut mpsc::Receiver<Waiting>,
    limits: Limits,
) -> (Vec<Txn>, Answers, Option<Waiting>) {
    let mut sharing = Sharing::new(limits);
    let (mut txns, mut answers) = (Vec::new(), Vec::new());
    let mut next = Some(first);
    while let Some((txn, answer)) = next.take() {
        if !sharing.admits(&txn) {
            return (txns, answers, Some((txn, answer)));
        }
        txns.push(txn);
        answers.push(answer);
        next = waiting.try_recv().ok();
    }
    (txns, answers, None)
}

/// How much a store takes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Transactions.
    pub txns: usize,
    /// Bytes of keys and values, unless one transaction alone has more.
    pub bytes: usize,
}

/// Decides which transactions can go together: a key is written once in a batch (etcd refuses it otherwise), what
/// removes by prefix goes alone, since it may touch any key, and what a full store refuses does not hold up the rest.
#[derive(Debug)]
pub struct Sharing {
    limits: Limits,
    keys: HashSet<Bytes>,
    txns: usize,
    bytes: usize,
    grows: bool,
    is_closed: bool,
}

impl Sharing {
    /// Nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            keys: HashSet::new(),
            txns: 0,
            bytes: 0,
            grows: false,
            is_closed: false,
        }
    }

    /// Whether a transaction can go with those that were admitted before; the first always can. After a refusal
    /// nothing more is to be asked.
    pub fn admits(&mut self, txn: &Txn) -> bool {
        let size = |write: &Write| match write {
            Write::Put { key, value, .. } => key.len() + value.len(),
            Write::Delete(key) | Write::DeletePrefix(key) => key.len(),
        };
        let bytes = self.bytes + txn.writes.iter().map(size).sum::<usize>();
        let is_alone = txn
            .writes
            .iter()
            .any(|write| matches!(write, Write::DeletePrefix(_)));
        if self.txns > 0
            && (self.is_closed
                || is_alone
                || self.txns >= self.limits.txns
                || bytes > self.limits.bytes
                || self.grows != txn.grows)
        {
            return false;
        }
        let is_new = txn.writes.iter().all(|write| match write {
            Write::Put { key, .. } | Write::Delete(key) => self.keys.insert(key.clone()),
            Write::DeletePrefix(_) => true,
        });
        if self.txns > 0 && !is_new {
            return false;
        }
        (self.bytes, self.grows, self.is_closed) = (bytes, txn.grows, is_alone);
        self.txns += 1;
        true
    }
}

fn answer(result: Result<Vec<Applied>, StoreError>, answers: Answers) {
    match result {
        Ok(applied) => {
            for (answer, applied) in answers.into_iter().zip(applied) {
                let _ = answer.send(Ok(applied)); // the caller may have given up
            }
        }
        Err(error) => {
            for answer in answers {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }
}
