//! Who owns an actor as of now: the table in force, the one that is about to be, and whether this sidecar may act at all.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrigger_ring::{Host, Tables};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::seams::Heard;

/// How long this sidecar may act on what it was last told.
#[derive(Debug, Clone)]
pub(crate) enum Lease {
    /// Until then, unless it is renewed.
    Granted { until: Instant },
    /// For so long from the last word.
    Paced { heard: Heard, length: Duration },
}

impl Lease {
    /// When it ends as of now.
    pub(crate) fn end(&self) -> Instant {
        match self {
            Self::Granted { until } => *until,
            Self::Paced { heard, length } => heard.last() + *length,
        }
    }
}

/// The tables and the lease.
pub(crate) struct Routing {
    own_address: Box<str>,
    state: Mutex<State>,
    /// Counts changes; wakes whoever waits for one.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
pub(crate) struct State {
    /// In force since the last `unlock`.
    pub(crate) current: Option<Arc<Tables>>,
    /// Of an `update` that was not unlocked yet.
    pub(crate) pending: Option<Arc<Tables>>,
    lease: Option<Lease>,
    closed: bool,
}

/// What the tables say of one actor.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// It is this sidecar's.
    Own,
    /// It is another one's.
    Other(Arc<Host>),
    /// Nobody hosts the type.
    Nobody,
    /// It moves, or nothing is known: wait for a change.
    Unsettled,
    /// There will be no change any more.
    Closed,
}

impl Routing {
    pub(crate) fn new(own_address: &str) -> Self {
        Self {
            own_address: own_address.into(),
            state: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told of every change from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Wakes those who wait.
    pub(crate) fn announce(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Whether an address is this sidecar's own.
    pub(crate) fn is_own(&self, address: &str) -> bool {
        if address == &*self.own_address {
            return true;
        }
        let (Some((own_host, own_port)), Some((host, port))) =
            (self.own_address.rsplit_once(':'), address.rsplit_once(':'))
        else {
            return false;
        };
        own_port == port && is_loopback_name(own_host) && is_loopback_name(host)
    }

    /// Who owns an actor. The caller holds the state, so that what it does about the answer happens before the next
    /// change.
    pub(crate) fn whose(&self, state: &State, actor_type: &str, id: &str) -> Whose {
        if state.closed {
            return Whose::Closed;
        }
        let Some(current) = &state.current else {
            return Whose::Unsettled;
        };
        let owner = current.owner(actor_type, id);
        if let Some(pending) = &state.pending
            && pending.owner(actor_type, id).map(|host| &host.address) != owner.map(|host| &host.address)
        {
            return Whose::Unsettled;
        }
        match owner {
            None => Whose::Nobody,
            // Without a lease nothing may be done here; the session notices by itself.
            Some(host) if self.is_own(&host.address) => {
                if state.may_act() {
                    Whose::Own
                } else {
                    Whose::Unsettled
                }
            }
            Some(host) => Whose::Other(Arc::clone(host)),
        }
    }

    /// Whether this sidecar may act for an actor that it found to be its own before.
    pub(crate) fn may_act(&self) -> bool {
        let state = self.state();
        state.current.is_some() && state.may_act()
    }

    /// Whether a lease is set and over.
    pub(crate) fn is_lease_over(&self) -> bool {
        !self.state().may_act()
    }

    /// From now on the lease is this one.
    pub(crate) fn set_lease(&self, lease: Option<Lease>) {
        self.state().lease = lease;
    }

    /// The stream is gone: nothing is known any more. Returns the end of the lease, if there was one.
    pub(crate) fn forget(&self) -> Option<Instant> {
        let mut state = self.state();
        state.current = None;
        state.pending = None;
        let end = state.lease.take().map(|lease| lease.end());
        drop(state);
        self.announce();
        end
    }

    /// Ends all waiting.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.announce();
    }
}

impl State {
    fn may_act(&self) -> bool {
        self.lease
            .as_ref()
            .is_none_or(|lease| Instant::now() < lease.end())
    }

    /// The newest table, in force or not.
    pub(crate) fn newest(&self) -> Option<&Arc<Tables>> {
        self.pending.as_ref().or(self.current.as_ref())
    }
}

fn is_loopback_name(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "[::1]" | "::1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(version: u64, hosts: &[&str]) -> Arc<Tables> {
        let hosts = hosts.iter().map(|name| Host {
            key: (*name).into(),
            address: (*name).into(),
            app_id: "app".into(),
            port: 0,
        });
        let entries = [("T".into(), hosts.collect::<Vec<_>>())];
        Arc::new(Tables::build(version, 100, entries, &Tables::default()).unwrap())
    }

    #[test]
    fn only_actors_that_move_wait_for_the_unlock() {
        let routing = Routing::new("a:1");
        let mut state = routing.state();
        assert_eq!(routing.whose(&state, "T", "x"), Whose::Unsettled);
        state.current = Some(tables(1, &["a:1"]));
        assert_eq!(routing.whose(&state, "T", "x"), Whose::Own);
        assert_eq!(routing.whose(&state, "U", "x"), Whose::Nobody);
        let new = tables(2, &["a:1", "b:1"]);
        state.pending = Some(new.clone());
        for id in 0..100 {
            let id = id.to_string();
            let stays = &*new.owner("T", &id).unwrap().address == "a:1";
            let expected = if stays { Whose::Own } else { Whose::Unsettled };
            assert_eq!(routing.whose(&state, "T", &id), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_word_from_the_service_nothing_is_own() {
        let routing = Routing::new("a:1");
        routing.state().current = Some(tables(1, &["a:1"]));
        let heard = Heard::default();
        routing.set_lease(Some(Lease::Paced {
            heard: heard.clone(),
            length: Duration::from_secs(3),
        }));
        let whose = || routing.whose(&routing.state(), "T", "x");
        tokio::time::advance(Duration::from_millis(2900)).await;
        assert_eq!(whose(), Whose::Own);
        heard.now();
        tokio::time::advance(Duration::from_millis(2900)).await;
        assert_eq!(whose(), Whose::Own);
        tokio::time::advance(Duration::from_millis(200)).await;
        assert_eq!(whose(), Whose::Unsettled);
        assert!(!routing.may_act());
    }

    #[test]
    fn loopback_names_are_one_host() {
        let routing = Routing::new("127.0.0.1:50002");
        assert!(routing.is_own("localhost:50002"));
        assert!(routing.is_own("[::1]:50002"));
        assert!(!routing.is_own("localhost:50003"));
        assert!(!routing.is_own("10.0.0.1:50002"));
        assert!(!Routing::new("10.0.0.1:50002").is_own("localhost:50002"));
    }
}
