//! Which partition a record belongs to: with a key as Go's client decides, so that both put it into the same one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use krafka::producer::Partitioner;

/// Records without a key that share a partition while records wait for their acknowledgement.
const STRETCH: u32 = 100;

/// FNV-1a of the key modulo the number of partitions.
///
/// Without a key any will do. Go's client draws one for each record, so that under load every request carries little. Here
/// a record goes where the last one went while that is still on its way, as the two then travel together, and [`STRETCH`]
/// records long at most; when nothing is on its way, each record draws.
#[derive(Debug, Clone, Default)]
pub(crate) struct HashPartitioner(Arc<Stretch>);

#[derive(Debug, Default)]
struct Stretch {
    /// Records on their way to the brokers.
    in_flight: AtomicUsize,
    /// The number drawn last; modulo the number of partitions it is the partition.
    drawn: AtomicU32,
    /// Records that may still go there.
    left: AtomicU32,
}

/// A record on its way, until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Stretch>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl HashPartitioner {
    /// Counts a record, from before it is given to the producer until it is acknowledged.
    pub(crate) fn in_flight(&self) -> InFlight {
        self.0.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self.0.clone())
    }

    fn without_key(&self) -> u32 {
        let Stretch {
            in_flight,
            drawn,
            left,
        } = &*self.0;
        // The record itself is among those in flight.
        let joins = in_flight.load(Ordering::Relaxed) > 1
            && left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok();
        if joins {
            return drawn.load(Ordering::Relaxed);
        }
        let number = rand::random();
        drawn.store(number, Ordering::Relaxed);
        left.store(STRETCH - 1, Ordering::Relaxed);
        number
    }
}

impl Partitioner for HashPartitioner {
    fn partition(&self, _topic: &str, key: Option<&[u8]>, partition_count: usize) -> i32 {
        let count = i32::try_from(partition_count).unwrap_or(i32::MAX).max(1);
        match key {
            None => (self.without_key() % count.unsigned_abs()).cast_signed(),
            // Go takes the hash for a signed number and turns the sign of the remainder.
            Some(key) => (fnv1a(key).cast_signed() % count).abs(),
        }
    }
}

fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_go_where_the_published_hash_says() {
        // Test values of the FNV authors.
        assert_eq!(fnv1a(b""), 0x811c_9dc5);
        assert_eq!(fnv1a(b"a"), 0xe40c_292c);
        assert_eq!(fnv1a(b"foobar"), 0xbf9c_f968);
        let place = |key: &[u8]| HashPartitioner::default().partition("t", Some(key), 10);
        // 0xbf9cf968 as a signed number is -1080231576.
        assert_eq!(place(b"foobar"), 6);
    }

    #[test]
    fn records_without_a_key_spread_one_by_one_when_idle() {
        let partitioner = HashPartitioner::default();
        let places: BTreeSet<i32> = (0..1000)
            .map(|_| {
                let _record = partitioner.in_flight();
                partitioner.partition("t", None, 10)
            })
            .collect();
        assert_eq!(places, (0..10).collect());
    }

    #[test]
    fn records_without_a_key_travel_together_under_load_a_stretch_at_a_time() {
        let partitioner = HashPartitioner::default();
        let _others = [partitioner.in_flight(), partitioner.in_flight()];
        let places: Vec<i32> = (0..200 * STRETCH)
            .map(|_| partitioner.partition("t", None, 10))
            .collect();
        let stretches = places.chunks(STRETCH as usize);
        assert!(
            stretches
                .clone()
                .all(|stretch| stretch.iter().all(|place| *place == stretch[0]))
        );
        let used: BTreeSet<i32> = stretches.map(|stretch| stretch[0]).collect();
        assert_eq!(used, (0..10).collect());
    }
}
