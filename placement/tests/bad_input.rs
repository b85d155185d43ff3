//! Sidecars that lie, repeat themselves, say too much or nothing: a clear status, and nobody else waits for them.
//! On virtual time, without sockets; `wire.rs` has what can go wrong on the wire.
#![allow(clippy::unwrap_used, reason = "test helpers are outside of #[test] functions")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use outrigger_placement::authorise::{MAX_TYPES, Peer};
use outrigger_placement::hub::Hub;
use outrigger_placement::namespace::{Effect, Ending};
use outrigger_placement::status::{Code, Status};
use outrigger_placement::wire::Order;
use outrigger_placement::{Moment, Settings, Speaks, StreamId};
use outrigger_proto::placement::v1::{Host, PlacementOrder};
use prost::Message as _;

use common::message;

const REPORT: i32 = 1;
const LEASE: i32 = 5;

/// A hub that leads, and sidecars that acknowledge everything unless told otherwise.
struct Bench {
    hub: Hub,
    now: Moment,
    /// By stream: the last table it was told to use, and the status that it ended with.
    sidecars: BTreeMap<StreamId, Sidecar>,
}

#[derive(Default)]
struct Sidecar {
    id: String,
    mute: bool,
    pending: Option<(u64, Vec<String>)>,
    /// The same as of the last table or change.
    newest: Vec<String>,
    /// Addresses of the hosts of `cat`, as of the last `unlock`.
    hosts: Vec<String>,
    ended: Option<Status>,
}

fn report(id: &str, types: &[&str]) -> Host {
    Host {
        name: format!("{id}:50002"),
        entities: types.iter().map(|&name| name.to_owned()).collect(),
        ..message(id, REPORT, None)
    }
}

impl Bench {
    fn new() -> Self {
        let mut hub = Hub::new("p0", Settings::default());
        hub.lead(Moment::ZERO, 1, Moment::MAX);
        Self {
            hub,
            // Leases of a leader before this one are over.
            now: Duration::from_secs(10),
            sidecars: BTreeMap::new(),
        }
    }

    fn open(&mut self, peer: Peer, id: &str) -> StreamId {
        let stream = self.hub.open(self.now, peer, Speaks::OURS).unwrap().id;
        let sidecar = Sidecar {
            id: id.into(),
            ..Sidecar::default()
        };
        self.sidecars.insert(stream, sidecar);
        stream
    }

    /// A sidecar with one type, connected and in the table.
    fn join(&mut self, id: &str) -> StreamId {
        let stream = self.open(Peer::Unknown, id);
        self.say(stream, report(id, &["cat"]));
        self.say(stream, message(id, LEASE, Some(1)));
        stream
    }

    fn say(&mut self, stream: StreamId, host: Host) {
        let mut effects = Vec::new();
        self.hub.message(self.now, stream, host, &mut effects);
        self.take(effects);
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Close(stream, status) => self.sidecars.get_mut(&stream).unwrap().ended = Some(status),
                Effect::Send(stream, order) => self.obey(stream, &order),
            }
        }
    }

    fn obey(&mut self, stream: StreamId, order: &Order) {
        let decoded = PlacementOrder::decode(&order.frame()[5..]).unwrap();
        let sidecar = self.sidecars.get_mut(&stream).unwrap();
        let operation = match decoded.operation.as_str() {
            "lock" => 2,
            order @ ("update" | "change") => {
                let mut tables = decoded.tables.unwrap();
                let cats = tables.entries.remove("cat");
                let mut hosts = match cats {
                    Some(cats) => cats.load_map.into_keys().collect(),
                    None if order == "change" => sidecar.newest.clone(),
                    None => Vec::new(),
                };
                hosts.sort_unstable();
                sidecar.newest.clone_from(&hosts);
                sidecar.pending = Some((decoded.version, hosts));
                3
            }
            "unlock" => {
                if let Some((_, hosts)) = sidecar
                    .pending
                    .take_if(|(version, _)| *version == decoded.version)
                {
                    sidecar.hosts = hosts;
                }
                4
            }
            _ => return,
        };
        let ack = message(&sidecar.id, operation, Some(decoded.version));
        if !sidecar.mute && sidecar.ended.is_none() {
            self.say(stream, ack);
        }
    }

    /// Lets time pass, event by event.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.hub.next_deadline(self.now).filter(|at| *at <= end) {
            self.now = at.max(self.now + Duration::from_millis(1));
            let mut effects = Vec::new();
            self.hub.tick(self.now, &mut effects);
            self.take(effects);
        }
        self.now = end;
    }

    fn hosts(&self, stream: StreamId) -> Vec<&str> {
        self.sidecars[&stream].hosts.iter().map(String::as_str).collect()
    }

    fn ended(&self, stream: StreamId) -> Option<(Code, &str)> {
        let ended = self.sidecars[&stream].ended.as_ref();
        ended.map(|status| (status.code, &*status.message))
    }
}

