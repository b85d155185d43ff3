//! A whole placement table: for every actor type its hosts and their ring.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::ring::{Ring, TooLarge};

/// A host of actors, as the placement service tells it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host {
    /// Its key in the table, from which its place on the ring follows. Always equal to `address` with placement
    /// services known so far, but it is the key that is hashed.
    pub key: Box<str>,
    /// `host:port` of the sidecar's internal API.
    pub address: Box<str>,
    /// The app beside it.
    pub app_id: Box<str>,
    /// Deprecated on the wire and zero, but Dapr compares it when it asks whether a table changed.
    pub port: i64,
}

/// The hosts of one actor type and their ring.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    /// Ascending by key.
    hosts: Box<[Arc<Host>]>,
    ring: Arc<Ring>,
}

impl Table {
    /// The hosts, ascending by key.
    #[must_use]
    pub fn hosts(&self) -> &[Arc<Host>] {
        &self.hosts
    }

    /// Who owns the actor with this id.
    #[must_use]
    pub fn owner(&self, actor_id: &str) -> Option<&Arc<Host>> {
        self.hosts.get(self.ring.owner(actor_id)?)
    }

    /// The ring, with indexes into [`Table::hosts`].
    #[must_use]
    pub fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }
}

/// A placement table at one version. Cheap to share, never changed.
#[derive(Debug, Default)]
pub struct Tables {
    version: u64,
    types: BTreeMap<Box<str>, Arc<Table>>,
}

impl Tables {
    /// Builds a table out of what the placement service sent, with `previous` as a quarry: hosts, host sets and rings
    /// that are still right are taken over. The result does not depend on `previous`, only its cost does.
    ///
    /// `entries` are actor types with their hosts, in any order. Of hosts with one key the last counts.
    ///
    /// # Errors
    /// [`TooLarge`] if a ring exceeds [`crate::MAX_NODES`].
    pub fn build<Hosts>(
        version: u64,
        replication_factor: i64,
        entries: impl IntoIterator<Item = (Box<str>, Hosts)>,
        previous: &Tables,
    ) -> Result<Self, TooLarge>
    where
        Hosts: IntoIterator<Item = Host>,
    {
        let mut builder = Builder::new(replication_factor, previous);
        let mut types = BTreeMap::new();
        for (actor_type, hosts) in entries {
            let hosts = builder.intern(hosts);
            let table = builder.table(&actor_type, hosts)?;
            types.insert(actor_type, table);
        }
        Ok(Self { version, types })
    }

    /// The table that follows from `previous` when some types changed: `entries` are these types with all their hosts, a
    /// type without hosts is gone, and types that are not among them stay as they are.
    ///
    /// # Errors
    /// As [`Tables::build`].
    pub fn change<Hosts>(
        version: u64,
        replication_factor: i64,
        entries: impl IntoIterator<Item = (Box<str>, Hosts)>,
        previous: &Tables,
    ) -> Result<Self, TooLarge>
    where
        Hosts: IntoIterator<Item = Host>,
    {
        let mut builder = Builder::new(replication_factor, previous);
        let mut types = previous.types.clone();
        for (actor_type, hosts) in entries {
            let hosts = builder.intern(hosts);
            if hosts.is_empty() {
                types.remove(&actor_type);
            } else {
                let table = builder.table(&actor_type, hosts)?;
                types.insert(actor_type, table);
            }
        }
        Ok(Self { version, types })
    }

    /// The version that the placement service gave it: the epoch of every ownership in it.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The owner of an actor. `None` if nobody hosts the type.
    #[must_use]
    pub fn owner(&self, actor_type: &str, actor_id: &str) -> Option<&Arc<Host>> {
        self.types.get(actor_type)?.owner(actor_id)
    }

    /// The table of one actor type.
    #[must_use]
    pub fn table(&self, actor_type: &str) -> Option<&Arc<Table>> {
        self.types.get(actor_type)
    }

