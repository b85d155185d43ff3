//! Which partition a key belongs to: as Go's client decides, so that both put a key into the same one.

use krafka::producer::Partitioner;

/// FNV-1a of the key modulo the number of partitions; without a key any.
#[derive(Debug)]
pub(crate) struct HashPartitioner;

impl Partitioner for HashPartitioner {
    fn partition(&self, _topic: &str, key: Option<&[u8]>, partition_count: usize) -> i32 {
        let count = i32::try_from(partition_count).unwrap_or(i32::MAX).max(1);
        match key {
            None => rand::random_range(0..count),
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
    use super::*;

    #[test]
    fn keys_go_where_the_published_hash_says() {
        // Test values of the FNV authors.
        assert_eq!(fnv1a(b""), 0x811c_9dc5);
        assert_eq!(fnv1a(b"a"), 0xe40c_292c);
        assert_eq!(fnv1a(b"foobar"), 0xbf9c_f968);
        let place = |key: &[u8]| HashPartitioner.partition("t", Some(key), 10);
        // 0xbf9cf968 as a signed number is -1080231576.
        assert_eq!(place(b"foobar"), 6);
        assert!((0..10).contains(&HashPartitioner.partition("t", None, 10)));
    }
}
