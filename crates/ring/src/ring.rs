//! One ring: the virtual nodes of all hosts of one actor type, in order.

use thiserror::Error;

use crate::{hash, virtual_nodes};

/// Most virtual nodes of one ring, about 200 MB: 160,000 hosts at the default replication factor of 100. A table that
/// asks for more comes from a mistaken configuration, and the memory of a sidecar is not its own alone.
pub const MAX_NODES: usize = 16 * 1024 * 1024;

/// A table whose ring would not fit into a sensible amount of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "a ring of {hosts} hosts with replication factor {replication_factor} exceeds {MAX_NODES} virtual nodes: start the \
     placement service with a smaller --replicationFactor"
)]
pub struct TooLarge {
    /// How many hosts the ring was to have.
    pub hosts: usize,
    /// Virtual nodes per host.
    pub replication_factor: i64,
}

/// The virtual nodes of a set of hosts. Hosts are known by their index in the slice that the ring was built from.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ring {
    /// Ascending, without duplicates.
    positions: Box<[u64]>,
    /// The host of the position at the same index.
    owners: Box<[u32]>,
    replication_factor: i64,
}

impl Ring {
    /// The ring of these hosts.
    ///
    /// Where two virtual nodes meet on one position, the host further back in `hosts` has it. (Go's order there is
    /// random, so no order is right; with `hosts` sorted at least all of ours agree.) A replication factor of zero or
    /// less gives an empty ring.
    ///
    /// # Errors
    /// [`TooLarge`] beyond [`MAX_NODES`].
    pub fn new(hosts: &[&str], replication_factor: i64) -> Result<Self, TooLarge> {
        let factor = checked_factor(hosts.len(), replication_factor)?;
        let mut nodes = Vec::with_capacity(hosts.len() * factor as usize);
        for (index, host) in (0u32..).zip(hosts) {
            nodes.extend(virtual_nodes(host, factor).map(|position| (position, index)));
        }
        nodes.sort_unstable();
        Ok(Self::of_sorted(nodes.into_iter(), replication_factor))
    }

    /// The ring of `hosts`, of which some were in this ring already: `kept[i]` is the new index of this ring's host
    /// `i`, if it stays. Only hosts not named there are hashed; the result is that of [`Ring::new`].
    ///
    /// # Errors
    /// As [`Ring::new`].
    pub(crate) fn updated(&self, kept: &[Option<u32>], hosts: &[&str]) -> Result<Self, TooLarge> {
        let factor = checked_factor(hosts.len(), self.replication_factor)?;
        let mut stays = vec![false; hosts.len()];
        for index in kept.iter().flatten() {
            stays[*index as usize] = true;
        }
        let mut added = Vec::new();
        for (index, host) in (0u32..).zip(hosts).filter(|(index, _)| !stays[*index as usize]) {
            added.extend(virtual_nodes(host, factor).map(|position| (position, index)));
        }
        added.sort_unstable();
        let old = self
            .positions
            .iter()
            .zip(&self.owners)
            .filter_map(|(position, owner)| Some((*position, kept[*owner as usize]?)));
        Ok(Self::of_sorted(
            Merge {
                old: old.peekable(),
                added: added.into_iter().peekable(),
            },
            self.replication_factor,
        ))
    }

    fn of_sorted(nodes: impl Iterator<Item = (u64, u32)>, replication_factor: i64) -> Self {
        let (least, most) = nodes.size_hint();
        let expected = most.unwrap_or(least);
        let (mut positions, mut owners) = (Vec::with_capacity(expected), Vec::with_capacity(expected));
        for (position, owner) in nodes {
            if positions.last() == Some(&position) {
                owners.pop();
                owners.push(owner);
            } else {
                positions.push(position);
                owners.push(owner);
            }
        }
        Self {
            positions: positions.into_boxed_slice(),
            owners: owners.into_boxed_slice(),
            replication_factor,
        }
    }

    /// The index of the host that owns an actor: that of the first virtual node at or after the hash of the actor's
    /// id, going around. Only the id counts, not the type. `None` if the ring is empty.
    #[must_use]
    pub fn owner(&self, actor_id: &str) -> Option<usize> {
        let sought = hash(actor_id);
        let index = self.positions.partition_point(|position| *position < sought);
        let owner = self.owners.get(index).or_else(|| self.owners.first())?;
        Some(*owner as usize)
    }

    /// How many virtual nodes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Whether nothing can be found on it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// Virtual nodes per host, as the placement service said.
    #[must_use]
    pub fn replication_factor(&self) -> i64 {
        self.replication_factor
    }

    /// What it occupies on the heap, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        size_of_val(&*self.positions) + size_of_val(&*self.owners)
    }
}

fn checked_factor(hosts: usize, replication_factor: i64) -> Result<u32, TooLarge> {
    let too_large = TooLarge {
        hosts,
        replication_factor,
    };
    let factor = u32::try_from(replication_factor.max(0)).map_err(|_| too_large)?;
    match hosts.checked_mul(factor as usize) {
        Some(nodes) if nodes <= MAX_NODES => Ok(factor),
        _ => Err(too_large),
    }
}

/// Two ascending sequences as one.
struct Merge<A: Iterator, B: Iterator> {
    old: std::iter::Peekable<A>,
    added: std::iter::Peekable<B>,
}

impl<A, B> Iterator for Merge<A, B>
where
    A: Iterator<Item = (u64, u32)>,
    B: Iterator<Item = (u64, u32)>,
{
    type Item = (u64, u32);

    fn next(&mut self) -> Option<Self::Item> {
        match (self.old.peek(), self.added.peek()) {
            (Some(old), Some(added)) if added < old => self.added.next(),
            (Some(_), _) => self.old.next(),
            (None, _) => self.added.next(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let (old, added) = (self.old.size_hint(), self.added.size_hint());
        (old.0 + added.0, old.1.zip(added.1).map(|(a, b)| a + b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absurd_replication_factor_is_an_error_that_names_the_flag() {
        let error = Ring::new(&["a", "b"], i64::MAX).unwrap_err();
        assert!(error.to_string().contains("--replicationFactor"), "{error}");
        assert!(Ring::new(&["a", "b"], 16 * 1024 * 1024).is_err());
    }

    #[test]
    fn without_hosts_or_virtual_nodes_nobody_owns_an_actor() {
        for ring in [Ring::new(&[], 100), Ring::new(&["a"], 0), Ring::new(&["a"], -3)] {
            assert_eq!(ring.expect("a small ring").owner("x"), None);
        }
    }

    #[test]
    fn three_hosts_share_ten_thousand_actors_as_in_the_contract() {
        let ring =
            Ring::new(&["10.0.0.1:50002", "10.0.0.2:50002", "10.0.0.3:50002"], 100).expect("a small ring");
        assert_eq!(ring.len(), 300);
        assert_eq!((ring.positions[0], ring.owners[0]), (124_205_688_661_879_367, 2));
        assert_eq!(
            (ring.positions[299], ring.owners[299]),
            (18_185_047_526_332_531_417, 0)
        );
        let mut shares = [0; 3];
        for id in 0..10_000 {
            shares[ring.owner(&id.to_string()).expect("an owner")] += 1;
        }
        assert_eq!(shares, [3442, 3369, 3189]);
    }
}
