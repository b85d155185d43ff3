//! A world for engines: a store, streams, replicas and virtual time, in which everything can be late, lost or cut off.
//! It checks every write against the ticks that an unrelated implementation expects.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use outrigger_process::Metrics as Registry;
use outrigger_proto::scheduler::v1::{Job, JobMetadata, JobTargetMetadata, TargetJob, job_target_metadata};
use outrigger_schedule::Timestamp;
use outrigger_scheduler::engine::{Answer, Effect, Engine, Interest, Nanos, SaveTicket, Share, StreamId};
use outrigger_scheduler::job;
use outrigger_scheduler::metrics::Metrics;
use outrigger_scheduler::names::{self, Kind};
use outrigger_scheduler::store::{Applied, Event, Feed, KeyValue, Txn, Write};
use outrigger_scheduler::wire::stored;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

pub(crate) const SECOND: Nanos = 1_000_000_000;

/// What an unrelated implementation expects of a job.
pub(crate) struct Expected {
    /// All ticks up to the end of the world, ascending.
    pub(crate) ticks: Vec<Nanos>,
    /// Whether there are none after these.
    pub(crate) is_whole: bool,
    /// Retries after a failure and the pause before each; `None` = a failed tick is dropped.
    pub(crate) retries: Option<(u32, Nanos)>,
}

/// A job as the store has it and as its receivers see it.
struct Watched {
    expected: Expected,
    count: usize,
    attempts: u32,
    is_gone: bool,
    /// Triggers since the last write of its outcome.
    deliveries: usize,
    /// When the earliest next trigger may come.
    not_before: Nanos,
    /// Longest time from a tick to its outcome at rest, from a moment on.
    lateness: Nanos,
    /// What happened to it, for whoever has to understand a failure.
    story: Vec<String>,
}

impl Watched {
    fn tell(&mut self, now: Nanos, what: impl std::fmt::Display) {
        self.story.push(format!("{:.3} {what}", now as f64 / 1e9 % 1e5));
    }
}

enum Reply {
    Saved(SaveTicket, Applied),
    Fetched(StreamId, u64, Result<Option<KeyValue>, ()>),
    Refreshed(SaveTicket, Option<KeyValue>, Option<KeyValue>),
    Answer(StreamId, u64, Answer),
    Events(Feed),
    /// With the number of the agreement it is part of.
    Share(Option<Share>, u64),
    /// The write reaches the store now.
    Write(SaveTicket, Txn),
    /// The read reaches the store now.
    Read(StreamId, u64, Bytes),
    ReadAgain(SaveTicket, [Bytes; 2]),
    ReadAhead(SaveTicket, Bytes),
    LookedAhead(SaveTicket, Option<KeyValue>),
}

struct Replica {
    engine: Engine,
    /// In order of time; what has the same time keeps its order.
    inbox: BTreeMap<(Nanos, u64), Reply>,
    /// The feed keeps its order whatever delay each part has.
    feed_until: Nanos,
    wakes: Option<Nanos>,
    streams: Vec<StreamId>,
    paused_until: Nanos,
    /// The agreement it believes in.
    agreement: u64,
}

/// How rough the world is.
#[derive(Clone, Copy, Default)]
pub(crate) struct Weather {
    /// Longest delay of anything.
    pub(crate) delay: Nanos,
    /// Of a thousand answers so many say that the trigger failed.
    pub(crate) failures: u32,
    /// Of a thousand calls to the store so many end without an answer, though a write may have happened.
    pub(crate) lost: u32,
    /// Of a thousand triggers so many are followed by the end of their stream.
    pub(crate) cut: u32,
}