fn app(namespace: &str, app_id: &str) -> Peer {
    Peer::App {
        namespace: namespace.into(),
        app_id: app_id.into(),
    }
}

#[test]
fn a_certificate_speaks_for_its_own_app_and_namespace_only() {
    for (peer, code) in [
        (app("shop", "other"), Code::PermissionDenied),
        (app("elsewhere", "liar"), Code::PermissionDenied),
        (Peer::Nameless, Code::Unauthenticated),
    ] {
        let mut bench = Bench::new();
        let honest = bench.join("a");
        let liar = bench.open(peer, "liar");
        bench.say(liar, report("liar", &["cat"]));
        bench.pass(Duration::from_secs(30));
        assert_eq!(bench.ended(liar).map(|(code, _)| code), Some(code));
        assert_eq!(bench.hosts(honest), ["a:50002"]);
        assert_eq!(bench.ended(honest), None);
    }
    let mut bench = Bench::new();
    let honest = bench.open(app("shop", "a"), "a");
    bench.say(honest, report("a", &["cat"]));
    assert_eq!(bench.hosts(honest), ["a:50002"]);
    // Nor may it change its mind in the middle of a stream.
    bench.say(honest, report("b", &["cat"]));
    assert_eq!(
        bench.ended(honest).map(|(code, _)| code),
        Some(Code::PermissionDenied)
    );
}

#[test]
fn types_of_another_app_s_workflows_are_refused() {
    let mut bench = Bench::new();
    let thief = bench.open(app("shop", "thief"), "thief");
    bench.say(thief, report("thief", &["dapr.internal.shop.victim.workflow"]));
    let (code, text) = bench.ended(thief).unwrap();
    assert_eq!(code, Code::PermissionDenied);
    assert!(text.contains("dapr.internal.shop.victim.workflow"), "{text}");
}

#[test]
fn enormous_lists_of_types_are_refused_and_nobody_else_notices() {
    let mut bench = Bench::new();
    let honest = bench.join("a");
    let many: Vec<String> = (0..=MAX_TYPES).map(|n| format!("type-{n}")).collect();
    let long: Vec<String> = (0..1000).map(|n| format!("{n}{}", "x".repeat(4000))).collect();
    for types in [many, long] {
        let greedy = bench.open(Peer::Unknown, "greedy");
        let types: Vec<&str> = types.iter().map(String::as_str).collect();
        bench.say(greedy, report("greedy", &types));
        let (code, text) = bench.ended(greedy).unwrap();
        assert_eq!(code, Code::ResourceExhausted);
        assert!(text.contains("greedy"), "{text}");
    }
    bench.pass(Duration::from_secs(30));
    assert_eq!(bench.hosts(honest), ["a:50002"]);
}

#[test]
fn acknowledgements_of_other_versions_and_steps_move_nothing() {
    let mut bench = Bench::new();
    let first = bench.join("a");
    let second = bench.open(Peer::Unknown, "b");
    bench.sidecars.get_mut(&second).unwrap().mute = true;
    bench.say(second, report("b", &["cat"]));
    for operation in [2, 3, 4] {
        for version in [0, 1, u64::MAX / 2] {
            bench.say(second, message("b", operation, Some(version)));
        }
    }
    // Whatever it said, the other one did not get a table that both did not agree to.
    bench.pass(Duration::from_millis(100));
    assert!(bench.hosts(first) == ["a:50002"] || bench.hosts(first) == ["a:50002", "b:50002"]);
    // And it is still there for those who behave.
    let third = bench.join("c");
    bench.pass(Duration::from_secs(20));
    assert!(
        bench.hosts(third).contains(&"c:50002"),
        "{:?}",
        bench.hosts(third)
    );
    assert_eq!(bench.hosts(first), bench.hosts(third));
}

#[test]
fn unknown_operations_and_messages_without_a_name_end_in_words() {
    let mut bench = Bench::new();
    let nameless = bench.open(Peer::Unknown, "");
    bench.say(nameless, message("", REPORT, None));
    assert_eq!(
        bench.ended(nameless).map(|(code, _)| code),
        Some(Code::InvalidArgument)
    );
    let strange = bench.join("a");
    bench.say(strange, message("a", 77, None));
    bench.say(strange, message("a", -1, Some(3)));
    bench.pass(Duration::from_secs(20));
    assert_eq!(
        bench.ended(strange),
        None,
        "what is not understood is passed over"
    );
    assert_eq!(bench.hosts(strange), ["a:50002"]);
}

#[test]
fn the_same_id_at_two_addresses_is_two_hosts_and_at_one_address_the_newer_stream_holds() {
    let mut bench = Bench::new();
    let first = bench.join("a");
    let second = bench.open(Peer::Unknown, "a");
    let elsewhere = Host {
        name: "elsewhere:50002".into(),
        ..report("a", &["cat"])
    };
    bench.say(second, elsewhere);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.hosts(first), ["a:50002", "elsewhere:50002"]);
    let again = bench.join("a");
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.hosts(again), ["a:50002", "elsewhere:50002"]);
    assert_eq!(bench.ended(first).map(|(code, _)| code), Some(Code::Aborted));
    assert_eq!(bench.ended(second), None);
}

