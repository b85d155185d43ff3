//! Who takes which jobs: streams of sidecars, and the queues of jobs that are due while no stream has room.

use std::collections::{HashMap, VecDeque};

use super::entry::Ticket;
use super::gates::GateId;
use crate::names::Kind;

/// A stream of a sidecar; never used twice.
pub type StreamId = u64;

/// A trigger that a stream has not answered yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    pub(crate) ticket: Ticket,
    pub(crate) gates: [Option<GateId>; 2],
    /// When it was handed to the stream.
    pub(crate) since: super::Nanos,
}

/// A stream with room for so many unanswered triggers.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) routes: Vec<u32>,
    pub(crate) gates: Vec<GateId>,
    pub(crate) pending: HashMap<u64, Pending>,
    pub(crate) last_id: u64,
    pub(crate) capacity: usize,
}

/// A class of jobs with the same receivers.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) name: Box<str>,
    pub(crate) kind: Kind,
    pub(crate) streams: Vec<StreamId>,
    next: usize,
    pub(crate) waiting: VecDeque<Ticket>,
    pub(crate) jobs: usize,
}

/// Routes and streams.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    list: Vec<Route>,
    free: Vec<u32>,
    by_name: HashMap<Box<str>, u32>,
    pub(crate) streams: HashMap<StreamId, Stream>,
}

impl Routes {
    pub(crate) fn get(&self, route: u32) -> &Route {
        &self.list[route as usize]
    }

    pub(crate) fn get_mut(&mut self, route: u32) -> &mut Route {
        &mut self.list[route as usize]
    }

    /// The route of this name, made if need be. Give it back with [`Self::release`] once nothing uses it.
    pub(crate) fn find_or_add(&mut self, kind: Kind, name: &str) -> u32 {
        if let Some(route) = self.by_name.get(name) {
            return *route;
        }
        let route = Route {
            name: name.into(),
            kind,
            streams: Vec::new(),
            next: 0,
            waiting: VecDeque::new(),
            jobs: 0,
        };
        let at = match self.free.pop() {
            Some(at) => {
                *self.get_mut(at) = route;
                at
            }
            None => {
                self.list.push(route);
                u32::try_from(self.list.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.by_name.insert(name.into(), at);
        at
    }

    /// Drops a route that neither jobs nor streams use.
    pub(crate) fn release(&mut self, route: u32) {
        let Self {
            list, by_name, free, ..
        } = self;
        let unused = &mut list[route as usize];
        if unused.jobs == 0 && unused.streams.is_empty() && by_name.remove(&unused.name).is_some() {
            unused.waiting = VecDeque::new();
            free.push(route);
        }
    }

    /// The next stream of a route, in turn, that has room.
    pub(crate) fn pick(&mut self, route: u32) -> Option<StreamId> {
        let Self { list, streams, .. } = self;
        let route = &mut list[route as usize];
        for _ in 0..route.streams.len() {
            route.next = (route.next + 1) % route.streams.len();
            let id = route.streams[route.next];
            if streams
                .get(&id)
                .is_some_and(|stream| stream.pending.len() < stream.capacity)
            {
                return Some(id);
            }
        }
        None
    }

    /// Adds a stream to routes.
    pub(crate) fn connect(&mut self, id: StreamId, stream: Stream) {
        for route in &stream.routes {
            self.list[*route as usize].streams.push(id);
        }
        self.streams.insert(id, stream);
    }

    /// Takes a stream off its routes.
    pub(crate) fn disconnect(&mut self, id: StreamId) -> Option<Stream> {
        let stream = self.streams.remove(&id)?;
        for route in &stream.routes {
            self.list[*route as usize].streams.retain(|other| *other != id);
        }
        Some(stream)
    }
}