pub(crate) struct World {
    pub(crate) now: Nanos,
    pub(crate) weather: Weather,
    random: StdRng,
    revision: i64,
    keys: BTreeMap<Bytes, KeyValue>,
    replicas: Vec<Option<Replica>>,
    jobs: BTreeMap<String, Watched>,
    sequence: u64,
    agreement: u64,
    last_stream: StreamId,
    /// Triggers beyond those that led to an outcome.
    pub(crate) duplicates: usize,
    /// Triggers that were under way when something was cut off, killed or overtaken, and those of replicas that were
    /// overtaken without knowing it.
    pub(crate) exposed: usize,
    pub(crate) deliveries: usize,
    /// Jobs that had to be read when they were due.
    pub(crate) late_reads: usize,
    /// Most jobs that were being read ahead at a time.
    pub(crate) most_ahead: usize,
    /// Lateness counts from here.
    pub(crate) calm_since: Nanos,
    /// Whether every tick is held against what is expected; jobs that pass over missed ones are not.
    pub(crate) is_strict: bool,
}

pub(crate) fn metadata() -> JobMetadata {
    JobMetadata {
        app_id: "app".to_owned(),
        namespace: "ns".to_owned(),
        target: Some(JobTargetMetadata {
            r#type: Some(job_target_metadata::Type::Job(TargetJob {})),
        }),
        concurrency_key: None,
    }
}

fn engine() -> Engine {
    Engine::new(Metrics::new(&Registry::new()))
}

impl World {
    pub(crate) fn new(seed: u64, now: Nanos, replicas: usize, weather: Weather) -> Self {
        let mut world = Self {
            now,
            weather,
            random: StdRng::seed_from_u64(seed),
            revision: 1,
            keys: BTreeMap::new(),
            replicas: (0..replicas).map(|_| None).collect(),
            jobs: BTreeMap::new(),
            sequence: 0,
            agreement: 0,
            last_stream: 0,
            duplicates: 0,
            exposed: 0,
            deliveries: 0,
            late_reads: 0,
            most_ahead: 0,
            calm_since: now,
            is_strict: true,
        };
        for at in 0..replicas {
            world.start(at);
        }
        world.agree();
        world
    }

    pub(crate) fn dice(&mut self, thousandths: u32) -> bool {
        self.random.random_range(0..1000) < thousandths
    }

    pub(crate) fn pick(&mut self, count: usize) -> usize {
        self.random.random_range(0..count)
    }

    fn delay(&mut self) -> Nanos {
        self.random.random_range(0..=self.weather.delay)
    }

    /// Stores a job as a call would.
    pub(crate) fn schedule(&mut self, name: &str, request: &Job, misfire: Option<&str>, expected: Expected) {
        let now = Timestamp::from_nanosecond(i128::from(self.now)).unwrap();
        let partition = self.random.random();
        let (stored, ticks) = job::store(request, &metadata(), misfire, now, partition).unwrap();
        assert!(ticks, "{name} never ticks");
        let full = names::full_name(name, &metadata()).unwrap();
        let watched = Watched {
            not_before: expected.ticks.first().copied().unwrap_or(Nanos::MAX),
            expected,
            count: 0,
            attempts: 0,
            is_gone: false,
            deliveries: 0,
            lateness: 0,
            story: Vec::new(),
        };
        self.jobs.insert(full.clone(), watched);
        let txn = Txn {
            writes: vec![Write::Put {
                key: names::job_key(&full),
                value: stored.encode_to_vec().into(),
                lease: 0,
            }],
            ..Txn::default()
        };
        assert!(self.apply(&txn).succeeded);
    }

    /// Starts a replica that knows nothing; it reads everything first.
    pub(crate) fn start(&mut self, at: usize) {
        let content = self.keys.values().cloned();
        let (jobs, counters): (Vec<_>, Vec<_>) =
            content.partition(|key| key.key.starts_with(names::JOBS.as_bytes()));
        self.replicas[at] = Some(Replica {
            engine: engine(),
            inbox: BTreeMap::new(),
            feed_until: self.now,
            wakes: None,
            streams: Vec::new(),
            paused_until: 0,
            agreement: 0,
        });
        for feed in [
            Feed::Begin,
            Feed::Keys(jobs),
            Feed::Keys(counters),
            Feed::Complete,
        ] {
            self.feed(at, feed);
        }
        self.connect(at);
    }

