//! One subscription: a member of the consumer group, with a worker for each partition it is assigned.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use krafka::consumer::{Consumer, ConsumerRebalanceListener, OffsetAndMetadata, TopicPartition};
use krafka::{CloseOptions, ConsumerRecord};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::settings::Settings;
use crate::worker::{Job, Marks, Place};

const POLL: Duration = Duration::from_millis(250);
/// What was handled is committed that often.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// Records handed out by one poll.
const BATCH: usize = 100;
/// How long a partition that is taken away waits for the record in hand.
const REVOKE_PATIENCE: Duration = Duration::from_secs(20);
/// How long a subscription may take to get its partitions before its caller goes on.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The workers of the partitions that are ours.
struct Workers {
    job: Job,
    buffer: usize,
    by_place: Mutex<BTreeMap<Place, Worker>>,
    committed: Mutex<BTreeMap<Place, i64>>,
    joined: watch::Sender<bool>,
    tasks: TaskTracker,
    consumer: Mutex<Weak<Consumer>>,
}

struct Worker {
    queue: mpsc::Sender<ConsumerRecord>,
    stop: CancellationToken,
    ended: JoinHandle<()>,
    paused: bool,
}

/// Connects a member of the group and runs it until told to stop. `ready` learns when it has its partitions.
pub(crate) async fn run(
    kafka: krafka::Kafka,
    settings: Arc<Settings>,
    topic: String,
    job: Job,
    stop: CancellationToken,
    tasks: TaskTracker,
    ready: oneshot::Sender<Result<(), String>>,
) {
    let workers = Arc::new(Workers {
        job,
        buffer: settings.consuming.buffer,
        by_place: Mutex::default(),
        committed: Mutex::default(),
        joined: watch::Sender::new(false),
        tasks,
        consumer: Mutex::default(),
    });
    let consumer = match join(&kafka, &settings, &topic, workers.clone()).await {
        Ok(consumer) => Arc::new(consumer),
        Err(error) => {
            let _ = ready.send(Err(error.to_string()));
            return;
        }
    };
    *workers.consumer.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&consumer);
    let started = Instant::now();
    let mut ready = Some(ready);
    let mut committed_at = Instant::now();
    while !stop.is_cancelled() {
        let polled = tokio::select! {
            () = stop.cancelled() => break,
            polled = consumer.poll(POLL) => polled,
        };
        match polled {
            Ok(records) => workers.hand_out(records),
            Err(error) => {
                warn!(%topic, %error, "reading from Kafka failed; trying again");
                let pause = settings
                    .consuming
                    .read_pause
                    .mul_f64(rand::random_range(0.5..=1.0));
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
        workers.balance(&consumer).await;
        if ready.is_some()
            && (workers.is_positioned(&consumer).await || started.elapsed() > JOIN_PATIENCE)
            && let Some(ready) = ready.take()
        {
            let _ = ready.send(Ok(()));
        }
        if committed_at.elapsed() >= COMMIT_EVERY {
            workers.commit(&consumer).await;
            committed_at = Instant::now();
        }
    }
    workers.stop(None).await;
    let leave = async {
        workers.commit(&consumer).await;
        let options = CloseOptions::new().timeout(CLOSE_TIMEOUT);
        if let Err(error) = consumer.close_with(options).await {
            debug!(%topic, %error, "leaving the consumer group");
        }
    };
    // The server may be away; the group finds out by itself.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, leave).await;
}

async fn join(
    kafka: &krafka::Kafka,
    settings: &Settings,
    topic: &str,
    workers: Arc<Workers>,
) -> krafka::Result<Consumer> {
    let consuming = &settings.consuming;
    let consumer = kafka
        .consumer(settings.group.clone())
        .auto_offset_reset(consuming.initial_offset)
        .enable_auto_commit(false)
        .fetch_min_bytes(consuming.fetch_min)
        .max_partition_fetch_bytes(consuming.fetch_default)
        .max_poll_records(i32::try_from(BATCH).unwrap_or(i32::MAX))
        .heartbeat_interval(consuming.heartbeat)
        .session_timeout(consuming.session_timeout)
        .partition_assignment_strategy(consuming.strategy)
        .metrics_push(false)
        .rebalance_listener(Rebalance(workers))
        .build()
        .await?;
    consumer.subscribe([topic]).await?;
    Ok(consumer)
}

impl Workers {
    fn by_place(&self) -> std::sync::MutexGuard<'_, BTreeMap<Place, Worker>> {
        self.by_place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts records into the queues of their partitions, which have room: see [`Workers::balance`].
    fn hand_out(&self, records: Vec<ConsumerRecord>) {
        let mut workers = self.by_place();
        for record in records {
            let place = (record.topic.clone(), record.partition);
            let worker = workers.entry(place).or_insert_with(|| {
                let (queue, waiting) = mpsc::channel(self.buffer + BATCH);
                let stop = CancellationToken::new();
                let ended = self.tasks.spawn(self.job.clone().run(waiting, stop.clone()));
                Worker {
                    queue,
                    stop,
                    ended,
                    paused: false,
                }
            });
            if worker.queue.try_send(record).is_err() {
                // Its worker has been stopped: what follows is not for us either.
                worker.stop.cancel();
            }
        }
    }

    /// Stops reading partitions whose queues are full, and goes on with those that have room again.
    async fn balance(&self, consumer: &Consumer) {
        let changes: Vec<(Place, bool)> = {
            let mut workers = self.by_place();
            workers
                .iter_mut()
                .filter_map(|(place, worker)| {
                    let waiting = worker.queue.max_capacity() - worker.queue.capacity();
                    let pause = if worker.paused {
                        waiting * 2 > self.buffer
                    } else {
                        waiting >= self.buffer
                    };
                    (pause != worker.paused).then(|| {
                        worker.paused = pause;
                        (place.clone(), pause)
                    })
                })
                .collect()
        };
        for ((topic, partition), pause) in changes {
            if pause {
                consumer.pause(&topic, &[partition]).await;
            } else {
                consumer.resume(&topic, &[partition]).await;
            }
        }
    }

    /// Whether the group has given us our part, and it is known where we read on.
    async fn is_positioned(&self, consumer: &Consumer) -> bool {
        if !*self.joined.borrow() {
            return false;
        }
        for (topic, partitions) in consumer.assignment().await {
            for partition in partitions {
                if consumer.fetch_position(&topic, partition).await.is_none() {
                    return false;
                }
            }
        }
        true
    }

    /// Commits what was handled since the last time.
    async fn commit(&self, consumer: &Consumer) {
        let marks: BTreeMap<Place, i64> = lock(&self.job.marks).clone();
        let mut committed = lock(&self.committed).clone();
        let fresh: HashMap<TopicPartition, OffsetAndMetadata> = marks
            .iter()
            .filter(|(place, offset)| committed.get(*place) != Some(*offset))
            .map(|((topic, partition), offset)| {
                (
                    TopicPartition::new(topic.to_string(), *partition),
                    OffsetAndMetadata::new(*offset),
                )
            })
            .collect();
        if fresh.is_empty() {
            return;
        }
        match consumer.commit_offsets(&fresh).await {
            Ok(()) => {
                committed.extend(marks);
                *lock(&self.committed) = committed;
            }
            // Tried again with the next one; until then records may come twice.
            Err(error) => warn!(%error, "offsets not committed"),
        }
    }

    /// Ends the workers of these partitions, or all, after the records they have in hand.
    async fn stop(&self, partitions: Option<&[TopicPartition]>) {
        let ended: Vec<Worker> = {
            let mut workers = self.by_place();
            let places: Vec<Place> = match partitions {
                None => workers.keys().cloned().collect(),
                Some(list) => list
                    .iter()
                    .map(|place| (Arc::from(place.topic.as_str()), place.partition))
                    .collect(),
            };
            places.iter().filter_map(|place| workers.remove(place)).collect()
        };
        for worker in &ended {
            worker.stop.cancel();
        }
        let wait = async {
            for worker in ended {
                let _ = worker.ended.await;
            }
        };
        if partitions.is_some() {
            let _ = tokio::time::timeout(REVOKE_PATIENCE, wait).await;
        } else {
            wait.await;
        }
    }

    /// Forgets partitions that are not ours any more.
    fn forget(&self, partitions: &[TopicPartition]) {
        let (mut marks, mut committed) = (lock(&self.job.marks), lock(&self.committed));
        for place in partitions {
            let place: Place = (Arc::from(place.topic.as_str()), place.partition);
            marks.remove(&place);
            committed.remove(&place);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Partitions come and go.
struct Rebalance(Arc<Workers>);

impl ConsumerRebalanceListener for Rebalance {
    async fn on_partitions_assigned(&self, partitions: &[TopicPartition]) {
        debug!(?partitions, "partitions assigned");
        let consumer = lock(&self.0.consumer).upgrade();
        if let Some(consumer) = consumer {
            // Where a group begins that has committed nothing yet is committed at once: otherwise whoever comes
            // next would begin anew with the newest record, and what was read but not handled would be lost.
            for place in partitions {
                if let Some(offset) = consumer.position(&place.topic, place.partition).await {
                    let place = (Arc::from(place.topic.as_str()), place.partition);
                    lock(&self.0.job.marks).entry(place).or_insert(offset);
                }
            }
            self.0.commit(&consumer).await;
        }
        self.0.joined.send_replace(true);
    }

    async fn on_partitions_revoked(&self, partitions: &[TopicPartition]) {
        debug!(?partitions, "partitions revoked");
        self.0.stop(Some(partitions)).await;
        let consumer = lock(&self.0.consumer).upgrade();
        if let Some(consumer) = consumer {
            self.0.commit(&consumer).await;
        }
        self.0.forget(partitions);
    }

    async fn on_partitions_lost(&self, partitions: &[TopicPartition]) {
        self.0.stop(Some(partitions)).await;
        self.0.forget(partitions);
    }
}

/// No partition has been worked on yet.
pub(crate) fn marks() -> Marks {
    Marks::default()
}
