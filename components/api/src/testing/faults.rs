//! What must hold while a server is killed, paused or restarted under load: nothing that was acknowledged is lost,
//! and work goes on by itself once the server is back.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Recorder;
use super::pubsub::{text, topic};
use super::state::{read, write};
use crate::pubsub::PubSub;
use crate::state::StateStore;

const WORKERS: usize = 4;
/// How long work may take to go on after the fault.
const PATIENCE: Duration = Duration::from_secs(90);

/// What the load saw.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Calls that were acknowledged.
    pub acknowledged: usize,
    /// Calls that failed.
    pub failed: usize,
}

/// Acknowledged names and the number of failures.
#[derive(Default)]
struct Tally {
    acknowledged: Mutex<Vec<String>>,
    failed: std::sync::atomic::AtomicUsize,
}

impl Tally {
    fn note(&self, name: String, ok: bool) {
        if ok {
            self.names().push(name);
        } else {
            self.failed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    fn names(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `more` further calls were acknowledged.
    async fn more(&self, what: &str, more: usize) {
        let goal = self.names().len() + more;
        let reached = tokio::time::timeout(PATIENCE, async {
            while self.names().len() < goal {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(
            reached.await.is_ok(),
            "{what}: no call succeeded within {PATIENCE:?}"
        );
    }

    fn outcome(&self) -> Outcome {
        Outcome {
            acknowledged: self.names().len(),
            failed: self.failed.load(std::sync::atomic::Ordering::Relaxed),
        }
    }
}

/// Writes without pause while `fault` happens; afterwards every acknowledged write must be readable.
///
/// # Panics
/// If an acknowledged write is lost or writing does not go on.
pub async fn no_acknowledged_write_is_lost(
    store: Arc<dyn StateStore>,
    prefix: &str,
    fault: impl Future<Output = ()>,
) -> Outcome {
    let tally = Arc::new(Tally::default());
    let stop = CancellationToken::new();
    let mut writers = JoinSet::new();
    for worker in 0..WORKERS {
        let (store, tally, stop, prefix) = (store.clone(), tally.clone(), stop.clone(), prefix.to_owned());
        writers.spawn(async move {
            for number in 0.. {
                if stop.is_cancelled() {
                    return;
                }
                let key = format!("{prefix}{worker}-{number}");
                let ok = store.set(write(&key, &key)).await.is_ok();
                tally.note(key, ok);
                pause(ok).await;
            }
        });
    }
    tally.more("before the fault", 50).await;
    fault.await;
    tally.more("after the fault", 50).await;
    stop.cancel();
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    let names = tally.names().clone();
    for key in &names {
        let data = read(&*store, key).await.data;
        assert_eq!(
            data.as_deref(),
            Some(key.as_bytes()),
            "{key} was acknowledged and is lost"
        );
    }
    tally.outcome()
}

/// Publishes and consumes without pause while `fault` happens; afterwards every acknowledged event must have come.
/// It may come more than once.
///
/// # Panics
/// If an acknowledged event is lost or publishing does not go on.
pub async fn no_acknowledged_event_is_lost(
    broker: Arc<dyn PubSub>,
    name: &str,
    fault: impl Future<Output = ()>,
) -> Outcome {
    let seen = Recorder::new();
    let subscription = broker.subscribe(topic(name), seen.clone()).await.unwrap();
    let tally = Arc::new(Tally::default());
    let stop = CancellationToken::new();
    let mut publishers = JoinSet::new();
    for worker in 0..WORKERS {
        let (broker, tally, stop, name) = (broker.clone(), tally.clone(), stop.clone(), name.to_owned());
        publishers.spawn(async move {
            for number in 0.. {
                if stop.is_cancelled() {
                    return;
                }
                let event = format!("{worker}-{number}");
                let ok = broker.publish(text(&name, &event)).await.is_ok();
                tally.note(event, ok);
                pause(ok).await;
            }
        });
    }
    tally.more("before the fault", 50).await;
    fault.await;
    tally.more("after the fault", 50).await;
    stop.cancel();
    while let Some(ended) = publishers.join_next().await {
        ended.unwrap();
    }
    let names: BTreeSet<String> = tally.names().iter().cloned().collect();
    let arrived = tokio::time::timeout(PATIENCE, async {
        loop {
            let came: BTreeSet<String> = seen.texts().into_iter().collect();
            if names.is_subset(&came) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    if arrived.await.is_err() {
        let came: BTreeSet<String> = seen.texts().into_iter().collect();
        let lost: Vec<_> = names.difference(&came).take(10).collect();
        panic!(
            "{} of {} acknowledged events are lost: {lost:?}",
            names.difference(&came).count(),
            names.len()
        );
    }
    super::soon("the end of the subscription", subscription.close()).await;
    tally.outcome()
}

/// A moment after each call: the load is steady, not a flood, and failures do not spin.
async fn pause(ok: bool) {
    tokio::time::sleep(Duration::from_millis(if ok { 2 } else { 50 })).await;
}
