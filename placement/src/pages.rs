//! What the service shows of itself: the state page and the metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use outrigger_proto::placement::v1::Host;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, IntGaugeVec, Opts};
use serde::Serialize;

use crate::hub::Hub;
use crate::shared::Shared;

/// A host as Go's `encoding/json` writes the generated struct: empty fields left out, enums as numbers.
#[derive(Serialize)]
struct HostState<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    port: i64,
    #[serde(skip_serializing_if = "is_zero")]
    load: i64,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    entities: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pod: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    api_level: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    operation: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[derive(Serialize)]
struct TableState<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<HostState<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
}

#[derive(Serialize)]
struct State<'a> {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tables: BTreeMap<&'a str, TableState<'a>>,
}

#[allow(deprecated, reason = "the page shows every field")]
fn host_state(host: &Host) -> HostState<'_> {
    HostState {
        name: &host.name,
        port: host.port,
        load: host.load,
        entities: &host.entities,
        id: &host.id,
        pod: &host.pod,
        api_level: host.api_level.into(),
        namespace: &host.namespace,
        operation: host.operation.into(),
        version: host.version,
    }
}

/// The body of `/placement/state`: `null` on a follower.
#[must_use]
pub fn state(shared: &Shared) -> String {
    let Some(namespaces) = shared.look(Hub::state) else {
        return "null".to_owned();
    };
    let tables = namespaces.iter().map(|namespace| {
        let state = TableState {
            hosts: namespace.hosts.iter().map(host_state).collect(),
            version: Some(namespace.version).filter(|version| *version != 0),
        };
        (&*namespace.name, state)
    });
    let state = State {
        tables: tables.collect(),
    };
    let text = serde_json::to_string(&state).unwrap_or_default();
    // As Go does in strings, the only place where these stand.
    text.replace('&', "\\u0026")
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
}

/// The metrics, read when they are asked for.
pub struct Metrics {
    shared: Arc<Shared>,
    runtimes: IntGaugeVec,
    actor_runtimes: IntGaugeVec,
    leader: IntGauge,
    raft_leader: IntGauge,
    /// Namespaces that were shown once go on being shown.
    seen: Mutex<BTreeSet<Arc<str>>>,
}

impl Metrics {
    /// Metrics of this service.
    ///
    /// # Errors
    /// Never, with these names.
    pub fn new(shared: Arc<Shared>) -> Result<Self, prometheus::Error> {
        let vec = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["host_namespace"]);
        Ok(Self {
            shared,
            runtimes: vec(
                "dapr_placement_runtimes_total",
                "The total number of runtimes reported to placement service.",
            )?,
            actor_runtimes: vec(
                "dapr_placement_actor_runtimes_total",
                "The total number of actor runtimes reported to placement service.",
            )?,
            leader: IntGauge::new(
                "dapr_placement_leader_status",
                "Whether this replica serves: 1 for leader.",
            )?,
            raft_leader: IntGauge::new(
                "dapr_placement_raft_leader_status",
                "Whether this replica leads the Raft group: 1 for leader.",
            )?,
            seen: Mutex::default(),
        })
    }

    fn refresh(&self) {
        let (counts, leads) = self.shared.look(|hub, now| (hub.counts(), hub.leads(now)));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for namespace in seen.iter() {
            self.runtimes.with_label_values(&[&**namespace]).set(0);
            self.actor_runtimes.with_label_values(&[&**namespace]).set(0);
        }
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for count in counts {
            let label = [&*count.namespace];
            self.runtimes
                .with_label_values(&label)
                .set(number(count.runtimes));
            self.actor_runtimes
                .with_label_values(&label)
                .set(number(count.actor_runtimes));
            seen.insert(count.namespace);
        }
        self.leader.set(leads.into());
        self.raft_leader.set(leads.into());
    }
}

impl Collector for Metrics {
    fn desc(&self) -> Vec<&Desc> {
        [
            self.runtimes.desc(),
            self.actor_runtimes.desc(),
            self.leader.desc(),
            self.raft_leader.desc(),
        ]
        .concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.refresh();
        let families = [
            self.runtimes.collect(),
            self.actor_runtimes.collect(),
            self.leader.collect(),
            self.raft_leader.collect(),
        ];
        families.concat()
    }
}