    /// Kills a replica: what it did not write is lost with it.
    pub(crate) fn kill(&mut self, at: usize) {
        self.expose();
        self.replicas[at] = None;
    }

    /// A replica hears and does nothing for a while, then goes on as if nothing had happened.
    pub(crate) fn pause(&mut self, at: usize, long: Nanos) {
        self.expose();
        let until = self.now + long;
        if let Some(replica) = &mut self.replicas[at] {
            replica.paused_until = until;
        }
    }

    /// What is under way may be triggered once more.
    fn expose(&mut self) {
        self.exposed += self.jobs.values().filter(|job| job.deliveries > 0).count();
        // What is being read for its trigger is under way too.
        let is_read = |reply: &&Reply| matches!(reply, Reply::Read(..) | Reply::Fetched(..));
        let inboxes = self.replicas.iter().flatten().map(|replica| &replica.inbox);
        self.exposed += inboxes
            .map(|inbox| inbox.values().filter(is_read).count())
            .sum::<usize>();
    }

    /// The replicas that run and hear agree who triggers what; the others keep what they believe.
    pub(crate) fn agree(&mut self) {
        self.expose();
        self.agreement += 1;
        let now = self.now;
        for job in self.jobs.values_mut() {
            job.tell(now, "the replicas agree anew");
        }
        let there: Vec<usize> = (0..self.replicas.len())
            .filter(|at| matches!(&self.replicas[*at], Some(replica) if replica.paused_until <= now))
            .collect();
        for (index, at) in there.iter().enumerate() {
            let share = Share {
                count: there.len() as u64,
                index: index as u64,
            };
            self.post(*at, now, Reply::Share(None, self.agreement));
            let later = now + 200_000_000 + self.delay();
            self.post(*at, later, Reply::Share(Some(share), self.agreement));
        }
    }

    fn post(&mut self, at: usize, when: Nanos, reply: Reply) {
        self.sequence += 1;
        if let Some(replica) = &mut self.replicas[at] {
            replica.inbox.insert((when, self.sequence), reply);
        }
    }

    fn feed(&mut self, at: usize, feed: Feed) {
        let delayed = self.now + self.delay();
        let Some(replica) = &mut self.replicas[at] else {
            return;
        };
        replica.feed_until = replica.feed_until.max(delayed);
        let when = replica.feed_until;
        self.post(at, when, Reply::Events(feed));
    }

    fn connect(&mut self, at: usize) {
        self.last_stream += 1;
        let (id, now) = (self.last_stream, self.now);
        let Some(replica) = &mut self.replicas[at] else {
            return;
        };
        let interest = Interest {
            routes: vec![(Kind::Job, names::app_route("ns", "app"))],
            limits: Vec::new(),
            capacity: 8,
        };
        replica.streams.push(id);
        replica.engine.connect(id, interest, now);
    }

