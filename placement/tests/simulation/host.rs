//! A model of a sidecar: what docs/ACTORS.md says it does with leases, tables and turns.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_proto::placement::v1::{Host as Message, PlacementOrder};
use outrigger_ring::{Host as RingHost, Tables};
use prost::Message as _;

use crate::world::{ConnId, LEASE};

pub(crate) type Actor = (&'static str, u32);

/// A turn under way.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) actor: Actor,
    /// What the store held when it began.
    pub(crate) read: u64,
}

/// What a host wants sent or done after an event.
#[derive(Debug)]
pub(crate) enum Act {
    Send(Message),
    /// Ask me again at this local time.
    Wake(u64),
    /// Everything is let go: close the stream.
    Leave,
}

/// A sidecar. All times are its own clock's, in microseconds.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) types: Vec<String>,
    /// It takes `change` orders.
    pub(crate) changes: bool,
    pub(crate) alive: bool,
    pub(crate) conn: Option<ConnId>,
    /// Whether it acknowledges anything.
    pub(crate) acks: bool,
    lease_until: u64,
    asked: BTreeMap<u64, u64>,
    next_number: u64,
    table: Option<Tables>,
    pending: Option<Tables>,
    blocked: BTreeSet<String>,
    /// Version and time of an `update` whose actors are being drained.
    draining: Option<(u64, u64)>,
    /// `unlock` came for what is pending; it counts as soon as a lease runs.
    unlocked: bool,
    /// A lease ended: the session is over.
    pub(crate) void: bool,
    pub(crate) leaving: bool,
    pub(crate) turns: BTreeMap<u64, Turn>,
}

impl Host {
    pub(crate) fn new(name: String, types: Vec<String>, changes: bool) -> Self {
        Self {
            name,
            types,
            changes,
            alive: true,
            conn: None,
            acks: true,
            lease_until: 0,
            asked: BTreeMap::new(),
            next_number: 0,
            table: None,
            pending: None,
            blocked: BTreeSet::new(),
            draining: None,
            unlocked: false,
            void: false,
            leaving: false,
            turns: BTreeMap::new(),
        }
    }

    /// The process starts anew: it remembers nothing.
    pub(crate) fn restart(&mut self) {
        *self = Self::new(
            std::mem::take(&mut self.name),
            std::mem::take(&mut self.types),
            self.changes,
        );
    }

    pub(crate) fn message(&self, operation: i32, version: Option<u64>) -> Message {
        Message {
            id: "app".into(),
            namespace: "shop".into(),
            operation,
            version,
            ..Message::default()
        }
    }

    pub(crate) fn report(&self) -> Message {
        Message {
            name: self.name.clone(),
            entities: if self.leaving {
                Vec::new()
            } else {
                self.types.clone()
            },
            api_level: 20,
            ..self.message(1, None)
        }
    }

    /// Asks for a lease.
    pub(crate) fn ask(&mut self, now: u64) -> Message {
        self.next_number += 1;
        self.asked.insert(self.next_number, now);
        self.message(5, Some(self.next_number))
    }

    pub(crate) fn lease_runs(&self, now: u64) -> bool {
        now < self.lease_until
    }

    /// A new session begins; what was held under a lease that still runs goes on.
    pub(crate) fn begin(&mut self, now: u64) {
        self.notice(now);
        self.void = false;
        self.unlocked = false;
        if !self.lease_runs(now) {
            self.lease_until = 0;
        }
        self.asked.clear();
    }

    /// What the end of a lease means, whenever it is noticed.
    pub(crate) fn notice(&mut self, now: u64) {
        // Before its first lease a session has nothing to lose.
        if !self.lease_runs(now) && self.lease_until > 0 && (self.table.is_some() || self.pending.is_some()) {
            self.turns.clear();
            self.table = None;
            self.pending = None;
            self.blocked.clear();
            self.draining = None;
            self.unlocked = false;
            self.void = true;
        }
    }

    /// Whom its table names as owner.
    pub(crate) fn locate(&self, actor: Actor) -> Option<String> {
        let owner = self.table.as_ref()?.owner(actor.0, &actor.1.to_string())?;
        Some(owner.address.to_string())
    }

    fn owns(&self, table: &Tables, actor: Actor) -> bool {
        let owner = table.owner(actor.0, &actor.1.to_string());
        owner.is_some_and(|owner| *owner.address == *self.name)
    }

    /// Whether a turn of this actor may start here and now.
    pub(crate) fn may_act(&self, now: u64, actor: Actor) -> bool {
        let Some(table) = self.table.as_ref().filter(|_| self.alive && self.lease_runs(now)) else {
            return false;
        };
        let pending = self
            .pending
            .as_ref()
            .is_none_or(|pending| self.owns(pending, actor));
        self.owns(table, actor) && pending && !self.blocked.contains(actor.0)
    }