#[test]
fn one_that_never_acknowledges_holds_up_others_of_its_types_for_seconds_and_those_of_other_types_not_at_all()
{
    let mut bench = Bench::new();
    let mute = bench.join("mute");
    bench.sidecars.get_mut(&mute).unwrap().mute = true;
    // Of another type: nobody waits for it longer than patience.
    let other = bench.open(Peer::Unknown, "other");
    bench.say(other, report("other", &["dog"]));
    bench.pass(Duration::from_millis(900));
    assert_eq!(bench.hosts(other), ["mute:50002"], "its table is in force");
    assert!(bench.ended(mute).is_none() && bench.ended(other).is_none());
    let state = bench.hub.state(bench.now).unwrap();
    assert_eq!(state[0].hosts.len(), 2, "both are in the table");
    // Of its own type: until it is disconnected and its lease is over.
    let same = bench.join("same");
    bench.pass(Duration::from_secs(12));
    assert_eq!(
        bench.ended(mute).map(|(code, _)| code),
        Some(Code::DeadlineExceeded)
    );
    assert_eq!(bench.hosts(same), ["same:50002"]);
}

#[test]
fn a_stream_that_ends_without_withdrawing_keeps_its_actors_until_the_lease_is_over() {
    let mut bench = Bench::new();
    let leaver = bench.join("leaver");
    let stayer = bench.join("stayer");
    bench.pass(Duration::from_millis(500));
    assert_eq!(bench.hosts(stayer), ["leaver:50002", "stayer:50002"]);
    let mut effects = Vec::new();
    bench.hub.closed(bench.now, leaver, Ending::InOrder, &mut effects);
    bench.take(effects);
    bench.pass(Duration::from_secs(2));
    assert_eq!(
        bench.hosts(stayer),
        ["leaver:50002", "stayer:50002"],
        "its lease runs"
    );
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.hosts(stayer), ["stayer:50002"]);
    // One that withdraws first is gone at once.
    let other = bench.join("other");
    bench.pass(Duration::from_millis(500));
    bench.say(other, report("other", &[]));
    bench.pass(Duration::from_millis(500));
    assert_eq!(bench.hosts(stayer), ["stayer:50002"]);
    let mut effects = Vec::new();
    bench.hub.closed(bench.now, other, Ending::InOrder, &mut effects);
    bench.take(effects);
    let next = bench.join("next");
    bench.pass(Duration::from_millis(500));
    assert_eq!(bench.hosts(next), ["next:50002", "stayer:50002"]);
}

#[test]
fn a_new_leader_waits_for_the_lease_of_one_that_connected_and_left_again() {
    let mut bench = Bench::new();
    bench.now = Duration::from_secs(1);
    // It holds actors by a table of the leader before, and has its lease prolonged here.
    let holder = bench.join("holder");
    bench.pass(Duration::from_secs(2));
    bench.say(holder, message("holder", LEASE, Some(2)));
    let mut effects = Vec::new();
    bench.hub.closed(bench.now, holder, Ending::Broken, &mut effects);
    bench.take(effects);
    let next = bench.join("next");
    bench.pass(Duration::from_secs(2));
    assert_eq!(
        bench.hosts(next),
        Vec::<&str>::new(),
        "the lease of the other runs"
    );
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.hosts(next), ["next:50002"]);
}

#[test]
fn a_lease_outlives_streams_that_break_before_they_ask_for_the_next_one() {
    let mut bench = Bench::new();
    let first = bench.join("flapping");
    let stayer = bench.join("stayer");
    bench.pass(Duration::from_millis(500));
    let mut stream = first;
    for _ in 0..3 {
        let mut effects = Vec::new();
        bench.hub.closed(bench.now, stream, Ending::Broken, &mut effects);
        bench.take(effects);
        bench.pass(Duration::from_millis(200));
        // It is back, and gone again before it has asked for a lease.
        stream = bench.open(Peer::Unknown, "flapping");
        bench.say(stream, report("flapping", &["cat"]));
        bench.pass(Duration::from_millis(200));
        assert_eq!(bench.hosts(stayer), ["flapping:50002", "stayer:50002"]);
    }
    let mut effects = Vec::new();
    bench.hub.closed(bench.now, stream, Ending::Broken, &mut effects);
    bench.take(effects);
    bench.pass(Duration::from_millis(500));
    assert_eq!(
        bench.hosts(stayer),
        ["flapping:50002", "stayer:50002"],
        "the lease runs"
    );
    bench.pass(Duration::from_secs(3));
    assert_eq!(bench.hosts(stayer), ["stayer:50002"]);
}