    /// Applies a transaction to the store and tells everybody.
    fn apply(&mut self, txn: &Txn) -> Applied {
        let holds = |check: &outrigger_scheduler::store::Check| {
            self.keys.get(&check.key).map_or(0, |found| found.mod_revision) == check.mod_revision
        };
        if !txn.checks.iter().all(holds) {
            return Applied {
                succeeded: false,
                revision: self.revision,
                deleted: 0,
            };
        }
        let revision = self.revision + 1;
        let (mut events, mut deleted) = (Vec::new(), 0);
        for write in &txn.writes {
            match write {
                Write::Put { key, value, .. } => {
                    let before = self.keys.get(key);
                    let kv = KeyValue {
                        key: key.clone(),
                        value: value.clone(),
                        create_revision: before.map_or(revision, |kv| kv.create_revision),
                        mod_revision: revision,
                        version: before.map_or(1, |kv| kv.version + 1),
                    };
                    self.keys.insert(key.clone(), kv.clone());
                    events.push(Event::Put(kv));
                }
                Write::Delete(key) => {
                    if self.keys.remove(key).is_some() {
                        deleted += 1;
                        events.push(Event::Deleted {
                            key: key.clone(),
                            revision,
                        });
                    }
                }
                Write::DeletePrefix(_) => unreachable!("no engine does that"),
            }
        }
        if !events.is_empty() {
            self.revision = revision;
            if self.is_strict {
                for event in &events {
                    self.judge(event);
                }
            }
            for at in 0..self.replicas.len() {
                self.feed(at, Feed::Events(events.clone()));
            }
        }
        Applied {
            succeeded: true,
            revision: self.revision,
            deleted,
        }
    }

    /// Holds a write of an outcome against what is expected.
    fn judge(&mut self, event: &Event) {
        let now = self.now;
        match event {
            Event::Put(kv) => {
                let Some(name) = names::name_of(&kv.key, names::COUNTERS) else {
                    return;
                };
                let counter = stored::Counter::decode(&kv.value[..]).unwrap();
                let job = self.jobs.get_mut(name).unwrap();
                job.tell(
                    now,
                    format_args!("count {} attempts {}", counter.count, counter.attempts),
                );
                assert!(!job.is_gone, "{name} has a counter after its end");
                let tick = job.expected.ticks[job.count];
                self.duplicates += job.deliveries.saturating_sub(1);
                assert!(job.deliveries > 0, "an outcome of {name} without a trigger");
                job.deliveries = 0;
                if counter.count as usize == job.count {
                    let (max, pause) = job
                        .expected
                        .retries
                        .expect("only jobs with retries count attempts");
                    assert_eq!(counter.attempts, job.attempts + 1, "{name} skips attempts");
                    assert!(counter.attempts <= max, "{name} is tried too often");
                    job.attempts = counter.attempts;
                    // Each is due a pause after the one before was due.
                    job.not_before += pause;
                    return;
                }
                assert_eq!(counter.count as usize, job.count + 1, "{name} passes over a tick");
                assert_eq!(counter.attempts, 0);
                let last = job::time(counter.last_trigger.as_ref().unwrap());
                assert_eq!(
                    last.as_nanosecond(),
                    i128::from(tick),
                    "{name}: tick {}",
                    job.count
                );
                if tick >= self.calm_since {
                    job.lateness = job.lateness.max(now - tick);
                }
                job.count += 1;
                job.attempts = 0;
                job.not_before = job.expected.ticks.get(job.count).copied().unwrap_or(Nanos::MAX);
            }
            Event::Deleted { key, .. } => {
                let Some(name) = names::name_of(key, names::JOBS) else {
                    return;
                };
                let job = self.jobs.get_mut(name).unwrap();
                assert!(
                    job.expected.is_whole && job.count + 1 == job.expected.ticks.len(),
                    "{name} ends after {} of {} ticks",
                    job.count,
                    job.expected.ticks.len()
                );
                assert!(job.deliveries > 0, "{name} ends without its last trigger");
                self.duplicates += job.deliveries - 1;
                let tick = job.expected.ticks[job.count];
                if tick >= self.calm_since {
                    job.lateness = job.lateness.max(now - tick);
                }
                job.count += 1;
                job.is_gone = true;
                job.deliveries = 0;
            }
        }
    }

    /// Lets time pass.
    pub(crate) fn run_until(&mut self, end: Nanos) {
        while let Some((when, at)) = self.next_event(end) {
            self.now = self.now.max(when);
            self.turn(at);
        }
        self.now = end;
    }

