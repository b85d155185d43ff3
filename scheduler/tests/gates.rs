//! Concurrency limits (contract `scheduler`, section 5): who waits, who goes next, what metrics say.
#![allow(clippy::unwrap_used)] // in helpers of tests too

use std::collections::BTreeMap;

use outrigger_process::Metrics as Registry;
use outrigger_proto::scheduler::v1::job_target_metadata::Type as Target;
use outrigger_proto::scheduler::v1::{Job, JobMetadata, JobTargetMetadata, TargetActorReminder};
use outrigger_schedule::Timestamp;
use outrigger_scheduler::engine::{Answer, Effect, Engine, Interest, Limit, Nanos, Share, StreamId};
use outrigger_scheduler::job;
use outrigger_scheduler::metrics::Metrics;
use outrigger_scheduler::names::{self, Kind};
use outrigger_scheduler::store::{Applied, Feed, KeyValue};
use prost::Message as _;

const NOW: Nanos = 1_800_000_000_000_000_000;

/// An engine with reminders of type `T` that are due, and what it has handed out.
struct Bench {
    engine: Engine,
    registry: Registry,
    revision: i64,
    under_way: BTreeMap<String, (StreamId, u64)>,
    order: Vec<String>,
}

impl Bench {
    /// Reminders by name, with the concurrency key after a colon, if there is one.
    fn new(share: Share, reminders: &[&str]) -> Self {
        let registry = Registry::new();
        let mut bench = Self {
            engine: Engine::new(Metrics::new(&registry)),
            registry,
            revision: 1,
            under_way: BTreeMap::new(),
            order: Vec::new(),
        };
        bench.engine.set_share(Some(share));
        bench.engine.feed(&Feed::Begin, NOW);
        for reminder in reminders {
            let key = bench.reminder(reminder);
            bench.engine.feed(&Feed::Keys(vec![key]), NOW);
        }
        bench.engine.feed(&Feed::Complete, NOW);
        bench
    }

    fn reminder(&mut self, reminder: &str) -> KeyValue {
        let (name, concurrency_key) = match reminder.split_once(':') {
            Some((name, key)) => (name, Some(key.to_owned())),
            None => (reminder, None),
        };
        let target = TargetActorReminder {
            id: "1".to_owned(),
            r#type: "T".to_owned(),
        };
        let metadata = JobMetadata {
            app_id: "app".to_owned(),
            namespace: "ns".to_owned(),
            target: Some(JobTargetMetadata {
                r#type: Some(Target::Actor(target)),
            }),
            concurrency_key,
        };
        let job = Job {
            due_time: Some("0s".to_owned()),
            ..Job::default()
        };
        let now = Timestamp::from_nanosecond(i128::from(NOW)).unwrap();
        let (stored, _) = job::store(&job, &metadata, None, now, 0).unwrap();
        self.revision += 1;
        KeyValue {
            key: names::job_key(&names::full_name(name, &metadata).unwrap()),
            value: stored.encode_to_vec().into(),
            create_revision: self.revision,
            mod_revision: self.revision,
            version: 1,
        }
    }

    fn connect(&mut self, stream: StreamId, limits: &[(&str, u32)]) {
        let limit = |(key, max): &(&str, u32)| Limit {
            namespace: "ns".to_owned(),
            key: (*key).to_owned(),
            max: *max,
        };
        let interest = Interest {
            routes: vec![(Kind::Actor, names::actor_route("ns", "T"))],
            limits: limits.iter().map(limit).collect(),
            capacity: 100,
        };
        self.engine.connect(stream, interest, NOW);
        self.settle();
    }

