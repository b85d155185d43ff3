//! Every recorded script of the placement protocol (golden `control-plane/placement.json`), on virtual time.
#![allow(clippy::unwrap_used, reason = "test helpers are outside of #[test] functions")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use outrigger_placement::authorise::Peer;
use outrigger_placement::hub::Hub;
use outrigger_placement::namespace::{Effect, Ending};
use outrigger_placement::status::Status;
use outrigger_placement::wire::Order;
use outrigger_placement::{Moment, Settings, Speaks, StreamId};
use outrigger_proto::placement::v1::{Host, HostOperation, PlacementOrder};
use prost::Message as _;
use serde_json::{Map, Value, json};

/// A hub with streams numbered as in the script.
struct Bench {
    hub: Hub,
    now: Moment,
    ids: BTreeMap<u64, StreamId>,
    got: BTreeMap<StreamId, VecDeque<Value>>,
}

impl Bench {
    fn new(flags: &[&str]) -> Self {
        let flag = |name: &str| flags[flags.iter().position(|flag| *flag == name).unwrap() + 1];
        let seconds = flag("--disseminate-timeout")
            .trim_end_matches('s')
            .parse()
            .unwrap();
        let settings = Settings {
            disseminate_timeout: Duration::from_secs(seconds),
            replication_factor: flag("--replicationFactor").parse().unwrap(),
            ..Settings::default()
        };
        let mut hub = Hub::new("dapr-placement-0", settings);
        hub.lead(Moment::ZERO, 1, Moment::MAX);
        Self {
            hub,
            now: Moment::ZERO,
            ids: BTreeMap::new(),
            got: BTreeMap::new(),
        }
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            let (id, value) = match effect {
                Effect::Send(id, order) => (id, shown(&order)),
                Effect::Close(id, status) => (id, ended(&status)),
            };
            self.got.entry(id).or_default().push_back(value);
        }
    }

    fn send(&mut self, step: &Value) {
        let number = step["stream"].as_u64().unwrap();
        let mut effects = Vec::new();
        if step["close"] == json!(true) {
            self.hub
                .closed(self.now, self.ids[&number], Ending::InOrder, &mut effects);
        } else {
            let id = *self
                .ids
                .entry(number)
                .or_insert_with(|| self.hub.open(self.now, Peer::Unknown, Speaks::DAPR).unwrap().id);
            self.hub
                .message(self.now, id, mk_host(&step["host"]), &mut effects);
        }
        self.take(effects);
    }

    /// What comes next on a stream within a time.
    fn next(&mut self, number: u64, within: Duration) -> Option<Value> {
        let id = self.ids[&number];
        let limit = self.now + within;
        loop {
            if let Some(value) = self.got.entry(id).or_default().pop_front() {
                return Some(value);
            }
            match self.hub.next_deadline(self.now).filter(|at| *at <= limit) {
                Some(at) => {
                    self.now = at.max(self.now + Duration::from_millis(1));
                    let mut effects = Vec::new();
                    self.hub.tick(self.now, &mut effects);
                    self.take(effects);
                }
                None => {
                    self.now = limit;
                    return None;
                }
            }
        }
    }
}

fn mk_host(value: &Value) -> Host {
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| value[name].as_i64().unwrap_or_default();
    let strings = value["entities"].as_array().cloned().unwrap_or_default();
    #[allow(deprecated, reason = "recorded with all fields")]
    Host {
        name: text("name"),
        port: number("port"),
        load: number("load"),
        entities: strings
            .iter()
            .map(|one| one.as_str().unwrap().to_owned())
            .collect(),
        id: text("id"),
        pod: text("pod"),
        api_level: u32::try_from(number("api_level")).unwrap(),
        namespace: text("namespace"),
        operation: HostOperation::from_str_name(&text("operation")).unwrap().into(),
        version: value["version"].as_u64(),
    }
}

/// A host as the recording shows it: fields that are not set are left out.
#[allow(deprecated, reason = "recorded with all fields")]
fn shown_host(host: &Host) -> Value {
    let mut map = Map::new();
    for (name, text) in [
        ("name", &host.name),
        ("id", &host.id),
        ("pod", &host.pod),
        ("namespace", &host.namespace),
    ] {
        if !text.is_empty() {
            map.insert(name.into(), json!(text));
        }
    }
    for (name, number) in [
        ("port", host.port),
        ("load", host.load),
        ("api_level", host.api_level.into()),
    ] {
        if number != 0 {
            map.insert(name.into(), json!(number));
        }
    }
    if !host.entities.is_empty() {
        map.insert("entities".into(), json!(host.entities));
    }
    if host.operation != 0 {
        map.insert("operation".into(), json!(host.operation().as_str_name()));
    }
    if let Some(version) = host.version {
        map.insert("version".into(), json!(version));
    }
    map.into()
}

#[allow(deprecated, reason = "recorded with all fields")]
fn shown(order: &Order) -> Value {
    let order = PlacementOrder::decode(&order.frame()[5..]).unwrap();
    let mut map = Map::new();
    map.insert("operation".into(), json!(order.operation));
    map.insert("version".into(), json!(order.version));
    if let Some(tables) = order.tables {
        let entries: Map<String, Value> = tables
            .entries
            .iter()
            .map(|(name, table)| {
                let hosts: Map<String, Value> = table
                    .load_map
                    .iter()
                    .map(|(name, host)| (name.clone(), shown_host(host)))
                    .collect();
                let table = json!({
                    "hosts": table.hosts.len(), "sorted_set": table.sorted_set.len(),
                    "total_load": table.total_load, "load_map": hosts,
                });
                (name.clone(), table)
            })
            .collect();
        map.insert(
            "tables".into(),
            json!({
                "entries": entries, "version": tables.version, "api_level": tables.api_level,
                "replication_factor": tables.replication_factor,
            }),
        );
    }
    map.into()
}

fn ended(status: &Status) -> Value {
    let code = match status.code as i32 {
        3 => "INVALID_ARGUMENT",
        4 => "DEADLINE_EXCEEDED",
        7 => "PERMISSION_DENIED",
        other => panic!("status {other} is in no recording"),
    };
    json!({"end": {"code": code, "message": status.message}})
}

fn replay(case: &Value) -> Result<(), String> {
    let flags: Vec<&str> = case["setup"]["flags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|flag| flag.as_str().unwrap())
        .collect();
    let mut bench = Bench::new(&flags);
    for (index, step) in case["steps"].as_array().unwrap().iter().enumerate() {
        if let Some(send) = step.get("send") {
            bench.send(send);
        }
        let Some(got) = step.get("got") else { continue };
        let expected = &got["order"];
        let silence = expected["silence_ms"].as_u64();
        let within = silence.map_or(Duration::from_secs(5), Duration::from_millis);
        let ours = bench.next(got["stream"].as_u64().unwrap(), within);
        if ours.as_ref() != Some(expected).filter(|_| silence.is_none()) {
            return Err(format!(
                "{} step {index}: expected {expected}, got {ours:?}",
                case["id"]
            ));
        }
    }
    Ok(())
}

#[test]
fn every_recorded_script_plays_the_same() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../testdata/placement.json")).unwrap();
    assert_eq!(cases.len(), 39);
    let wrong: Vec<String> = cases.iter().filter_map(|case| replay(case).err()).collect();
    assert!(
        wrong.is_empty(),
        "{} of {} differ:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}