    /// When the next thing happens and to whom.
    fn next_event(&self, end: Nanos) -> Option<(Nanos, usize)> {
        let next = |replica: &Replica| {
            let inbox = replica.inbox.keys().next().map(|(when, _)| *when);
            let soonest = [inbox, replica.wakes].into_iter().flatten().min()?;
            Some(soonest.max(replica.paused_until))
        };
        let each = self.replicas.iter().enumerate();
        each.filter_map(|(at, replica)| Some((next(replica.as_ref()?)?, at)))
            .filter(|(when, _)| *when <= end)
            .min()
    }

    /// One replica takes in one thing, and its effects are carried out.
    fn turn(&mut self, at: usize) {
        let now = self.now;
        let Some(replica) = &mut self.replicas[at] else {
            return;
        };
        let is_there = replica.inbox.keys().next().is_some_and(|(when, _)| *when <= now);
        if is_there && let Some((_, reply)) = replica.inbox.pop_first() {
            match reply {
                Reply::Saved(ticket, applied) => replica.engine.saved(ticket, applied),
                Reply::Fetched(stream, id, found) => replica.engine.fetched(stream, id, found),
                Reply::Refreshed(ticket, job, counter) => {
                    replica.engine.refreshed(ticket, job.as_ref(), counter.as_ref());
                }
                Reply::Answer(stream, id, answer) => replica.engine.answered(stream, id, answer),
                Reply::Events(feed) => replica.engine.feed(&feed, now),
                Reply::Share(share, agreement) => {
                    replica.agreement = agreement;
                    replica.engine.set_share(share);
                }
                Reply::Write(ticket, txn) => self.write(at, ticket, txn),
                Reply::Read(stream, id, key) => {
                    let lost = self.dice(self.weather.lost);
                    let found = if lost {
                        Err(())
                    } else {
                        Ok(self.keys.get(&key).cloned())
                    };
                    let when = now + self.delay();
                    self.post(at, when, Reply::Fetched(stream, id, found));
                }
                Reply::ReadAhead(ticket, key) => {
                    let lost = self.dice(self.weather.lost);
                    let found = self.keys.get(&key).filter(|_| !lost).cloned();
                    let when = now + self.delay();
                    self.post(at, when, Reply::LookedAhead(ticket, found));
                }
                Reply::LookedAhead(ticket, found) => replica.engine.looked_ahead(ticket, found.as_ref()),
                Reply::ReadAgain(ticket, keys) => {
                    let [job, counter] = keys.map(|key| self.keys.get(&key).cloned());
                    let when = now + self.delay();
                    self.post(at, when, Reply::Refreshed(ticket, job, counter));
                }
            }
        }
        self.advance(at);
    }

    fn write(&mut self, at: usize, ticket: SaveTicket, txn: Txn) {
        if self.dice(self.weather.lost / 2) {
            // It did not get there and is tried again.
            let when = self.now + SECOND / 2;
            self.post(at, when, Reply::Write(ticket, txn));
            return;
        }
        let applied = self.apply(&txn);
        let when = self.now + self.delay();
        if self.dice(self.weather.lost / 2) {
            // It happened, but the answer was lost.
            self.post(at, when + SECOND / 2, Reply::Write(ticket, txn));
        } else {
            self.post(at, when, Reply::Saved(ticket, applied));
        }
    }

