//! The placement of one namespace: who is connected, who hosts what, and the rounds that tell everyone.
//!
//! A state machine without input, output or clock: events come in with the time, [`Effect`]s come out, and
//! [`Namespace::next_deadline`] says when to call [`Namespace::tick`]. The order of messages is Dapr's (contract
//! `placement`, section 4); docs/ACTORS.md says where it waits less, and for what it waits more: leases.
//!
//! ```text
//! streams    connected sidecars; those in `waiting` join at the start of the next round
//! members    hosts of actors, by their stream, also while lost
//! lost       members whose stream broke while their lease runs: they stay in the table until it ends
//! removals   members that leave at the start of the next round
//! dirty      actor types whose hosts changed since the last completed round
//! ```

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use outrigger_proto::placement::v1::Host;

use crate::members::Members;
use crate::status::Status;
use crate::wire::{Operation, Order, Step, operation};
use crate::{Moment, Settings, Speaks, StreamId};

mod round;

use round::{Phase, Tally};

/// What is to be done outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send this to a sidecar. Orders of one stream are sent in order; a newer `lock` makes unsent ones needless.
    Send(StreamId, Order),
    /// End a stream. Nothing more comes from or for it.
    Close(StreamId, Status),
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The sidecar closed its side. One that keeps leases has let go of everything only if it withdrew before: client
    /// libraries close their side after any error, too.
    InOrder,
    /// It broke; what the sidecar does now is not known.
    Broken,
}

/// A connected sidecar.
#[derive(Debug, Default)]
struct Stream {
    /// It keeps leases.
    leased: bool,
    /// It takes the types that changed instead of a whole table, and tables in the slim form.
    changes: bool,
    /// Version of the newest table that it has acknowledged.
    has: Option<u64>,
    /// When the last one ends for certain.
    lease_end: Option<Moment>,
    /// Its types changed since the last completed round.
    changed: bool,
    /// It has no types and acknowledged a table without it: it holds nothing.
    withdrawn: bool,
    /// The round may move its actors: its acknowledgements are waited for.
    voter: bool,
    /// The step it acknowledged last in this round.
    acked: Option<Step>,
    /// Version of the last `lock` sent to it.
    locked: Option<u64>,
    /// Version and time by which it must have acknowledged what it was sent.
    owes: Option<(Moment, u64)>,
}

/// A member without a stream whose lease runs.
#[derive(Clone, Copy, Debug)]
struct Lost {
    until: Moment,
    /// It acknowledged the `update` of the round under way: it holds nothing that moves.
    released: bool,
    /// Its types changed since the last completed round: it may hold actors of types that it lists no more.
    changed: bool,
}

/// The placement of one namespace.
#[derive(Debug)]
pub struct Namespace {
    settings: Arc<Settings>,
    streams: BTreeMap<StreamId, Stream>,
    /// Streams that no round knows yet, with their latest report.
    waiting: BTreeMap<StreamId, Host>,
    members: Members,
    /// The table of this version, in each form once it was needed.
    tables: [Option<(u64, Bytes)>; 2],
    /// The version that was in force when `dirty` was last empty: who has it, or a later one, lacks only dirty types.
    settled: u64,
    lost: BTreeMap<StreamId, Lost>,
    removals: BTreeSet<StreamId>,
    dirty: HashSet<Arc<str>>,
    version: u64,
    phase: Phase,
    phase_started: Moment,
    round_started: Moment,
    tally: Tally,
    /// Streams by the time at which they must have acknowledged.
    owing: BTreeSet<(Moment, StreamId)>,
    /// No round before: leases of an earlier leader may run.
    hold_until: Moment,
    /// No round before: changes are being gathered.
    quiet_until: Moment,
    /// A sidecar with leases was here.
    leased: bool,
}

impl Namespace {
    /// An empty one. `hold_until`: leases of an earlier leader may run until then; sidecars that keep leases see no
    /// round before. `version`: the last one of an earlier life of this namespace.
    #[must_use]
    pub fn new(settings: Arc<Settings>, hold_until: Moment, version: u64) -> Self {
        Self {
            settings,
            streams: BTreeMap::new(),
            waiting: BTreeMap::new(),
            members: Members::default(),
            tables: [None, None],
            lost: BTreeMap::new(),
            removals: BTreeSet::new(),
            dirty: HashSet::new(),
            settled: version,
            version,
            phase: Phase::Idle,
            phase_started: Moment::ZERO,
            round_started: Moment::ZERO,
            tally: Tally::default(),
            owing: BTreeSet::new(),
            hold_until,
            quiet_until: Moment::ZERO,
            leased: false,
        }
    }