    /// Time passes, and effects are carried out.
    fn settle(&mut self) {
        loop {
            self.engine.tick(NOW);
            let effects = self.engine.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Deliver { stream, id, name, .. } => {
                        let name = name.rsplit("||").next().unwrap().to_owned();
                        self.order.push(name.clone());
                        self.under_way.insert(name, (stream, id));
                    }
                    Effect::Save { ticket, .. } => {
                        let applied = Applied {
                            succeeded: true,
                            revision: 1000,
                            deleted: 1,
                        };
                        self.engine.saved(ticket, applied);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    /// Those who have these answer.
    fn answer(&mut self, names: &[&str]) {
        for name in names {
            let (stream, id) = self.under_way.remove(*name).unwrap();
            self.engine.answered(stream, id, Answer::Success);
            self.settle();
        }
    }

    fn under_way(&self) -> Vec<&str> {
        self.under_way.keys().map(String::as_str).collect()
    }

    /// The value of a metric for a concurrency key.
    fn metric(&self, name: &str, key: &str) -> f64 {
        let families = self.registry.registry().gather();
        let family = families
            .iter()
            .find(|family| family.name() == format!("dapr_scheduler_concurrency_{name}"));
        let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
        let found = metrics
            .iter()
            .find(|metric| metric.get_label().iter().any(|label| label.value() == key));
        found.map_or(0.0, |metric| {
            metric.get_gauge().get_value() + metric.get_counter().get_value()
        })
    }
}

#[test]
fn a_limit_of_a_type_lets_so_many_go_at_a_time_in_the_order_in_which_they_were_due() {
    let mut bench = Bench::new(Share::ALL, &["a", "b", "c", "d", "e"]);
    bench.connect(1, &[("T", 2), ("Other", 1)]);
    assert_eq!(bench.under_way().len(), 2);
    assert_eq!(bench.metric("inflight", "T"), 2.0);
    assert_eq!(bench.metric("pending", "T"), 3.0);
    assert_eq!(bench.metric("throttled_total", "T"), 3.0);
    while let Some(name) = bench.under_way().first().map(|name| (*name).to_owned()) {
        bench.answer(&[&name]);
        assert!(bench.under_way().len() <= 2);
    }
    let mut all = bench.order.clone();
    all.sort_unstable();
    assert_eq!(all, ["a", "b", "c", "d", "e"]);
    assert_eq!(bench.metric("inflight", "T"), 0.0);
    assert_eq!(bench.metric("pending", "T"), 0.0);
}

#[test]
fn one_that_waits_for_its_own_limit_does_not_keep_others_from_a_free_place() {
    let mut bench = Bench::new(Share::ALL, &[]);
    bench.connect(1, &[("T", 2), ("T:x", 1)]);
    for reminder in ["a:x", "b:y", "c:x", "d:y", "e:y"] {
        let key = bench.reminder(reminder);
        bench.engine.feed(&Feed::Keys(vec![key]), NOW);
        bench.settle();
    }
    assert_eq!(bench.under_way(), ["a", "b"]);
    // `c` is next, but has to wait for `a`.
    bench.answer(&["b"]);
    assert_eq!(bench.under_way(), ["a", "d"]);
    bench.answer(&["d"]);
    assert_eq!(bench.under_way(), ["a", "e"]);
    bench.answer(&["a"]);
    assert_eq!(bench.under_way(), ["c", "e"]);
    bench.answer(&["c", "e"]);
    assert_eq!(bench.order.len(), 5);
}

#[test]
fn each_replica_has_its_share_of_a_limit_and_at_least_one() {
    for (count, index, limit, places) in [(2, 0, 3, 2), (2, 1, 3, 1), (3, 2, 2, 1), (3, 1, 7, 2)] {
        let mut bench = Bench::new(Share { count, index: 0 }, &["a", "b", "c", "d"]);
        // All of them are of partition 0; whose they are is decided before the limit.
        bench.connect(1, &[("T", limit)]);
        if index == 0 {
            assert_eq!(bench.under_way().len(), places, "{limit} among {count}");
        }
        let share = Share { count, index };
        assert_eq!(share.of(limit) as usize, places, "{limit} among {count}");
    }
}

#[test]
fn the_newest_stream_says_how_many_and_the_last_one_takes_the_limit_with_it() {
    let mut bench = Bench::new(Share::ALL, &["a", "b", "c", "d", "e"]);
    bench.connect(1, &[("T", 1)]);
    assert_eq!(bench.under_way().len(), 1);
    bench.connect(2, &[("T", 3)]);
    assert_eq!(bench.under_way().len(), 3, "the places that are new are used");
    // Both go: nobody states the limit any more, and what waited goes to whoever comes.
    for stream in [1, 2] {
        bench.engine.disconnect(stream);
        bench.settle();
    }
    bench.under_way.clear();
    bench.connect(3, &[]);
    assert_eq!(bench.under_way(), ["a", "b", "c", "d", "e"]);
}