    /// All types with their tables, ascending by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<Table>)> {
        self.types.iter().map(|(name, table)| (&**name, table))
    }

    /// The actor types for which this table and an older one differ: added, removed, or with other hosts (by key,
    /// address, app id or port) or another replication factor. Ascending. Calls to all other types go on undisturbed
    /// while the table changes.
    #[must_use]
    pub fn changed_since<'a>(&'a self, older: &'a Tables) -> Vec<&'a str> {
        let same = |name: &str, table: &Arc<Table>| {
            let theirs = older.types.get(name);
            theirs.is_some_and(|theirs| Arc::ptr_eq(table, theirs) || table == theirs)
        };
        let ours = self.iter().filter(|(name, table)| !same(name, table));
        let gone = older.iter().filter(|(name, _)| !self.types.contains_key(*name));
        let mut changed: Vec<&str> = ours.chain(gone).map(|(name, _)| name).collect();
        changed.sort_unstable();
        changed
    }

    /// What hosts and rings occupy on the heap, in bytes, each counted once. For tests and figures.
    #[must_use]
    pub fn memory(&self) -> usize {
        let mut rings = HashMap::new();
        let mut tables = HashMap::new();
        let mut hosts = HashMap::new();
        for table in self.types.values() {
            tables.insert(Arc::as_ptr(table), size_of_val(&*table.hosts));
            rings.insert(Arc::as_ptr(&table.ring), table.ring.memory());
            for host in &table.hosts {
                let texts = host.key.len() + host.address.len() + host.app_id.len();
                hosts.insert(Arc::as_ptr(host), size_of::<Host>() + texts);
            }
        }
        tables.values().chain(rings.values()).chain(hosts.values()).sum()
    }
}

/// Takes over from the table before, and from types already built, what can be shared.
struct Builder<'a> {
    replication_factor: i64,
    previous: &'a Tables,
    /// Every host known so far, so that a host of a hundred types is stored once.
    hosts: HashMap<Arc<Host>, ()>,
    /// Every host set known so far.
    tables: HashMap<Vec<*const Host>, Arc<Table>>,
}

impl<'a> Builder<'a> {
    fn new(replication_factor: i64, previous: &'a Tables) -> Self {
        let mut builder = Self {
            replication_factor,
            previous,
            hosts: HashMap::new(),
            tables: HashMap::new(),
        };
        for table in previous.types.values() {
            let known = table.hosts.iter().map(Arc::as_ptr).collect();
            if table.ring.replication_factor() == replication_factor {
                builder.tables.insert(known, Arc::clone(table));
            }
            for host in &table.hosts {
                builder.hosts.insert(Arc::clone(host), ());
            }
        }
        builder
    }

    /// The hosts ascending by key, each the one allocation that stands for it.
    fn intern(&mut self, hosts: impl IntoIterator<Item = Host>) -> Vec<Arc<Host>> {
        let mut by_key: Vec<Arc<Host>> = hosts.into_iter().map(|host| self.intern_one(host)).collect();
        // Stable, so that the last of equal keys stands last and survives.
        by_key.sort_by(|a, b| a.key.cmp(&b.key));
        by_key.reverse();
        by_key.dedup_by(|a, b| a.key == b.key);
        by_key.reverse();
        by_key
    }

    fn intern_one(&mut self, host: Host) -> Arc<Host> {
        if let Some((known, ())) = self.hosts.get_key_value(&host) {
            return Arc::clone(known);
        }
        let host = Arc::new(host);
        self.hosts.insert(Arc::clone(&host), ());
        host
    }

    fn table(&mut self, actor_type: &str, hosts: Vec<Arc<Host>>) -> Result<Arc<Table>, TooLarge> {
        let identity: Vec<_> = hosts.iter().map(Arc::as_ptr).collect();
        if let Some(known) = self.tables.get(&identity) {
            return Ok(Arc::clone(known));
        }
        let table = Arc::new(Table {
            ring: self.ring(actor_type, &hosts)?,
            hosts: hosts.into_boxed_slice(),
        });
        self.tables.insert(identity, Arc::clone(&table));
        Ok(table)
    }

    fn ring(&self, actor_type: &str, hosts: &[Arc<Host>]) -> Result<Arc<Ring>, TooLarge> {
        let keys: Vec<&str> = hosts.iter().map(|host| &*host.key).collect();
        let old = self.previous.types.get(actor_type);
        let Some(old) = old.filter(|old| old.ring.replication_factor() == self.replication_factor) else {
            return Ring::new(&keys, self.replication_factor).map(Arc::new);
        };
        let kept: Vec<Option<u32>> = old
            .hosts
            .iter()
            .map(|host| {
                keys.binary_search(&&*host.key)
                    .ok()
                    .and_then(|index| u32::try_from(index).ok())
            })
            .collect();
        if keys.len() == old.hosts.len() && kept.iter().all(Option::is_some) {
            // The same places on the ring, of hosts that only changed their app or address.
            return Ok(Arc::clone(&old.ring));
        }
        if collided(&old.ring, old.hosts.len()) {
            // A virtual node that lost its position to a host that leaves would be missing.
            return Ring::new(&keys, self.replication_factor).map(Arc::new);
        }
        old.ring.updated(&kept, &keys).map(Arc::new)
    }
}

/// Whether two virtual nodes of the ring met on one position.
fn collided(ring: &Ring, hosts: usize) -> bool {
    let factor = usize::try_from(ring.replication_factor()).unwrap_or(0);
    ring.len() != hosts * factor
}