    /// A sidecar connected, with its first message.
    pub fn connect(&mut self, now: Moment, id: StreamId, host: Host, speaks: Speaks, fx: &mut Vec<Effect>) {
        self.leased |= speaks.leases;
        let stream = Stream {
            leased: speaks.leases,
            changes: speaks.changes,
            ..Stream::default()
        };
        // A first message that acknowledges something registers the stream and asks for nothing (recorded).
        let registers = matches!(operation(&host), Operation::Report | Operation::Ack(None));
        self.streams.insert(id, stream);
        if registers {
            self.register(now, id, host, fx);
        } else {
            self.tally.add(&self.streams[&id]);
        }
    }

    fn register(&mut self, now: Moment, id: StreamId, host: Host, fx: &mut Vec<Effect>) {
        if let Some(before) = self.earlier_self(id, &host) {
            return self.resume(now, before, id, host, fx);
        }
        let leased = self.streams[&id].leased;
        self.waiting.insert(id, host);
        let unsettled = now < self.hold_until || self.lost.values().any(|lost| lost.changed);
        if leased && unsettled && self.phase != Phase::Idle {
            // It may hold actors by an earlier table, of another leader or stream: the round must not go on without it.
            self.fold();
            return self.start_round(now, fx);
        }
        self.settle(now, fx);
    }

    /// The member that this host already is, on a stream that broke, or will turn out to have: same app, same address,
    /// and both keep leases (of others nothing is known that a reconnection could prolong).
    fn earlier_self(&self, id: StreamId, host: &Host) -> Option<StreamId> {
        let leased = |id: &StreamId| self.streams.get(id).is_none_or(|stream| stream.leased);
        let mut there = self.members.at(&host.id, &host.name);
        there.find(|other| self.lost.contains_key(other) || (*other != id && leased(other) && leased(&id)))
    }