    /// Lets an engine go on until it wants nothing more.
    fn advance(&mut self, at: usize) {
        loop {
            let now = self.now;
            let Some(replica) = &mut self.replicas[at] else {
                return;
            };
            replica.wakes = replica.engine.tick(now);
            let effects = replica.engine.take_effects();
            if effects.is_empty() {
                return;
            }
            let mut cut = VecDeque::new();
            for effect in effects {
                let when = now + self.delay();
                match effect {
                    Effect::Deliver {
                        stream,
                        id,
                        name,
                        value,
                    } => {
                        // One that was away still believes that others wait for it.
                        let believes = self.replicas[at].as_ref().map(|replica| replica.agreement);
                        self.exposed += usize::from(believes != Some(self.agreement));
                        self.delivered(at, &name, &value);
                        let answer = if self.dice(self.weather.failures) {
                            Answer::Failed
                        } else {
                            Answer::Success
                        };
                        self.post(at, when, Reply::Answer(stream, id, answer));
                        if self.dice(self.weather.cut) {
                            cut.push_back(stream);
                        }
                    }
                    Effect::Fetch { stream, id, key } => {
                        self.late_reads += 1;
                        self.post(at, when, Reply::Read(stream, id, key));
                    }
                    Effect::LookAhead { ticket, key } => self.post(at, when, Reply::ReadAhead(ticket, key)),
                    Effect::Save { ticket, txn } => self.post(at, when, Reply::Write(ticket, txn)),
                    Effect::Refresh { ticket, keys } => self.post(at, when, Reply::ReadAgain(ticket, keys)),
                }
            }
            let is_ahead = |reply: &&Reply| matches!(reply, Reply::ReadAhead(..) | Reply::LookedAhead(..));
            if let Some(replica) = &self.replicas[at] {
                let ahead = replica.inbox.values().filter(is_ahead).count();
                self.most_ahead = self.most_ahead.max(ahead);
            }
            for stream in cut {
                self.cut(at, stream);
            }
        }
    }

    /// Ends a stream; another one comes at once.
    fn cut(&mut self, at: usize, stream: StreamId) {
        let Some(replica) = &mut self.replicas[at] else {
            return;
        };
        let before = replica.streams.len();
        replica.streams.retain(|other| *other != stream);
        if replica.streams.len() < before {
            replica.engine.disconnect(stream);
            self.expose();
            self.connect(at);
        }
    }

    fn delivered(&mut self, at: usize, name: &str, value: &Bytes) {
        let now = self.now;
        let stored = stored::Job::decode(value.clone()).unwrap();
        assert!(stored.job.is_some());
        self.deliveries += 1;
        if !self.is_strict {
            return;
        }
        let job = self.jobs.get_mut(name).unwrap();
        job.tell(now, format_args!("triggered by {at}"));
        if job.is_gone {
            // A replica that was away does not know yet.
            self.duplicates += 1;
            return;
        }
        let previous = job.count.checked_sub(1).map(|count| job.expected.ticks[count]);
        // One that was away may repeat the tick before.
        assert!(
            now >= job.not_before || previous.is_some(),
            "{name} is triggered at {now}, before {}",
            job.not_before
        );
        if now < job.not_before {
            self.duplicates += 1;
        } else {
            job.deliveries += 1;
        }
    }

    /// Asserts that nothing came twice but what was under way when something broke.
    pub(crate) fn explained(&self) {
        if self.duplicates > self.exposed {
            for (name, job) in &self.jobs {
                println!("{name}: {:#?}", job.story);
            }
        }
        assert!(
            self.duplicates <= self.exposed,
            "{} came twice, {} could",
            self.duplicates,
            self.exposed
        );
    }

    /// Asserts that every tick up to a time is done, and says how late the latest of the calm was.
    pub(crate) fn finished(&self, until: Nanos) -> Nanos {
        for (name, job) in &self.jobs {
            let due = job.expected.ticks.iter().filter(|tick| **tick <= until).count();
            assert!(
                job.count >= due,
                "{name} has done {} of {due} ticks (attempts {}, triggers {})",
                job.count,
                job.attempts,
                job.deliveries
            );
            let is_over = job.expected.is_whole && due == job.expected.ticks.len();
            assert!(job.is_gone || !is_over, "{name} is over and still there");
        }
        let latest = self.jobs.iter().max_by_key(|(_, job)| job.lateness);
        latest.map_or(0, |(name, job)| {
            if job.lateness > 5 * SECOND {
                println!("{name}: {:#?}", job.story);
            }
            job.lateness
        })
    }
}
