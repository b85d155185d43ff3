//! Who owns an actor as of now: the table in force, the one that is about to be, and whether this sidecar may act at all.

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrigger_ring::{Host, Table, Tables};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::seams::{Heard, LeaseTerms};

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

/// Orders the tables of all leaders: the leader's epoch, then its version. Written `epoch.version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp {
    pub(crate) epoch: u64,
    pub(crate) version: u64,
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.version)
    }
}

impl FromStr for Stamp {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (epoch, version) = text.split_once('.').ok_or(())?;
        match (epoch.parse(), version.parse()) {
            (Ok(epoch), Ok(version)) => Ok(Self { epoch, version }),
            _ => Err(()),
        }
    }
}

/// Which table last changed the hosts of a type, as far as is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) stamp: Stamp,
    /// How often all tables have been forgotten before.
    pub(crate) life: u64,
}

/// What the fence of a type has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FenceView {
    /// The placement service has no epochs: there are no fences.
    Unfenced,
    /// It has, but there is no table in force, or none with this type.
    Unknown,
    /// The row must not be older than `mark`, and is not newer than `newest` unless others know more.
    Known { mark: Mark, newest: Stamp },
}

impl FenceView {
    /// Whether what was found at `held` still counts. Without a table it does: what was begun may end by it.
    pub(crate) fn is_settled_by(self, held: Mark) -> bool {
        match self {
            Self::Unfenced => false,
            Self::Unknown => true,
            Self::Known { mark, .. } => mark == held,
        }
    }
}

/// A table and what it follows.
pub(crate) struct Known {
    tables: Arc<Tables>,
    stamp: Option<Stamp>,
    marks: HashMap<Box<str>, Mark>,
}

impl Known {
    /// `epoch`: of the leader that sent it; `previous`: the one before, if nothing was forgotten in between.
    pub(crate) fn new(tables: Arc<Tables>, epoch: Option<u64>, previous: Option<&Self>, life: u64) -> Self {
        let version = tables.version();
        let stamp = epoch.map(|epoch| Stamp { epoch, version });
        let mark_of = |(name, table): (&str, &Arc<Table>)| {
            let unchanged = previous.filter(|previous| {
                let before = previous.tables.table(name);
                before.is_some_and(|before| Arc::ptr_eq(before, table) || before == table)
            });
            let known = unchanged.and_then(|previous| previous.marks.get(name)).copied();
            let mark = known.or(stamp.map(|stamp| Mark { stamp, life }))?;
            Some((name.into(), mark))
        };
        let marks = match stamp {
            Some(_) => tables.iter().filter_map(mark_of).collect(),
            None => HashMap::new(),
        };
        Self { tables, stamp, marks }
    }

    /// The table alone.
    pub(crate) fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }
}

impl Deref for Known {
    type Target = Tables;

    fn deref(&self) -> &Tables {
        &self.tables
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
    pub(crate) current: Option<Arc<Known>>,
    /// Of an `update` that was not unlocked yet.
    pub(crate) pending: Option<Arc<Known>>,
    lease: Option<Lease>,
    /// Of the stream that there is, or was last.
    terms: Option<LeaseTerms>,
    /// How often all tables have been forgotten.
    life: u64,
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

    /// A stream was accepted on these terms.
    pub(crate) fn set_terms(&self, terms: Option<LeaseTerms>) {
        self.state().terms = terms;
    }

    /// After how long a lease that was running is over by any clock.
    pub(crate) fn lease_margin(&self) -> Duration {
        let length = self.state().terms.map_or(Duration::ZERO, |terms| terms.length);
        length + length / 8
    }

    /// What the fence of a type has to say.
    pub(crate) fn fence(&self, actor_type: &str) -> FenceView {
        let state = self.state();
        if state.terms.and_then(|terms| terms.epoch).is_none() {
            return FenceView::Unfenced;
        }
        let mark = state
            .current
            .as_ref()
            .and_then(|current| current.marks.get(actor_type));
        match (mark, state.newest().and_then(|newest| newest.stamp)) {
            (Some(mark), Some(newest)) => FenceView::Known { mark: *mark, newest },
            _ => FenceView::Unknown,
        }
    }

    /// `update`: the next table. From here on nobody begins an actor that moves.
    pub(crate) fn set_pending(&self, tables: Arc<Tables>) {
        let mut state = self.state();
        let epoch = state.terms.and_then(|terms| terms.epoch);
        let known = Known::new(tables, epoch, state.newest().map(|known| &**known), state.life);
        state.pending = Some(Arc::new(known));
        drop(state);
        self.announce();
    }

    /// The stream is gone: nothing is known any more. Returns the end of the lease, if there was one.
    pub(crate) fn forget(&self) -> Option<Instant> {
        let mut state = self.state();
        state.current = None;
        state.pending = None;
        state.life += 1;
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
    pub(crate) fn newest(&self) -> Option<&Arc<Known>> {
        self.pending.as_ref().or(self.current.as_ref())
    }
}

fn is_loopback_name(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "[::1]" | "::1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(version: u64, hosts: &[&str]) -> Arc<Known> {
        Arc::new(Known::new(tables(version, hosts), None, None, 0))
    }

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
        state.current = Some(known(1, &["a:1"]));
        assert_eq!(routing.whose(&state, "T", "x"), Whose::Own);
        assert_eq!(routing.whose(&state, "U", "x"), Whose::Nobody);
        let new = known(2, &["a:1", "b:1"]);
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
        routing.state().current = Some(known(1, &["a:1"]));
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
    fn a_fence_goes_with_the_last_table_that_changed_the_type() {
        let routing = Routing::new("a:1");
        assert_eq!(routing.fence("T"), FenceView::Unfenced);
        routing.set_terms(Some(LeaseTerms {
            length: Duration::from_secs(3),
            epoch: Some(7),
        }));
        assert_eq!(routing.fence("T"), FenceView::Unknown);
        let stamp = |version| Stamp { epoch: 7, version };
        let unlock = || {
            let mut state = routing.state();
            state.current = state.pending.take();
        };
        let expect = |changed, newest, life| {
            let (stamp, newest) = (stamp(changed), stamp(newest));
            let mark = Mark { stamp, life };
            assert_eq!(routing.fence("T"), FenceView::Known { mark, newest });
        };
        routing.set_pending(tables(1, &["a:1"]));
        unlock();
        expect(1, 1, 0);
        routing.set_pending(tables(2, &["a:1"]));
        unlock();
        expect(1, 2, 0);
        routing.set_pending(tables(3, &["a:1", "b:1"]));
        // Others who have not acknowledged it yet may still write.
        expect(1, 3, 0);
        unlock();
        expect(3, 3, 0);
        routing.forget();
        assert_eq!(routing.fence("T"), FenceView::Unknown);
        routing.set_pending(tables(3, &["a:1", "b:1"]));
        unlock();
        expect(3, 3, 1);
    }

    #[test]
    fn stamps_are_ordered_by_leader_first() {
        let stamp = |text: &str| text.parse::<Stamp>().unwrap();
        assert!(stamp("2.1") > stamp("1.9"));
        assert!(stamp("2.10") > stamp("2.9"));
        assert_eq!(stamp("2.10").to_string(), "2.10");
        for text in ["", "1", "1.", ".1", "1.2.3", "-1.2", "a.b"] {
            assert_eq!(text.parse::<Stamp>(), Err(()), "{text}");
        }
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
