//! Who hosts what in one namespace: the hosts with at least one actor type, and the table made of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use outrigger_proto::placement::v1::{Host, HostOperation};

use crate::StreamId;
use crate::wire::{self, Table};

/// What a host reported.
#[derive(Debug)]
pub struct Report {
    /// The report itself, without its types, which are in `types`.
    host: Host,
    /// Hosted types as reported but sorted (so does Dapr), for the table and the state page.
    listed: Vec<Arc<str>>,
    /// Each of them once.
    types: Box<[Arc<str>]>,
    /// As tables of each [`Form`] have it.
    entries: [Bytes; 2],
}

/// How much of a host a table tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The whole report, as Go's sidecars are told.
    Dapr,
    /// What ours need.
    Slim,
}

impl Report {
    /// `host:port` of the sidecar's internal API.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.host.name
    }

    /// The app's id.
    #[must_use]
    pub fn app_id(&self) -> &str {
        &self.host.id
    }

    /// Hosted types, sorted, each once.
    #[must_use]
    pub fn types(&self) -> &[Arc<str>] {
        &self.types
    }

    /// The message as the table has it.
    #[must_use]
    pub fn host(&self) -> Host {
        Host {
            entities: self.listed.iter().map(|name| String::from(&**name)).collect(),
            ..self.host.clone()
        }
    }

    /// Whether a new report says the same, as Dapr sees it: of the same app, with the same types in any order.
    #[must_use]
    pub fn same(&self, host: &Host) -> bool {
        let mut sorted: Vec<&str> = host.entities.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        self.host.id == host.id && self.listed.iter().map(|name| &**name).eq(sorted)
    }
}

/// The hosts of one actor type.
#[derive(Debug, Default)]
struct TypeHosts {
    /// By name, so that a table is the same however its hosts came. Of several streams with one name the last holds.
    hosts: BTreeSet<(Arc<str>, StreamId)>,
    /// Encoded in each [`Form`], until a host changes.
    encoded: [Option<Bytes>; 2],
}

impl TypeHosts {
    /// The type's entry in a table.
    fn encoded(&mut self, form: Form, name: &str, reports: &HashMap<StreamId, Report>) -> Bytes {
        let hosts = &self.hosts;
        let encoded = self.encoded[form as usize].get_or_insert_with(|| {
            let last_of_name: BTreeMap<&str, StreamId> =
                hosts.iter().map(|(name, id)| (&**name, *id)).collect();
            let entries: Vec<&Bytes> = last_of_name
                .values()
                .filter_map(|id| Some(&reports.get(id)?.entries[form as usize]))
                .collect();
            wire::type_entry(name, entries.into_iter())
        });
        encoded.clone()
    }
}

/// The hosts of one namespace.
#[derive(Debug, Default)]
pub struct Members {
    reports: HashMap<StreamId, Report>,
    /// Whose address it is; more than one only by mistake or while a connection is replaced.
    names: HashMap<Arc<str>, BTreeSet<StreamId>>,
    types: BTreeMap<Arc<str>, TypeHosts>,
}

impl Members {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.reports.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reports.is_empty()
    }

    /// What the host of a stream reported.
    #[must_use]
    pub fn get(&self, id: StreamId) -> Option<&Report> {
        self.reports.get(&id)
    }

    /// The streams of an app's hosts at one address.
    pub fn at<'a>(&'a self, app_id: &'a str, name: &str) -> impl Iterator<Item = StreamId> + use<'a> {
        let there = self.names.get(name).into_iter().flatten().copied();
        there.filter(move |id| {
            self.reports
                .get(id)
                .is_some_and(|report| report.app_id() == app_id)
        })
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (StreamId, &Report)> {
        self.reports.iter().map(|(id, report)| (*id, report))
    }

    /// Takes up a host. It must have types, and must not be there.
    pub fn insert(&mut self, id: StreamId, mut host: Host) {
        host.operation = HostOperation::Report.into();
        host.entities.sort_unstable();
        let entries = [wire::host_entry(&host), wire::slim_entry(&host)];
        let listed: Vec<Arc<str>> = std::mem::take(&mut host.entities)
            .iter()
            .map(|name| self.intern(name))
            .collect();
        let mut types = listed.clone();
        types.dedup();
        let report = Report {
            host,
            listed,
            types: types.into(),
            entries,
        };
        self.link(id, &report);
        self.reports.insert(id, report);
    }

    /// One allocation per name of a type.
    fn intern(&self, name: &str) -> Arc<str> {
        self.types
            .get_key_value(name)
            .map_or_else(|| Arc::from(name), |(known, _)| Arc::clone(known))
    }

    fn link(&mut self, id: StreamId, report: &Report) {
        let name: Arc<str> = Arc::from(report.name());
        self.names.entry(Arc::clone(&name)).or_default().insert(id);
        for actor_type in &report.types {
            let hosts = self.types.entry(Arc::clone(actor_type)).or_default();
            hosts.hosts.insert((Arc::clone(&name), id));
            hosts.encoded = [None, None];
        }
    }

    /// Forgets a host.
    pub fn remove(&mut self, id: StreamId) -> Option<Report> {
        let report = self.reports.remove(&id)?;
        let key: (Arc<str>, StreamId) = (Arc::from(report.name()), id);
        if let Some(there) = self.names.get_mut(&key.0) {
            there.remove(&id);
            if there.is_empty() {
                self.names.remove(&key.0);
            }
        }
        for actor_type in &report.types {
            if let Some(hosts) = self.types.get_mut(actor_type) {
                hosts.hosts.remove(&key);
                hosts.encoded = [None, None];
                if hosts.hosts.is_empty() {
                    self.types.remove(actor_type);
                }
            }
        }
        Some(report)
    }

    /// The host of one stream is now that of another.
    pub fn hand_over(&mut self, from: StreamId, to: StreamId) {
        if let Some(report) = self.remove(from) {
            self.link(to, &report);
            self.reports.insert(to, report);
        }
    }

    /// The `update` order with the table, framed. Only types whose hosts changed are encoded anew.
    pub fn table(&mut self, form: Form, version: u64, replication_factor: i64) -> Bytes {
        let mut table = Table::new(version, replication_factor);
        for (name, hosts) in &mut self.types {
            table.push(hosts.encoded(form, name, &self.reports));
        }
        table.order()
    }

    /// The `change` order with these types alone, framed. One that nobody hosts has no hosts in it.
    pub fn change(&mut self, version: u64, replication_factor: i64, types: &HashSet<Arc<str>>) -> Bytes {
        let mut table = Table::new(version, replication_factor);
        for name in types {
            table.push(match self.types.get_mut(name) {
                Some(hosts) => hosts.encoded(Form::Slim, name, &self.reports),
                None => wire::type_entry(name, std::iter::empty()),
            });
        }
        table.change()
    }
}
