//! Hosts, replicas and the network between them, driven by one seed: every run of a seed is the same.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use bytes::Bytes;
use outrigger_placement::authorise::Peer;
use outrigger_placement::hub::Hub;
use outrigger_placement::namespace::{Effect, Ending};
use outrigger_placement::{Moment, Settings, Speaks, StreamId};
use outrigger_proto::placement::v1::Host as Message;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::host::{Act, Actor, Host, Turn};

/// Length of a lease, in microseconds.
pub(crate) const LEASE: u64 = 3_000_000;
const MS: u64 = 1000;
const SECOND: u64 = 1_000_000;
/// Faults happen until then.
pub(crate) const FAULTS_END: u64 = 40 * SECOND;
/// After that long without faults every actor is reachable: a partition is noticed (5 s), a leader found (3 s), its
/// predecessor's leases end (3.4 s), a round goes through (drain of 1 s).
pub(crate) const BOUND: u64 = 15 * SECOND;
const TYPES: [&str; 3] = ["cat", "dog", "fox"];
const ACTORS: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnId(usize);

#[derive(Debug)]
enum Event {
    Up(ConnId, Box<Message>),
    Down(ConnId, Bytes),
    BreakUp(ConnId, Ending),
    BreakDown(ConnId),
    /// One side noticed nothing from the other for too long, if the cause lasts.
    Silence(ConnId, bool),
    Connect(usize),
    Lease(usize, ConnId),
    Drain(usize),
    Call,
    Arrive(usize, Actor),
    TurnEnds(usize, u64),
    Tick(usize),
    Elect,
    Fault,
    Heal(usize, usize),
    Join(usize),
    Rise(usize),
    Restart(usize),
    Behave(usize),
}

#[derive(Debug)]
struct Conn {
    host: usize,
    replica: usize,
    stream: Option<StreamId>,
    up: bool,
    down: bool,
    /// TCP keeps order: nothing arrives before what was sent earlier.
    last_up: u64,
    last_down: u64,
    held_up: Vec<Message>,
    held_down: Vec<Bytes>,
}

struct Replica {
    hub: Hub,
    alive: bool,
    isolated: bool,
    by_stream: BTreeMap<StreamId, ConnId>,
    next_tick: u64,
}

/// What a run came to.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) acknowledged: u64,
    pub(crate) committed: u64,
    pub(crate) rounds: u64,
    pub(crate) leaders: u64,
    pub(crate) violations: Vec<String>,
}

