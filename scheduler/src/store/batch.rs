//! Gathers the transactions of many callers, so that they share a round trip and a sync to disk: one caller alone
//! waits for nobody, many are not bound by the disk.

use std::sync::Arc;

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

/// Takes what waits, up to a batch. A key is written once in a batch (etcd refuses it otherwise), and what removes by
/// prefix goes alone, since it may touch any key.
fn gather(
    first: Waiting,
    waiting: &mut mpsc::Receiver<Waiting>,
    limit: usize,
) -> (Vec<Txn>, Answers, Option<Waiting>) {
    let mut keys = std::collections::HashSet::new();
    let mut alone = !remember(&first.0, &mut keys);
    let (mut txns, mut answers) = (vec![first.0], vec![first.1]);
    while !alone && txns.len() < limit {
        let Ok(next) = waiting.try_recv() else { break };
        alone = !remember(&next.0, &mut keys);
        if alone {
            return (txns, answers, Some(next));
        }
        txns.push(next.0);
        answers.push(next.1);
    }
    (txns, answers, None)
}

/// Notes the keys of a transaction; whether it can share a batch with those noted before.
fn remember(txn: &Txn, keys: &mut std::collections::HashSet<bytes::Bytes>) -> bool {
    txn.writes.iter().all(|write| match write {
        Write::Put { key, .. } | Write::Delete(key) => keys.insert(key.clone()),
        Write::DeletePrefix(_) => false,
    })
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
