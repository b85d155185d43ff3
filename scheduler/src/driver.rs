//! The task around the engine: brings it time, the store's news and the streams' answers, and carries out its effects.
//!
//! It never waits for the store: reads and writes are under way while it goes on, in batches. A write that fails is
//! tried again until it is known what became of it; meanwhile its job is not triggered again.

mod batches;
mod pulse;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrigger_proto::scheduler::v1::WatchJobsResponse;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::engine::{Answer, Effect, Engine, Interest, Nanos, Share, StreamId};
use crate::metrics::{Metrics, SidecarError};
use crate::names;
use crate::store::{Feed, Store};
use crate::wire::stored;
use batches::{Batches, Done};
pub use pulse::Pulse;

/// What streams say that may wait to be heard.
const COMMANDS: usize = 4096;
/// Heard at a time.
const AT_A_TIME: usize = 1024;
/// The longest sleep: the wall clock may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);

/// What the streams say.
#[derive(Debug)]
pub enum Command {
    /// A stream is there.
    Connect {
        /// Its number, never used before.
        id: StreamId,
        /// What it takes.
        interest: Interest,
        /// Where its triggers go; has room for all it may have unanswered.
        sender: mpsc::Sender<WatchJobsResponse>,
    },
    /// A stream is gone.
    Disconnect(StreamId),
    /// A stream answers.
    Answer {
        /// Which stream.
        stream: StreamId,
        /// Which trigger.
        id: u64,
        /// What.
        answer: Answer,
    },
}

/// The present time.
pub fn now() -> Nanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Nanos::try_from(since.as_nanos()).unwrap_or(Nanos::MAX)
}

/// Handles to a driver that runs.
#[derive(Debug, Clone)]
pub struct Handle {
    /// Where streams speak.
    pub commands: mpsc::Sender<Command>,
    /// Whether it is alive and the store takes its writes.
    pub pulse: Arc<Pulse>,
}

/// See the module.
#[derive(Debug)]
pub struct Driver {
    engine: Engine,
    metrics: Metrics,
    commands: mpsc::Receiver<Command>,
    feed: mpsc::Receiver<Feed>,
    share: watch::Receiver<Option<Share>>,
    streams: HashMap<StreamId, mpsc::Sender<WatchJobsResponse>>,
    batches: Batches,
    pulse: Arc<Pulse>,
}

impl Driver {
    /// Gets everything it needs; runs with [`Self::run`].
    pub fn new(
        store: Arc<dyn Store>,
        feed: mpsc::Receiver<Feed>,
        share: watch::Receiver<Option<Share>>,
        metrics: Metrics,
    ) -> (Self, Handle) {
        let (sender, commands) = mpsc::channel(COMMANDS);
        let pulse = Arc::new(Pulse::default());
        let driver = Self {
            engine: Engine::new(metrics.clone()),
            metrics,
            commands,
            feed,
            share,
            streams: HashMap::new(),
            batches: Batches::new(store, pulse.clone()),
            pulse: pulse.clone(),
        };
        let handle = Handle {
            commands: sender,
            pulse,
        };
        (driver, handle)
    }

    /// Drives the engine until it is to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut heard = Vec::with_capacity(AT_A_TIME);
        self.engine.set_share(*self.share.borrow_and_update());
        loop {
            let next = self.engine.tick(now());
            self.carry_out();
            self.pulse.beat(self.engine.jobs());
            let sleep = next.map_or(LONGEST_SLEEP, |next| {
                let ahead = u64::try_from(next.saturating_sub(now())).unwrap_or(0);
                Duration::from_nanos(ahead).min(LONGEST_SLEEP)
            });
            tokio::select! {
                () = stop.cancelled() => return,
                count = self.commands.recv_many(&mut heard, AT_A_TIME) => {
                    if count == 0 {
                        return;
                    }
                    for command in heard.drain(..) {
                        self.hear(command);
                    }
                }
                Some(feed) = self.feed.recv() => {
                    self.engine.feed(&feed, now());
                    self.pulse.loaded(&feed);
                }
                Some(done) = self.batches.next() => self.done(done),
                Ok(()) = self.share.changed() => {
                    let share = *self.share.borrow_and_update();
                    self.engine.set_share(share);
                }
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    fn hear(&mut self, command: Command) {
        match command {
            Command::Connect { id, interest, sender } => {
                self.streams.insert(id, sender);
                self.metrics.connected(1);
                self.engine.connect(id, interest, now());
            }
            Command::Disconnect(id) => self.disconnect(id),
            Command::Answer { stream, id, answer } => self.engine.answered(stream, id, answer),
        }
    }

    fn disconnect(&mut self, id: StreamId) {
        if self.streams.remove(&id).is_some() {
            self.metrics.connected(-1);
            self.engine.disconnect(id);
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Saved(saved) => {
                for (ticket, applied) in saved {
                    self.engine.saved(ticket, applied);
                }
            }
            Done::Fetched(fetched) => {
                for (stream, id, found) in fetched {
                    self.engine.fetched(stream, id, found);
                }
            }
            Done::LookedAhead(found) => {
                for (ticket, found) in found {
                    self.engine.looked_ahead(ticket, found.as_ref());
                }
            }
            Done::Refreshed(ticket, job, counter) => {
                self.engine.refreshed(ticket, job.as_ref(), counter.as_ref());
            }
            Done::Again => {}
        }
    }

    /// Carries out effects until there are none: a stream that is gone makes new ones.
    fn carry_out(&mut self) {
        loop {
            let effects = self.engine.take_effects();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                match effect {
                    Effect::Deliver {
                        stream,
                        id,
                        name,
                        value,
                    } => self.deliver(stream, id, &name, &value),
                    other => self.batches.add(other),
                }
            }
        }
        self.batches.start();
    }

    fn deliver(&mut self, stream: StreamId, id: u64, name: &str, value: &bytes::Bytes) {
        let Some(sender) = self.streams.get(&stream) else {
            return;
        };
        // The engine read it before; a value that changed since would be another revision.
        let Ok(job) = stored::Job::decode(value.clone()) else {
            return;
        };
        let Some(spec) = job.job else { return };
        let metadata = names::unpack(spec.metadata.as_ref());
        let trigger = WatchJobsResponse {
            name: metadata
                .as_ref()
                .map_or(name, |metadata| names::short_name(name, metadata))
                .to_owned(),
            id,
            data: spec.payload,
            metadata,
        };
        if sender.try_send(trigger).is_err() {
            self.metrics.sidecar_error(SidecarError::Send);
            self.disconnect(stream);
        }
    }
}

/// Brings a driver the store's content, again whenever that breaks off.
pub async fn follow(
    store: Arc<dyn Store>,
    feed: mpsc::Sender<Feed>,
    pulse: Arc<Pulse>,
    stop: CancellationToken,
) {
    loop {
        let following = store.follow(&[names::JOBS, names::COUNTERS], feed.clone());
        let error = tokio::select! {
            error = following => error,
            () = stop.cancelled() => return,
        };
        if feed.is_closed() {
            return;
        }
        pulse.lost();
        tracing::warn!("the job store does not tell its content and is asked again: {error}");
        let pause = Duration::from_millis(rand::random_range(300..1000));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}
