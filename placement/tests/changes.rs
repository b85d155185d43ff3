//! Sidecars of ours are told which types changed, others whole tables; both come to know the same.
#![allow(clippy::unwrap_used, reason = "test helpers are outside of #[test] functions")]

mod common;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use outrigger_placement::authorise::Peer;
use outrigger_placement::hub::Hub;
use outrigger_placement::namespace::{Effect, Ending};
use outrigger_placement::{Moment, Settings, Speaks, StreamId};
use outrigger_proto::placement::v1::{Host, PlacementOrder};
use prost::Message as _;

use common::message;

/// Hosts by type.
type Known = BTreeMap<String, Vec<String>>;

#[derive(Default)]
struct Sidecar {
    id: String,
    mute: bool,
    known: Known,
    /// The tables and changes it was told, by operation, with the types in them.
    told: Vec<(String, Vec<String>)>,
}

struct Bench {
    hub: Hub,
    now: Moment,
    sidecars: BTreeMap<StreamId, Sidecar>,
}

fn known(of: &[(&str, &[&str])]) -> Known {
    let names = |hosts: &[&str]| hosts.iter().map(|id| format!("{id}:50002")).collect();
    of.iter()
        .map(|(name, hosts)| ((*name).to_owned(), names(hosts)))
        .collect()
}

impl Bench {
    fn new() -> Self {
        let mut hub = Hub::new("p0", Settings::default());
        hub.lead(Moment::ZERO, 1, Moment::MAX);
        Self {
            hub,
            now: Duration::from_secs(10),
            sidecars: BTreeMap::new(),
        }
    }

    fn join(&mut self, id: &str, types: &[&str], speaks: Speaks) -> StreamId {
        let stream = self.hub.open(self.now, Peer::Unknown, speaks).unwrap().id;
        let sidecar = Sidecar {
            id: id.into(),
            ..Sidecar::default()
        };
        self.sidecars.insert(stream, sidecar);
        self.report(stream, types);
        stream
    }

    fn report(&mut self, stream: StreamId, types: &[&str]) {
        let id = self.sidecars[&stream].id.clone();
        let host = Host {
            name: format!("{id}:50002"),
            entities: types.iter().map(|&name| name.to_owned()).collect(),
            ..message(&id, 1, None)
        };
        let mut effects = Vec::new();
        self.hub.message(self.now, stream, host, &mut effects);
        self.carry_out(effects);
    }

    fn leave(&mut self, stream: StreamId) {
        let mut effects = Vec::new();
        self.sidecars.remove(&stream);
        self.hub.closed(self.now, stream, Ending::InOrder, &mut effects);
        self.carry_out(effects);
    }

    fn wait(&mut self, long: Duration) {
        self.now += long;
        let mut effects = Vec::new();
        self.hub.tick(self.now, &mut effects);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            let Effect::Send(stream, order) = effect else {
                panic!("{effect:?}")
            };
            let order = PlacementOrder::decode(&order.frame()[5..]).unwrap();
            let Some(sidecar) = self.sidecars.get_mut(&stream) else {
                continue;
            };
            let operation = match &*order.operation {
                "lock" => 2,
                "unlock" => 4,
                told => {
                    sidecar.take(told, order.tables.unwrap().entries);
                    3
                }
            };
            if !sidecar.mute {
                let ack = message(&sidecar.id, operation, Some(order.version));
                let mut more = Vec::new();
                self.hub.message(self.now, stream, ack, &mut more);
                effects.extend(more);
            }
        }
    }

    /// What everybody who is there knows, and what the one was told last.
    fn expect(&self, everybody: &[(&str, &[&str])], told: &[(StreamId, &str, &[&str])]) {
        let everybody = known(everybody);
        for sidecar in self.sidecars.values().filter(|sidecar| !sidecar.mute) {
            assert_eq!(sidecar.known, everybody, "{}", sidecar.id);
        }
        for (stream, operation, types) in told {
            let sidecar = &self.sidecars[stream];
            let (last, names) = sidecar.told.last().unwrap();
            assert_eq!(
                (&**last, names.as_slice()),
                (
                    *operation,
                    &types.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()[..]
                ),
                "{}",
                sidecar.id
            );
        }
    }
}

impl Sidecar {
    fn take(
        &mut self,
        operation: &str,
        entries: std::collections::HashMap<String, outrigger_proto::placement::v1::PlacementTable>,
    ) {
        let mut types: Vec<String> = entries.keys().cloned().collect();
        types.sort_unstable();
        self.told.push((operation.to_owned(), types));
        match operation {
            "update" => self.known.clear(),
            other => assert_eq!(other, "change"),
        }
        for (name, table) in entries {
            let mut hosts: Vec<String> = table.load_map.into_keys().collect();
            hosts.sort_unstable();
            if hosts.is_empty() {
                assert_eq!(operation, "change");
                self.known.remove(&name);
            } else {
                self.known.insert(name, hosts);
            }
        }
    }
}

#[test]
fn who_takes_changes_is_told_the_types_that_changed_and_knows_the_same_as_others() {
    let mut bench = Bench::new();
    let a = bench.join("a", &["cat", "dog"], Speaks::OURS);
    let go = bench.join("go", &["dog"], Speaks::DAPR);
    let idle = bench.join("idle", &[], Speaks::OURS);
    let whole: &[&str] = &["cat", "dog"];
    bench.expect(
        &[("cat", &["a"]), ("dog", &["a", "go"])],
        &[
            (a, "change", &["dog"]),
            (go, "update", whole),
            (idle, "update", whole),
        ],
    );
    let d = bench.join("d", &["cat"], Speaks::OURS);
    bench.expect(
        &[("cat", &["a", "d"]), ("dog", &["a", "go"])],
        &[
            (a, "change", &["cat"]),
            (go, "update", whole),
            (idle, "change", &["cat"]),
            (d, "update", whole),
        ],
    );
    bench.leave(d);
    bench.expect(
        &[("cat", &["a"]), ("dog", &["a", "go"])],
        &[(a, "change", &["cat"])],
    );
    bench.report(a, &["cat", "fox"]);
    bench.expect(
        &[("cat", &["a"]), ("dog", &["go"]), ("fox", &["a"])],
        &[
            (a, "change", &["cat", "dog", "fox"]),
            (idle, "change", &["cat", "dog", "fox"]),
        ],
    );
    // A type that nobody hosts any more is named, without hosts.
    bench.leave(go);
    bench.expect(&[("cat", &["a"]), ("fox", &["a"])], &[(a, "change", &["dog"])]);
}

#[test]
fn who_did_not_acknowledge_the_last_table_is_told_the_whole_one() {
    let mut bench = Bench::new();
    let idle = bench.join("idle", &[], Speaks::OURS);
    let a = bench.join("a", &["cat"], Speaks::OURS);
    bench.sidecars.get_mut(&idle).unwrap().mute = true;
    let b = bench.join("b", &["dog"], Speaks::OURS);
    // Nobody waits for it for long; it is not known what it has taken in.
    for _ in 0..4 {
        bench.wait(Duration::from_millis(300));
    }
    bench.expect(&[("cat", &["a"]), ("dog", &["b"])], &[(a, "change", &["dog"])]);
    bench.sidecars.get_mut(&idle).unwrap().mute = false;
    bench.leave(b);
    bench.expect(
        &[("cat", &["a"])],
        &[(a, "change", &["dog"]), (idle, "update", &["cat"])],
    );
    // Then it has.
    bench.join("c", &["dog"], Speaks::OURS);
    bench.expect(&[("cat", &["a"]), ("dog", &["c"])], &[(idle, "change", &["dog"])]);
}
