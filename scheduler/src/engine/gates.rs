//! How many triggers of a kind may be under way at a time (contract `scheduler`, section 5, concurrency limits).
//!
//! A limit holds for the whole cluster; each replica keeps to its share of it.

use std::collections::{HashMap, VecDeque};

use super::Share;
use super::entry::Ticket;

/// Place of a gate.
pub(crate) type GateId = u32;
/// More jobs than this do not wait at a gate; their trigger counts as failed.
const LONGEST_QUEUE: usize = 100_000;

/// A limit as a stream states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Namespace of the stream.
    pub namespace: String,
    /// Actor type, and the concurrency key if the limit is for one alone: `<type>` or `<type>:<name>`.
    pub key: String,
    /// Triggers under way in the whole cluster.
    pub max: u32,
}

/// A limit that holds here.
#[derive(Debug)]
pub(crate) struct Gate {
    name: (String, String),
    max: u32,
    /// Streams that state it.
    streams: usize,
    pub(crate) under_way: u32,
    pub(crate) queue: VecDeque<Ticket>,
}

/// All limits. One that nobody states any more keeps its place, since triggers may still be under way.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    list: Vec<Gate>,
    by_name: HashMap<(String, String), GateId>,
    /// How many are stated.
    stated: usize,
}

impl Gates {
    /// The label of metrics.
    pub(crate) fn key(&self, gate: GateId) -> &str {
        &self.list[gate as usize].name.1
    }

    pub(crate) fn get_mut(&mut self, gate: GateId) -> &mut Gate {
        &mut self.list[gate as usize]
    }

    /// A stream states a limit; the newest statement holds.
    pub(crate) fn state(&mut self, limit: Limit) -> GateId {
        let name = (limit.namespace, limit.key);
        if let Some(id) = self.by_name.get(&name) {
            let gate = &mut self.list[*id as usize];
            self.stated += usize::from(gate.streams == 0);
            gate.max = limit.max;
            gate.streams += 1;
            return *id;
        }
        let gate = Gate {
            name: name.clone(),
            max: limit.max,
            streams: 1,
            under_way: 0,
            queue: VecDeque::new(),
        };
        self.list.push(gate);
        self.stated += 1;
        let id = GateId::try_from(self.list.len() - 1).unwrap_or(GateId::MAX);
        self.by_name.insert(name, id);
        id
    }

    /// A stream that stated a limit is gone. The last one takes the limit with it; who waited is returned.
    pub(crate) fn withdraw(&mut self, id: GateId) -> VecDeque<Ticket> {
        let gate = &mut self.list[id as usize];
        gate.streams = gate.streams.saturating_sub(1);
        if gate.streams > 0 {
            return VecDeque::new();
        }
        self.stated -= 1;
        std::mem::take(&mut gate.queue)
    }

    /// The gates of a job: of its actor type, and of its type and concurrency key.
    pub(crate) fn of(&self, route: &str, concurrency_key: Option<&str>) -> [Option<GateId>; 2] {
        if self.stated == 0 {
            return [None, None];
        }
        let mut parts = route.splitn(3, "||");
        let (Some("actorreminder"), Some(namespace), Some(rest)) = (parts.next(), parts.next(), parts.next())
        else {
            return [None, None];
        };
        let actor_type = rest.strip_suffix("||").unwrap_or(rest);
        let find = |key: String| {
            let id = self.by_name.get(&(namespace.to_owned(), key)).copied()?;
            (self.list[id as usize].streams > 0).then_some(id)
        };
        [
            find(actor_type.to_owned()),
            concurrency_key.and_then(|name| find(format!("{actor_type}:{name}"))),
        ]
    }

    /// The first of the gates that is full.
    pub(crate) fn full(&self, gates: [Option<GateId>; 2], share: Share) -> Option<GateId> {
        gates
            .into_iter()
            .flatten()
            .find(|id| self.list[*id as usize].under_way >= share.of(self.list[*id as usize].max))
    }

    /// Lets a job wait; whether there is room for it.
    pub(crate) fn wait(&mut self, gate: GateId, ticket: Ticket) -> bool {
        let queue = &mut self.list[gate as usize].queue;
        if queue.len() >= LONGEST_QUEUE {
            return false;
        }
        queue.push_back(ticket);
        true
    }
}
