//! Which sidecar hosts an actor: the consistent hash ring of the contract (`placement`, section 5).
//!
//! Every sidecar of a namespace, ours and Go's, computes the owner of an actor by itself from the table that the
//! placement service hands out; they agree because they all hash alike. [`hash`] and [`Ring`] are that computation;
//! [`Tables`] is a whole table: one ring per actor type, of hosts that are stored once however many types they host.
//!
//! A table is immutable and shared. The next one is built from the one before ([`Tables::build`]): rings of hosts that
//! did not change are the same allocation, others are merged rather than hashed anew.
//!
//! Pure: it knows nothing of messages, streams or time.

use blake2::{Blake2b512, Digest as _};

mod ring;
mod tables;

pub use ring::{MAX_NODES, Ring, TooLarge};
pub use tables::{Host, Table, Tables};

/// The position of a text on the ring: the first eight bytes of its BLAKE2b-512 digest, least significant first.
#[must_use]
pub fn hash(text: &str) -> u64 {
    position(Blake2b512::new_with_prefix(text.as_bytes()))
}

/// The positions of a host's virtual nodes 0, 1, 2 …: each the hash of the name with the decimal index behind it.
pub fn virtual_nodes(host: &str, replication_factor: u32) -> impl Iterator<Item = u64> + use<> {
    let named = Blake2b512::new_with_prefix(host.as_bytes());
    (0..replication_factor).map(move |index| {
        let mut digits = [0; 10];
        position(named.clone().chain_update(decimal(index, &mut digits)))
    })
}

fn position(digest: Blake2b512) -> u64 {
    let digest = digest.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(first)
}

/// The decimal digits of a number, without an allocation: rings of ten thousand hosts take a million of them.
fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[start..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_contract() {
        assert_eq!(hash(""), 241_225_442_164_632_184);
        assert_eq!(hash("actor-1"), 0x8afd_5a54_7e5f_daae);
        assert_eq!(hash("127.0.0.1:300020"), 5_770_237_849_439_040_077);
        let nodes: Vec<_> = virtual_nodes("10.0.0.1:50002", 100).collect();
        assert_eq!(nodes[0], 7_120_362_376_346_592_644);
        assert_eq!(nodes[1], 6_505_922_788_473_134_223);
        assert_eq!(nodes[99], 8_251_988_567_651_704_418);
    }

    #[test]
    fn an_index_is_written_in_decimal() {
        for number in [0, 1, 9, 10, 99, 100, 4_294_967_295] {
            assert_eq!(decimal(number, &mut [0; 10]), number.to_string().as_bytes());
        }
    }
}
