//! All namespaces of the service, and whether it may serve at all.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use outrigger_proto::placement::v1::Host;

use crate::authorise::{self, Peer};
use crate::namespace::{Effect, Ending, Namespace};
use crate::status::{Code, Status};
use crate::{Moment, Settings, Speaks, StreamId};

/// Most streams at once.
const MAX_STREAMS: usize = 50_000;
/// Most namespaces at once. With mTLS they are those of certificates; without, anybody may name one.
const MAX_NAMESPACES: usize = 10_000;

/// Whether this replica serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Follower,
    Leader {
        since: Moment,
        epoch: u64,
        /// The others cannot have chosen another leader before.
        until: Moment,
    },
    Stopped,
}

/// What a stream is told when it opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Its name from now on.
    pub id: StreamId,
    /// Greater for every later leader.
    pub epoch: u64,
}

/// A stream whose sidecar is known or is about to be.
#[derive(Debug)]
struct Known {
    peer: Peer,
    speaks: Speaks,
    /// Set by the first message.
    namespace: Option<Arc<str>>,
}

/// Sidecars of one namespace, for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// The namespace.
    pub namespace: Arc<str>,
    /// Connected sidecars.
    pub runtimes: usize,
    /// Those that host actors.
    pub actor_runtimes: usize,
}

/// One namespace, for the state page.
#[derive(Clone, Debug)]
pub struct NamespaceState {
    /// Its name.
    pub name: Arc<str>,
    /// Hosts of actors, by name.
    pub hosts: Vec<Host>,
    /// Of the last round.
    pub version: u64,
}

/// All namespaces of the service. The time must never go back between calls.
#[derive(Debug)]
pub struct Hub {
    /// Of this replica, for messages.
    id: String,
    settings: Arc<Settings>,
    standing: Standing,
    namespaces: BTreeMap<Arc<str>, Namespace>,
    /// Of namespaces that are empty now: the last version, where versions must not repeat under one epoch, and until when
    /// leases of sidecars that left may run.
    retired: HashMap<Arc<str>, (u64, Moment)>,
    streams: BTreeMap<StreamId, Known>,
    next_stream: u64,
}

impl Hub {
    /// A follower without streams.
    #[must_use]
    pub fn new(id: impl Into<String>, settings: Settings) -> Self {
        Self {
            id: id.into(),
            settings: Arc::new(settings),
            standing: Standing::Follower,
            namespaces: BTreeMap::new(),
            retired: HashMap::new(),
            streams: BTreeMap::new(),
            next_stream: 0,
        }
    }

    /// This replica leads from now on, at least until `until`; told again, only that changes.
    pub fn lead(&mut self, now: Moment, epoch: u64, until: Moment) {
        match &mut self.standing {
            Standing::Leader {
                epoch: known,
                until: end,
                ..
            } if *known == epoch => *end = until.max(*end),
            Standing::Stopped => {}
            _ => {
                self.standing = Standing::Leader {
                    since: now,
                    epoch,
                    until,
                }
            }
        }
    }

    /// Another replica leads, or may: every stream ends.
    pub fn follow(&mut self, fx: &mut Vec<Effect>) {
        if matches!(self.standing, Standing::Leader { .. }) {
            self.standing = Standing::Follower;
            let status = Status::not_leader(&self.id);
            self.end_all(&status, fx);
        }
    }

    /// The service stops: every stream ends, no new one begins.
    pub fn stop(&mut self, fx: &mut Vec<Effect>) {
        self.standing = Standing::Stopped;
        self.end_all(&Status::stopping(), fx);
    }

    fn end_all(&mut self, status: &Status, fx: &mut Vec<Effect>) {
        fx.extend(self.streams.keys().map(|id| Effect::Close(*id, status.clone())));
        self.streams.clear();
        self.namespaces.clear();
        self.retired.clear();
    }

    /// Whether it serves.
    #[must_use]
    pub fn leads(&self, now: Moment) -> bool {
        self.serving(now).is_ok()
    }

    fn serving(&self, now: Moment) -> Result<(Moment, u64), Status> {
        match self.standing {
            Standing::Leader { since, epoch, until } if now < until => Ok((since, epoch)),
            Standing::Stopped => Err(Status::stopping()),
            Standing::Leader { .. } | Standing::Follower => Err(Status::not_leader(&self.id)),
        }
    }

    /// A stream begins.
    ///
    /// # Errors
    /// The status that it ends with at once.
    pub fn open(&mut self, now: Moment, peer: Peer, speaks: Speaks) -> Result<Opened, Status> {
        let (_, epoch) = self.serving(now)?;
        if self.streams.len() >= MAX_STREAMS {
            return Err(Status::new(
                Code::ResourceExhausted,
                format!("more than {MAX_STREAMS} sidecars are connected to this placement service"),
            ));
        }
        self.next_stream += 1;
        let id = StreamId(self.next_stream);
        let known = Known {
            peer,
            speaks,
            namespace: None,
        };
        self.streams.insert(id, known);
        Ok(Opened { id, epoch })
    }