pub(crate) struct World {
    now: u64,
    rng: StdRng,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    serial: u64,
    hosts: Vec<Host>,
    replicas: Vec<Replica>,
    conns: Vec<Conn>,
    /// Rate of each node's clock; hosts first.
    rates: Vec<f64>,
    /// Until when a node is stopped (SIGSTOP).
    frozen: Vec<u64>,
    cut: BTreeMap<(usize, usize), bool>,
    leader: Option<(usize, u64)>,
    leads_until: u64,
    epoch: u64,
    store: BTreeMap<Actor, u64>,
    next_turn: u64,
    report: Report,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let hosts: Vec<Host> = (0..rng.random_range(2..6))
            .map(|n| {
                let types = TYPES[..rng.random_range(1..=3)]
                    .iter()
                    .map(|&name| name.to_owned())
                    .collect();
                // The second one is told whole tables.
                Host::new(format!("10.0.0.{n}:50002"), types, n != 1)
            })
            .collect();
        let replicas = rng.random_range(1..4);
        let rates = (0..hosts.len() + replicas)
            .map(|_| rng.random_range(0.95..1.05))
            .collect();
        let mut world = Self {
            now: 0,
            rng,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            serial: 0,
            frozen: vec![0; hosts.len() + replicas],
            hosts,
            replicas: (0..replicas).map(mk_replica).collect(),
            conns: Vec::new(),
            rates,
            cut: BTreeMap::new(),
            leader: None,
            leads_until: 0,
            epoch: 0,
            store: BTreeMap::new(),
            next_turn: 0,
            report: Report::default(),
        };
        for host in 0..world.hosts.len() {
            let at = world.rng.random_range(0..SECOND);
            world.at(at, Event::Connect(host));
        }
        world.at(0, Event::Elect);
        world.at(0, Event::Call);
        world.at(SECOND, Event::Fault);
        world
    }

    fn at(&mut self, time: u64, event: Event) {
        self.serial += 1;
        self.queue.push(Reverse((time.max(self.now), self.serial)));
        self.events.insert(self.serial, event);
    }

    fn after(&mut self, pause: u64, event: Event) {
        self.at(self.now + pause, event);
    }

    fn delay(&mut self) -> u64 {
        let long = self.rng.random_range(0..50) == 0;
        self.rng
            .random_range(MS / 5..if long { 300 * MS } else { 5 * MS })
    }

    /// The clock of a host, or of a replica behind them.
    fn local(&self, node: usize) -> u64 {
        (self.now as f64 * self.rates[node]) as u64
    }

    fn of_replica(&self, replica: usize) -> usize {
        self.hosts.len() + replica
    }

    fn moment(&self, replica: usize) -> Moment {
        Duration::from_micros(self.local(self.of_replica(replica)))
    }

    fn is_cut(&self, host: usize, replica: usize) -> bool {
        self.cut.get(&(host, replica)).copied().unwrap_or(false)
    }

    pub(crate) fn run(mut self) -> Report {
        while let Some(Reverse((time, serial))) = self.queue.pop() {
            if time > FAULTS_END + BOUND || !self.report.violations.is_empty() {
                break;
            }
            self.now = time;
            let event = self.events.remove(&serial).expect("queued");
            if let Some(thaw) = self
                .node_of(&event)
                .map(|node| self.frozen[node])
                .filter(|thaw| *thaw > time)
            {
                // It happens when the process runs again, after what came before.
                self.at(thaw, event);
                continue;
            }
            self.handle(event);
        }
        self.now = FAULTS_END + BOUND;
        if std::env::var("SIM_SEED").is_ok() {
            self.show();
        }
        self.check_reachable();
        let stored: u64 = self.store.values().sum();
        if stored != self.report.acknowledged {
            let text = format!(
                "{} calls were acknowledged, {stored} are in the store",
                self.report.acknowledged
            );
            self.report.violations.push(text);
        }
        self.report
    }

    /// For looking into one seed.
    fn show(&self) {
        println!("leader {:?} until {}", self.leader, self.leads_until);
        for (n, host) in self.hosts.iter().enumerate() {
            println!("host {n} lease {} {host:?}", host.lease_runs(self.local(n)));
            if let Some(id) = host.conn {
                println!("  {:?}", self.conns[id.0]);
            }
        }
        for (n, replica) in self.replicas.iter().enumerate() {
            println!("replica {n} at {:?}: {:?}", self.moment(n), replica.hub);
        }
    }

    /// Whose process handles an event.
    fn node_of(&self, event: &Event) -> Option<usize> {
        match event {
            Event::Up(conn, _) | Event::BreakUp(conn, _) | Event::Silence(conn, true) => {
                Some(self.of_replica(self.conns[conn.0].replica))
            }
            Event::Down(conn, _) | Event::BreakDown(conn) | Event::Silence(conn, false) => {
                Some(self.conns[conn.0].host)
            }
            Event::Connect(host)
            | Event::Lease(host, _)
            | Event::Drain(host)
            | Event::Arrive(host, _)
            | Event::TurnEnds(host, _) => Some(*host),
            Event::Tick(replica) => Some(self.of_replica(*replica)),
            _ => None,
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Up(conn, message) => self.up(conn, *message),
            Event::Down(conn, order) => self.down(conn, &order),
            Event::BreakUp(conn, ending) => self.break_up(conn, ending),
            Event::BreakDown(conn) => self.break_down(conn),
            Event::Silence(conn, at_replica) => self.silence(conn, at_replica),
            Event::Connect(host) => self.connect(host),
            Event::Lease(host, conn) => self.lease(host, conn),
            Event::Drain(host) => self.drain(host),
            Event::Call => self.call(),
            Event::Arrive(host, actor) => self.arrive(host, actor),
            Event::TurnEnds(host, turn) => self.turn_ends(host, turn),
            Event::Tick(replica) => self.tick(replica),
            Event::Elect => self.elect(),
            Event::Fault => self.fault(),
            Event::Heal(host, replica) => self.heal(host, replica),
            Event::Join(replica) => self.replicas[replica].isolated = false,
            Event::Rise(replica) => self.replicas[replica] = mk_replica(replica),
            Event::Restart(host) => {
                self.hosts[host].restart();
                self.connect(host);
            }
            Event::Behave(host) => self.hosts[host].acks = true,
        }
    }

    // === Network ===

    fn connect(&mut self, host: usize) {
        if !self.hosts[host].alive || self.hosts[host].conn.is_some() {
            return;
        }
        let replica = self.rng.random_range(0..self.replicas.len());
        let now = self.moment(replica);
        let frozen = self.frozen[self.of_replica(replica)] > self.now;
        let target = &mut self.replicas[replica];
        let opened = if target.alive && !frozen && !self.cut.get(&(host, replica)).copied().unwrap_or(false) {
            let speaks = Speaks {
                leases: true,
                changes: self.hosts[host].changes,
            };
            target.hub.open(now, Peer::Unknown, speaks).ok()
        } else {
            None
        };
        let Some(opened) = opened else {
            let pause = self.rng.random_range(50..400) * MS;
            return self.after(pause, Event::Connect(host));
        };
        let id = ConnId(self.conns.len());
        target.by_stream.insert(opened.id, id);
        self.conns.push(Conn {
            host,
            replica,
            stream: Some(opened.id),
            up: true,
            down: true,
            last_up: self.now,
            last_down: self.now,
            held_up: Vec::new(),
            held_down: Vec::new(),
        });
        self.hosts[host].conn = Some(id);
        let local = self.local(host);
        self.hosts[host].begin(local);
        let report = self.hosts[host].report();
        self.send_up(id, report);
        let pause = self.delay();
        self.after(pause, Event::Lease(host, id));
    }

    fn send_up(&mut self, id: ConnId, message: Message) {
        let delay = self.delay();
        let (host, replica) = (self.conns[id.0].host, self.conns[id.0].replica);
        let cut = self.is_cut(host, replica);
        let conn = &mut self.conns[id.0];
        if cut {
            return conn.held_up.push(message);
        }
        conn.last_up = conn.last_up.max(self.now + delay);
        let at = conn.last_up;
        self.at(at, Event::Up(id, Box::new(message)));
    }

    fn send_down(&mut self, id: ConnId, order: Bytes) {
        let delay = self.delay();
        let (host, replica) = (self.conns[id.0].host, self.conns[id.0].replica);
        let cut = self.is_cut(host, replica);
        let conn = &mut self.conns[id.0];
        if cut {
            return conn.held_down.push(order);
        }
        conn.last_down = conn.last_down.max(self.now + delay);
        let at = conn.last_down;
        self.at(at, Event::Down(id, order));
    }

    fn up(&mut self, id: ConnId, message: Message) {
        let (replica, stream) = (self.conns[id.0].replica, self.conns[id.0].stream);
        let now = self.moment(replica);
        let (Some(stream), true) = (stream, self.conns[id.0].up && self.replicas[replica].alive) else {
            return;
        };
        let mut effects = Vec::new();
        self.replicas[replica]
            .hub
            .message(now, stream, message, &mut effects);
        self.apply(replica, effects);
    }

    fn apply(&mut self, replica: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(stream, order) => {
                    let frame = order.frame();
                    self.report.rounds +=
                        u64::from(matches!(order, outrigger_placement::wire::Order::Lock(_)));
                    if let Some(id) = self.replicas[replica].by_stream.get(&stream).copied() {
                        self.send_down(id, frame);
                    }
                }
                Effect::Close(stream, _) => {
                    if let Some(id) = self.replicas[replica].by_stream.remove(&stream) {
                        self.conns[id.0].up = false;
                        self.tell_down(id);
                    }
                }
            }
        }
        self.plan_tick(replica);
    }

    fn plan_tick(&mut self, replica: usize) {
        let now = self.moment(replica);
        let rate = self.rates[self.of_replica(replica)];
        let Some(next) = self.replicas[replica].hub.next_deadline(now) else {
            return;
        };
        if next > now + Duration::from_secs(3600) {
            return;
        }
        let at = ((next.as_micros() as f64 / rate) as u64 + 1).max(self.now + MS);
        if self.replicas[replica].next_tick > at || self.replicas[replica].next_tick <= self.now {
            self.replicas[replica].next_tick = at;
            self.at(at, Event::Tick(replica));
        }
    }

    fn tick(&mut self, replica: usize) {
        let now = self.moment(replica);
        if !self.replicas[replica].alive {
            return;
        }
        self.replicas[replica].next_tick = 0;
        let mut effects = Vec::new();
        self.replicas[replica].hub.tick(now, &mut effects);
        self.apply(replica, effects);
    }

    /// The end of a stream travels to the host, if anything does.
    fn tell_down(&mut self, id: ConnId) {
        let (host, replica) = (self.conns[id.0].host, self.conns[id.0].replica);
        if self.is_cut(host, replica) {
            let pause = self.rng.random_range(2000..5000) * MS;
            return self.after(pause, Event::BreakDown(id));
        }
        let delay = self.delay();
        let at = self.conns[id.0].last_down.max(self.now + delay);
        self.conns[id.0].last_down = at;
        self.at(at, Event::BreakDown(id));
    }

    fn tell_up(&mut self, id: ConnId, ending: Ending) {
        let (host, replica) = (self.conns[id.0].host, self.conns[id.0].replica);
        if self.is_cut(host, replica) {
            let pause = self.rng.random_range(2000..5000) * MS;
            return self.after(pause, Event::BreakUp(id, Ending::Broken));
        }
        let delay = self.delay();
        let at = self.conns[id.0].last_up.max(self.now + delay);
        self.conns[id.0].last_up = at;
        self.at(at, Event::BreakUp(id, ending));
    }

    fn break_up(&mut self, id: ConnId, ending: Ending) {
        let (replica, stream) = (self.conns[id.0].replica, self.conns[id.0].stream);
        if !std::mem::replace(&mut self.conns[id.0].up, false) || !self.replicas[replica].alive {
            return;
        }
        if let Some(stream) = stream {
            let now = self.moment(replica);
            let mut effects = Vec::new();
            self.replicas[replica].by_stream.remove(&stream);
            self.replicas[replica]
                .hub
                .closed(now, stream, ending, &mut effects);
            self.apply(replica, effects);
        }
        self.tell_down(id);
    }

    fn break_down(&mut self, id: ConnId) {
        if !std::mem::replace(&mut self.conns[id.0].down, false) {
            return;
        }
        let host = self.conns[id.0].host;
        if self.hosts[host].conn == Some(id) {
            self.hosts[host].conn = None;
            let pause = self.rng.random_range(20..400) * MS;
            self.after(pause, Event::Connect(host));
        }
        self.tell_up(id, Ending::Broken);
    }

    /// Keepalive: the other side is cut off, dead or frozen still.
    fn silence(&mut self, id: ConnId, at_replica: bool) {
        let (host, replica) = (self.conns[id.0].host, self.conns[id.0].replica);
        let cut = self.is_cut(host, replica);
        if at_replica {
            let gone = !self.hosts[host].alive || self.frozen[host] > self.now;
            if cut || gone || self.hosts[host].conn != Some(id) {
                self.break_up(id, Ending::Broken);
            }
        } else if cut || !self.replicas[replica].alive || self.frozen[self.of_replica(replica)] > self.now {
            self.break_down(id);
        }
    }

    fn watch(&mut self, conns: &[ConnId]) {
        for id in conns {
            let (up, down) = (
                self.rng.random_range(2000..5000),
                self.rng.random_range(2000..5000),
            );
            self.after(up * MS, Event::Silence(*id, true));
            self.after(down * MS, Event::Silence(*id, false));
        }
    }

    fn conns_of(&self, host: Option<usize>, replica: Option<usize>) -> Vec<ConnId> {
        let fits = |conn: &Conn| {
            host.is_none_or(|host| conn.host == host)
                && replica.is_none_or(|replica| conn.replica == replica)
                && (conn.up || conn.down)
        };
        (0..self.conns.len())
            .filter(|n| fits(&self.conns[*n]))
            .map(ConnId)
            .collect()
    }

    fn heal(&mut self, host: usize, replica: usize) {
        self.cut.insert((host, replica), false);
        for id in self.conns_of(Some(host), Some(replica)) {
            for message in std::mem::take(&mut self.conns[id.0].held_up) {
                self.send_up(id, message);
            }
            for order in std::mem::take(&mut self.conns[id.0].held_down) {
                self.send_down(id, order);
            }
            // A side that gave up meanwhile resets the other now.
            if !self.conns[id.0].up {
                self.tell_down(id);
            }
            if !self.conns[id.0].down {
                self.tell_up(id, Ending::Broken);
            }
        }
    }

    // === Hosts ===

    fn down(&mut self, id: ConnId, order: &[u8]) {
        let host = self.conns[id.0].host;
        if !self.conns[id.0].down || self.hosts[host].conn != Some(id) || !self.hosts[host].alive {
            return;
        }
        let now = self.local(host);
        let mut acts = Vec::new();
        self.hosts[host].order(now, order, &mut acts);
        self.act(host, acts);
    }

    fn act(&mut self, host: usize, acts: Vec<Act>) {
        for act in acts {
            match (act, self.hosts[host].conn) {
                (Act::Send(message), Some(id)) => self.send_up(id, message),
                (Act::Send(_), None) => {}
                (Act::Wake(at), _) => {
                    let at = (at as f64 / self.rates[host]) as u64 + 1;
                    self.at(at, Event::Drain(host));
                }
                (Act::Leave, conn) => {
                    self.hosts[host].alive = false;
                    if let Some(id) = conn {
                        self.conns[id.0].down = false;
                        self.tell_up(id, Ending::InOrder);
                    }
                    let pause = self.rng.random_range(10..3000) * MS;
                    self.after(pause, Event::Restart(host));
                }
            }
        }
    }

    fn lease(&mut self, host: usize, id: ConnId) {
        if self.hosts[host].conn != Some(id) || !self.hosts[host].alive {
            return;
        }
        let now = self.local(host);
        self.hosts[host].notice(now);
        if std::mem::take(&mut self.hosts[host].void) {
            // What it held is lost: it begins again, as after any broken connection.
            return self.break_down(id);
        }
        let message = self.hosts[host].ask(now);
        self.send_up(id, message);
        self.after(SECOND, Event::Lease(host, id));
    }

    fn drain(&mut self, host: usize) {
        let now = self.local(host);
        let mut acts = Vec::new();
        self.hosts[host].drain(now, &mut acts);
        self.act(host, acts);
    }

    // === Calls ===

    fn any_actor(&mut self) -> Actor {
        (
            TYPES[self.rng.random_range(0..TYPES.len())],
            self.rng.random_range(0..ACTORS),
        )
    }

    fn call(&mut self) {
        let pause = self.rng.random_range(1..20) * MS;
        self.after(pause, Event::Call);
        let (caller, actor) = (self.rng.random_range(0..self.hosts.len()), self.any_actor());
        let owner = self.hosts[caller].locate(actor);
        if let Some(owner) = owner.and_then(|name| self.hosts.iter().position(|host| host.name == name)) {
            let delay = self.delay();
            self.after(delay, Event::Arrive(owner, actor));
        }
    }

    fn arrive(&mut self, host: usize, actor: Actor) {
        let now = self.local(host);
        self.hosts[host].notice(now);
        let busy = self.hosts[host].turns.values().any(|turn| turn.actor == actor);
        if busy || !self.hosts[host].may_act(now, actor) {
            return;
        }
        for (other, them) in self.hosts.iter().enumerate() {
            // A frozen process whose lease is over cannot act: it will notice before it does.
            let acts = them.alive && them.lease_runs(self.local(other));
            if other != host && acts && them.turns.values().any(|turn| turn.actor == actor) {
                let text = format!(
                    "{}: {actor:?} has a turn on host {host} and on host {other}",
                    self.now
                );
                self.report.violations.push(text);
            }
        }
        let read = self.store.get(&actor).copied().unwrap_or(0);
        self.next_turn += 1;
        let id = self.next_turn;
        self.hosts[host].turns.insert(id, Turn { actor, read });
        let long = self.rng.random_range(0..10) == 0;
        let length = self.rng.random_range(1..if long { 4000 } else { 100 });
        self.after(length * MS, Event::TurnEnds(host, id));
    }

    fn turn_ends(&mut self, host: usize, id: u64) {
        let now = self.local(host);
        self.hosts[host].notice(now);
        // Cut off, or lost with its host: the caller was told nothing and tries again.
        let Some(turn) = self.hosts[host].turns.remove(&id) else {
            return;
        };
        let stored = self.store.entry(turn.actor).or_default();
        if *stored != turn.read {
            let text = format!(
                "{}: {:?} on host {host}: another turn wrote in between",
                self.now, turn.actor
            );
            self.report.violations.push(text);
        }
        *stored = turn.read + 1;
        self.report.committed += 1;
        self.report.acknowledged += 1;
        let mut acts = Vec::new();
        self.hosts[host].drain(now, &mut acts);
        self.act(host, acts);
    }

    fn check_reachable(&mut self) {
        // Whether told of tables or of changes, all have come to know the same.
        let known: Vec<_> = self.hosts.iter().map(Host::known).collect();
        if known.windows(2).any(|pair| pair[0] != pair[1]) {
            self.report
                .violations
                .push(format!("hosts know different tables: {known:?}"));
        }
        for (caller, name) in (0..self.hosts.len()).flat_map(|caller| TYPES.map(|name| (caller, name))) {
            if !self
                .hosts
                .iter()
                .any(|host| host.types.iter().any(|hosted| hosted == name))
            {
                continue;
            }
            for actor in (0..ACTORS).map(|n| (name, n)) {
                let owner = self.hosts[caller].locate(actor);
                let owner = owner.and_then(|name| self.hosts.iter().position(|host| host.name == name));
                let reachable =
                    owner.is_some_and(|owner| self.hosts[owner].may_act(self.local(owner), actor));
                if !reachable {
                    let text = format!(
                        "{actor:?} cannot be reached from host {caller}; its owner there is {owner:?}"
                    );
                    self.report.violations.push(text);
                }
            }
        }
    }

    // === Leadership: what Raft promises, no more ===

    fn fit(&self, replica: usize) -> bool {
        let them = &self.replicas[replica];
        them.alive && !them.isolated && self.frozen[self.of_replica(replica)] <= self.now
    }

    fn elect(&mut self) {
        let mut pause = 130 * MS;
        match self.leader {
            Some((replica, epoch)) if self.fit(replica) => {
                let now = self.moment(replica);
                self.leads_until = self.now + 850 * MS;
                self.replicas[replica]
                    .hub
                    .lead(now, epoch, now + Duration::from_millis(780));
                self.plan_tick(replica);
            }
            _ if self.now >= self.leads_until => {
                let fit: Vec<usize> = (0..self.replicas.len())
                    .filter(|replica| self.fit(*replica))
                    .collect();
                if !fit.is_empty() {
                    let chosen = fit[self.rng.random_range(0..fit.len())];
                    // The time of day jumps to and fro.
                    let today = 1_000_000 + self.rng.random_range(0..100_000);
                    self.epoch = today.max(self.epoch + 1);
                    self.leader = Some((chosen, self.epoch));
                    self.report.leaders += 1;
                    pause = self.rng.random_range(1..900) * MS;
                }
            }
            _ => {}
        }
        self.after(pause, Event::Elect);
    }

    // === Faults ===

    fn fault(&mut self) {
        if self.now >= FAULTS_END {
            return;
        }
        let pause = self.rng.random_range(100..4000) * MS;
        self.after(pause, Event::Fault);
        let host = self.rng.random_range(0..self.hosts.len());
        let replica = self.rng.random_range(0..self.replicas.len());
        let length = self.rng.random_range(50..10_000) * MS;
        let length = length.min(FAULTS_END - self.now);
        match self.rng.random_range(0..9) {
            0 | 1 => self.partition(host, replica, length),
            2 => (0..self.replicas.len()).for_each(|replica| self.partition(host, replica, length)),
            3 => {
                self.replicas[replica].isolated = true;
                self.after(length, Event::Join(replica));
            }
            4 => self.freeze(host, length, self.conns_of(Some(host), None)),
            5 => self.freeze(
                self.of_replica(replica),
                length,
                self.conns_of(None, Some(replica)),
            ),
            6 => self.crash_host(host, length / 3),
            7 => self.crash_replica(replica, length / 3),
            _ => self.misbehave(host, length),
        }
    }

    fn partition(&mut self, host: usize, replica: usize, length: u64) {
        self.cut.insert((host, replica), true);
        let conns = self.conns_of(Some(host), Some(replica));
        self.watch(&conns);
        self.after(length, Event::Heal(host, replica));
    }

    fn freeze(&mut self, node: usize, length: u64, conns: Vec<ConnId>) {
        self.frozen[node] = self.frozen[node].max(self.now + length);
        self.watch(&conns);
    }

    fn crash_host(&mut self, host: usize, length: u64) {
        if !self.hosts[host].alive || self.frozen[host] > self.now {
            return;
        }
        self.hosts[host].alive = false;
        self.hosts[host].turns.clear();
        let silent = self.rng.random_range(0..2) == 0;
        for id in self.conns_of(Some(host), None) {
            self.conns[id.0].down = false;
            if silent {
                self.watch(&[id]);
            } else {
                self.tell_up(id, Ending::Broken);
            }
        }
        self.after(length, Event::Restart(host));
    }

    fn crash_replica(&mut self, replica: usize, length: u64) {
        if !self.replicas[replica].alive || self.frozen[self.of_replica(replica)] > self.now {
            return;
        }
        self.replicas[replica].alive = false;
        if self.leader.is_some_and(|(leader, _)| leader == replica) {
            self.leader = None;
        }
        for id in self.conns_of(None, Some(replica)) {
            self.conns[id.0].up = false;
            self.tell_down(id);
        }
        self.after(length.max(MS), Event::Rise(replica));
    }

    fn misbehave(&mut self, host: usize, length: u64) {
        if !self.hosts[host].alive || self.hosts[host].leaving {
            return;
        }
        match self.rng.random_range(0..4) {
            0 => {
                self.hosts[host].acks = false;
                return self.after(length, Event::Behave(host));
            }
            3 => return self.hang_up(host),
            1 if self.hosts[host].conn.is_some() => self.hosts[host].leaving = true,
            _ => {
                let count = self.rng.random_range(1..=3);
                self.hosts[host].types = TYPES[..count].iter().map(|&name| name.to_owned()).collect();
            }
        }
        let report = self.hosts[host].report();
        if let Some(id) = self.hosts[host].conn {
            self.send_up(id, report);
        }
    }

    /// A client library closes its side of the stream after an error, though the host goes on under its lease.
    fn hang_up(&mut self, host: usize) {
        let Some(id) = self.hosts[host].conn.take() else {
            return;
        };
        self.conns[id.0].down = false;
        self.tell_up(id, Ending::InOrder);
        let pause = self.rng.random_range(20..2000) * MS;
        self.after(pause, Event::Connect(host));
    }
}

fn mk_replica(number: usize) -> Replica {
    let settings = Settings {
        replication_factor: 10,
        lease: Duration::from_micros(LEASE),
        ..Settings::default()
    };
    Replica {
        hub: Hub::new(format!("p{number}"), settings),
        alive: true,
        isolated: false,
        by_stream: BTreeMap::new(),
        next_tick: 0,
    }
}