    /// A sidecar is back on another stream while the lease of its last one may run: nothing moves, and the round under
    /// way must not go on without it.
    fn resume(&mut self, now: Moment, before: StreamId, id: StreamId, host: Host, fx: &mut Vec<Effect>) {
        // Its lease runs on; until the first answer on this stream nothing else tells of it.
        let of_stream = self.streams.get(&before).and_then(|stream| stream.lease_end);
        let held = of_stream.max(self.lost.get(&before).map(|lost| lost.until));
        if self.drop_stream(now, before, Ending::InOrder) {
            fx.push(Effect::Close(before, Status::superseded()));
        }
        self.lost.remove(&before);
        self.removals.remove(&before);
        self.members.hand_over(before, id);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.lease_end = stream.lease_end.max(held);
        }
        self.tally.add(&self.streams[&id]);
        let changed = self.take_report(id, host);
        if changed || self.phase != Phase::Idle {
            // Its answers are missing in the round under way, and it may hold what that round moves.
            self.streams.get_mut(&id).expect("connected").changed = true;
            self.start_round(now, fx);
        } else {
            self.tell_one(id, fx);
        }
    }

    /// A later message of a connected sidecar, which passed the checks.
    pub fn message(&mut self, now: Moment, id: StreamId, host: Host, fx: &mut Vec<Effect>) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        match operation(&host) {
            Operation::Lease => {
                let number = host.version.unwrap_or_default();
                stream.leased = true;
                stream.lease_end = Some(now + self.settings.lease_margin());
                self.leased = true;
                fx.push(Effect::Send(id, Order::Lease(number)));
            }
            Operation::Ack(Some(Step::Update))
                if host.version.is_some_and(|version| version < self.version) =>
            {
                stream.has = stream.has.max(host.version);
            }
            _ if host.version.is_some_and(|version| version < self.version) => {}
            Operation::Report => self.report(now, id, host, fx),
            Operation::Ack(step) => self.acknowledge(now, id, step, fx),
            Operation::Unknown(_) => {}
        }
    }

    fn report(&mut self, now: Moment, id: StreamId, host: Host, fx: &mut Vec<Effect>) {
        if let Some(waiting) = self.waiting.get_mut(&id) {
            *waiting = host;
            return;
        }
        let without_types = host.entities.is_empty();
        if self.take_report(id, host) {
            self.streams.get_mut(&id).expect("checked by the caller").changed = true;
            if now < self.hold_until && self.leased && self.phase == Phase::Idle {
                return;
            }
            self.start_round(now, fx);
        } else if without_types && self.phase == Phase::Idle {
            self.tell_one(id, fx);
        }
    }

    /// Puts what a stream reports among the members; whether that changes who hosts what.
    fn take_report(&mut self, id: StreamId, host: Host) -> bool {
        match self.members.get(id) {
            Some(known) if known.same(&host) => return false,
            None if host.entities.is_empty() => return false,
            _ => {}
        }
        self.forget(id);
        if !host.entities.is_empty() {
            self.take_up(id, host);
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.withdrawn = false;
            }
        }
        true
    }

    fn take_up(&mut self, id: StreamId, host: Host) {
        self.tables = [None, None];
        self.members.insert(id, host);
        if let Some(report) = self.members.get(id) {
            self.dirty.extend(report.types().iter().cloned());
        }
    }

    fn forget(&mut self, id: StreamId) {
        self.tables = [None, None];
        if let Some(report) = self.members.remove(id) {
            self.dirty.extend(report.types().iter().cloned());
        }
    }

    /// A stream ended, by the sidecar or by the network.
    pub fn closed(&mut self, now: Moment, id: StreamId, ending: Ending, fx: &mut Vec<Effect>) {
        if self.drop_stream(now, id, ending) {
            self.go_on(now, fx);
        }
    }

    /// Forgets a stream; its member leaves with the next round, or when its lease is over.
    fn drop_stream(&mut self, now: Moment, id: StreamId, ending: Ending) -> bool {
        let Some(stream) = self.streams.remove(&id) else {
            return false;
        };
        if let Some((due, _)) = stream.owes {
            self.owing.remove(&(due, id));
        }
        let released_all = stream.withdrawn || stream.lease_end.is_none();
        let ending = if released_all { ending } else { Ending::Broken };
        if self.waiting.remove(&id).is_none() {
            self.tally.remove(&stream);
        } else if ending == Ending::Broken && now < self.hold_until {
            // It may still hold actors by a table of the leader before this one.
            self.hold_until = self.hold_until.max(stream.lease_end.unwrap_or_default());
        }
        if self.members.get(id).is_some() || stream.changed {
            match stream.lease_end {
                Some(until) if ending == Ending::Broken && until > now => {
                    let released =
                        self.phase == Phase::Running(Step::Unlock) || stream.acked == Some(Step::Update);
                    let changed = stream.changed;
                    self.lost.insert(
                        id,
                        Lost {
                            until,
                            released,
                            changed,
                        },
                    );
                }
                _ => {
                    self.removals.insert(id);
                }
            }
        }
        true
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Moment, fx: &mut Vec<Effect>) {
        let over: Vec<StreamId> = self
            .lost
            .iter()
            .filter(|(_, lost)| lost.until <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in &over {
            self.lost.remove(id);
            if self.phase == Phase::Running(Step::Lock) {
                // Nobody has the table of this round yet: it goes out without the host.
                self.forget(*id);
            } else {
                self.removals.insert(*id);
            }
        }
        if !over.is_empty() && self.phase == Phase::Running(Step::Lock) {
            self.choose_voters();
        }
        self.evict_late(now, fx);
        self.go_on(now, fx);
    }

    /// When to call [`Namespace::tick`] at the latest.
    #[must_use]
    pub fn next_deadline(&self, now: Moment) -> Option<Moment> {
        let mut next = self.lost.values().map(|lost| lost.until).min();
        let mut sooner = |moment: Option<Moment>| next = next.into_iter().chain(moment).min();
        sooner(self.owing.first().map(|(due, _)| *due));
        match self.phase {
            Phase::Idle if self.has_news() => sooner(Some(self.rest_until())),
            Phase::Idle => {}
            Phase::Running(step) => {
                sooner(self.phase_deadline(step));
                sooner(self.patience_ends(now, step));
            }
        }
        next
    }

    /// Whether nothing is left of it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.lost.is_empty()
    }

    /// The version that a later life of the namespace has to go on from: where leases are kept versions never repeat.
    #[must_use]
    pub fn last_version(&self) -> u64 {
        if self.leased { self.version } else { 0 }
    }

    /// Whether a sidecar with leases was here.
    #[must_use]
    pub const fn is_leased(&self) -> bool {
        self.leased
    }

    /// No round before, in a later life of the namespace either: leases may run until then.
    #[must_use]
    pub const fn hold_until(&self) -> Moment {
        self.hold_until
    }

    /// Connected sidecars, and those among them that host actors.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let waiting = self
            .waiting
            .values()
            .filter(|host| !host.entities.is_empty())
            .count();
        (self.streams.len(), self.members.len() + waiting)
    }

    /// The hosts of actors by name, and the version, for the state page.
    #[must_use]
    pub fn state(&self) -> (Vec<Host>, u64) {
        let mut hosts: Vec<Host> = self.members.iter().map(|(_, report)| report.host()).collect();
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        (hosts, self.version)
    }

    /// Ends every stream.
    pub fn close_all(&mut self, status: &Status, fx: &mut Vec<Effect>) {
        fx.extend(self.streams.keys().map(|id| Effect::Close(*id, status.clone())));
        *self = Self::new(Arc::clone(&self.settings), self.hold_until, self.version);
    }

    /// No round starts before.
    fn rest_until(&self) -> Moment {
        let hold = if self.leased {
            self.hold_until
        } else {
            Moment::ZERO
        };
        hold.max(self.quiet_until)
    }

    /// Whether there is something to tell at the next opportunity.
    fn has_news(&self) -> bool {
        !self.removals.is_empty() || !self.dirty.is_empty() || !self.waiting.is_empty()
    }
}