    pub(crate) fn order(&mut self, now: u64, order: &[u8], acts: &mut Vec<Act>) {
        self.notice(now);
        let order = PlacementOrder::decode(&order[5..]).expect("placement sends messages");
        match order.operation.as_str() {
            "lease" => {
                if let Some(sent) = self.asked.remove(&order.version) {
                    let until = sent + LEASE;
                    // A lease that ended meanwhile is a new one: what was held is void by then.
                    self.notice(now);
                    self.lease_until = self.lease_until.max(until);
                    self.go(now);
                }
                self.asked = self.asked.split_off(&order.version);
            }
            "lock" => {
                self.unlocked = false;
                self.ack(2, order.version, acts);
            }
            "update" => self.update(now, order, false, acts),
            "change" => {
                assert!(self.changes, "{} is told of changes", self.name);
                self.update(now, order, true, acts);
            }
            "unlock" => {
                let ready = self
                    .pending
                    .as_ref()
                    .is_some_and(|pending| pending.version() == order.version);
                self.unlocked |= ready;
                self.go(now);
                self.ack(4, order.version, acts);
            }
            other => panic!("order {other}"),
        }
    }

    /// Takes the unlocked table into use, once there is a lease to act under.
    fn go(&mut self, now: u64) {
        if self.unlocked && self.lease_runs(now) && !self.void {
            self.unlocked = false;
            self.table = self.pending.take();
            self.blocked.clear();
        }
    }

    fn ack(&self, operation: i32, version: u64, acts: &mut Vec<Act>) {
        if self.acks {
            acts.push(Act::Send(self.message(operation, Some(version))));
        }
    }

    /// Which hosts it knows of each type, by the newest table it was told.
    pub(crate) fn known(&self) -> Option<BTreeMap<String, Vec<String>>> {
        let newest = self.pending.as_ref().or(self.table.as_ref())?;
        let hosts = |table: &std::sync::Arc<outrigger_ring::Table>| {
            table
                .hosts()
                .iter()
                .map(|host| host.address.to_string())
                .collect()
        };
        Some(
            newest
                .iter()
                .map(|(name, table)| (name.to_owned(), hosts(table)))
                .collect(),
        )
    }

    fn update(&mut self, now: u64, order: PlacementOrder, is_change: bool, acts: &mut Vec<Act>) {
        let tables = order.tables.expect("an update has tables");
        let entries = tables.entries.into_iter().map(|(name, table)| {
            let hosts = table.load_map.into_iter().map(|(key, host)| RingHost {
                address: if host.name.is_empty() { &key } else { &host.name }
                    .as_str()
                    .into(),
                key: key.into(),
                app_id: host.id.into(),
                port: host.port,
            });
            (Box::from(name), hosts)
        });
        let none = Tables::default();
        let before = self.pending.as_ref().or(self.table.as_ref()).unwrap_or(&none);
        let (version, factor) = (order.version, tables.replication_factor);
        let next = if is_change {
            if before.version() == 0 {
                // What it changes was void with the lease: the session ends.
                self.void = true;
                return;
            }
            Tables::change(version, factor, entries, before).expect("a small ring")
        } else {
            Tables::build(version, factor, entries, before).expect("a small ring")
        };
        self.blocked
            .extend(next.changed_since(before).into_iter().map(str::to_owned));
        self.pending = Some(next);
        self.draining = Some((order.version, now + 1_000_000));
        self.drain(now, acts);
    }

    /// Acknowledges an `update` once nothing runs here that moves away; cuts off what takes too long.
    pub(crate) fn drain(&mut self, now: u64, acts: &mut Vec<Act>) {
        self.notice(now);
        let (Some((version, until)), Some(pending)) = (self.draining, &self.pending) else {
            return;
        };
        let moving: Vec<u64> = self
            .turns
            .iter()
            .filter(|(_, turn)| !self.owns(pending, turn.actor))
            .map(|(id, _)| *id)
            .collect();
        if !moving.is_empty() && now < until {
            return acts.push(Act::Wake((now + 50_000).min(until)));
        }
        for id in moving {
            self.turns.remove(&id);
        }
        let holds_any = pending
            .iter()
            .any(|(_, table)| table.hosts().iter().any(|host| *host.address == *self.name));
        self.draining = None;
        self.ack(3, version, acts);
        // A table that was made before this host withdrew still names it: that is not the one to leave by.
        if self.leaving && !holds_any {
            acts.push(Act::Leave);
        }
    }
}