    /// A message of an open stream. A message that is refused ends the stream.
    pub fn message(&mut self, now: Moment, id: StreamId, host: Host, fx: &mut Vec<Effect>) {
        let before = fx.len();
        if let Err(status) = self.try_message(now, id, host, fx) {
            self.closed(now, id, Ending::Broken, fx);
            fx.push(Effect::Close(id, status));
        }
        self.forget_closed(&fx[before..]);
    }

    /// Streams that a namespace ended are nobody's any more.
    fn forget_closed(&mut self, effects: &[Effect]) {
        for effect in effects {
            if let Effect::Close(id, _) = effect {
                self.streams.remove(id);
            }
        }
    }

    fn try_message(
        &mut self,
        now: Moment,
        id: StreamId,
        host: Host,
        fx: &mut Vec<Effect>,
    ) -> Result<(), Status> {
        let (since, _) = self.serving(now)?;
        let Some(known) = self.streams.get_mut(&id) else {
            // It was closed while this message was on its way.
            return Ok(());
        };
        authorise::check(&known.peer, &host)?;
        if let Some(name) = &known.namespace {
            if let Some(namespace) = self.namespaces.get_mut(name) {
                namespace.message(now, id, host, fx);
            }
            return Ok(());
        }
        let name: Arc<str> = Arc::from(host.namespace.as_str());
        if !self.namespaces.contains_key(&name) {
            if self.namespaces.len() >= MAX_NAMESPACES {
                return Err(Status::new(
                    Code::ResourceExhausted,
                    format!(
                        "more than {MAX_NAMESPACES} namespaces have sidecars connected to this placement service"
                    ),
                ));
            }
            let (version, held_until) = self.retired.remove(&name).unwrap_or_default();
            let hold_until = held_until.max(since + self.settings.lease_margin());
            let namespace = Namespace::new(Arc::clone(&self.settings), hold_until, version);
            self.namespaces.insert(Arc::clone(&name), namespace);
        }
        known.namespace = Some(Arc::clone(&name));
        if let Some(namespace) = self.namespaces.get_mut(&name) {
            namespace.connect(now, id, host, known.speaks, fx);
        }
        Ok(())
    }

    /// A stream ended.
    pub fn closed(&mut self, now: Moment, id: StreamId, ending: Ending, fx: &mut Vec<Effect>) {
        let Some(name) = self.streams.remove(&id).and_then(|known| known.namespace) else {
            return;
        };
        if let Some(namespace) = self.namespaces.get_mut(&name) {
            namespace.closed(now, id, ending, fx);
        }
        self.retire(&name);
    }

    /// Forgets a namespace that has nobody left.
    fn retire(&mut self, name: &Arc<str>) {
        if self.namespaces.get(name).is_some_and(Namespace::is_empty)
            && let Some(namespace) = self.namespaces.remove(name)
            && (namespace.last_version() > 0 || namespace.is_leased())
        {
            let last = (namespace.last_version(), namespace.hold_until());
            self.retired.insert(Arc::clone(name), last);
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Moment, fx: &mut Vec<Effect>) {
        match self.standing {
            Standing::Leader { until, .. } if until <= now => return self.follow(fx),
            Standing::Leader { .. } => {}
            Standing::Follower | Standing::Stopped => return,
        }
        let before = fx.len();
        let due: Vec<Arc<str>> = self
            .namespaces
            .iter()
            .filter(|(_, namespace)| namespace.next_deadline(now).is_some_and(|at| at <= now))
            .map(|(name, _)| Arc::clone(name))
            .collect();
        for name in due {
            if let Some(namespace) = self.namespaces.get_mut(&name) {
                namespace.tick(now, fx);
            }
            self.retire(&name);
        }
        self.forget_closed(&fx[before..]);
    }

    /// When to call [`Hub::tick`] at the latest.
    #[must_use]
    pub fn next_deadline(&self, now: Moment) -> Option<Moment> {
        let namespaces = self
            .namespaces
            .values()
            .filter_map(|namespace| namespace.next_deadline(now));
        let leadership = match self.standing {
            Standing::Leader { until, .. } => Some(until),
            Standing::Follower | Standing::Stopped => None,
        };
        namespaces.chain(leadership).min()
    }

    /// How many sidecars each namespace has.
    #[must_use]
    pub fn counts(&self) -> Vec<Counts> {
        let of = |(name, namespace): (&Arc<str>, &Namespace)| {
            let (runtimes, actor_runtimes) = namespace.counts();
            Counts {
                namespace: Arc::clone(name),
                runtimes,
                actor_runtimes,
            }
        };
        self.namespaces.iter().map(of).collect()
    }

    /// Hosts and version of every namespace, for the state page; `None` on a follower.
    #[must_use]
    pub fn state(&self, now: Moment) -> Option<Vec<NamespaceState>> {
        self.serving(now).ok()?;
        let of = |(name, namespace): (&Arc<str>, &Namespace)| {
            let (hosts, version) = namespace.state();
            NamespaceState {
                name: Arc::clone(name),
                hosts,
                version,
            }
        };
        Some(self.namespaces.iter().map(of).collect())
    }
}
