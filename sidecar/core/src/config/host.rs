//! The address a sidecar announces to others (contract `flags-env-annotations`, section 2.1, `DAPR_HOST_IP`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// `DAPR_HOST_IP` if set; else the address the system would send from; else the best address of the given
/// interfaces (of the system's own if none are given); else the loopback address, on which sidecars of the same
/// machine still find each other.
pub fn host_address(given: Option<&str>, interfaces: &[IpAddr]) -> String {
    if let Some(given) = given {
        return given.to_owned();
    }
    // Connecting a UDP socket sends nothing; it only asks the routing table.
    for target in ["192.0.2.1:80", "[2001:db8::1]:80"] {
        if let Some(address) = route_source(target).filter(is_usable) {
            return address.to_string();
        }
    }
    let best = if interfaces.is_empty() {
        best_address(&interface_addresses())
    } else {
        best_address(interfaces)
    };
    best.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)).to_string()
}

/// The addresses of this machine's interfaces, from `/proc`; empty where it cannot be read.
pub fn interface_addresses() -> Vec<IpAddr> {
    let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut addresses = parse_v4(&file("/proc/net/fib_trie"));
    addresses.extend(parse_v6(&file("/proc/net/if_inet6")));
    addresses
}

/// Local addresses are the leaves `|-- <address>` that `/32 host LOCAL` follows; they occur in several tables.
fn parse_v4(trie: &str) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    let mut leaf = None;
    for line in trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok().map(IpAddr::V4);
        } else if line == "/32 host LOCAL"
            && let Some(address) = leaf
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    addresses
}

/// One address a line: 32 hexadecimal digits first.
fn parse_v6(lines: &str) -> Vec<IpAddr> {
    lines
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter_map(|digits| u128::from_str_radix(digits, 16).ok())
        .map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)))
        .collect()
}

fn route_source(target: &str) -> Option<IpAddr> {
    let local = if target.starts_with('[') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let socket = UdpSocket::bind(local).ok()?;
    socket.connect(target).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// 192.0.0.0/29 is handed out by some tunnels to every host alike.
fn is_usable(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            u32::from(*v4) & 0xffff_fff8 != 0xc000_0000 && !v4.is_loopback() && !v4.is_unspecified()
        }
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unspecified(),
    }
}

/// The address others most likely reach: public IPv4, global IPv6, private IPv4 or carrier-grade NAT, unique local
/// IPv6, link-local; the first of the best kind.
pub fn best_address(addresses: &[IpAddr]) -> Option<IpAddr> {
    addresses
        .iter()
        .filter(|address| is_usable(address))
        .min_by_key(|address| rank(address))
        .copied()
}

fn rank(address: &IpAddr) -> u8 {
    match address {
        IpAddr::V4(v4) if v4.is_link_local() => 4,
        IpAddr::V4(v4) if v4.is_private() || is_cgnat(*v4) => 2,
        IpAddr::V4(_) => 0,
        IpAddr::V6(v6) if is_prefix(*v6, 0xfe80, 0xffc0) => 5,
        IpAddr::V6(v6) if is_prefix(*v6, 0xfc00, 0xfe00) => 3,
        IpAddr::V6(_) => 1,
    }
}

fn is_cgnat(v4: Ipv4Addr) -> bool {
    let [a, b, ..] = v4.octets();
    a == 100 && (64..128).contains(&b)
}

fn is_prefix(v6: Ipv6Addr, prefix: u16, mask: u16) -> bool {
    v6.segments()[0] & mask == prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_more_public_address_wins() {
        let ladder = ips(&["8.8.8.8", "2600::1", "10.0.0.1", "fd00::1", "169.254.1.1"]);
        for pair in ladder.windows(2) {
            let reversed: Vec<IpAddr> = pair.iter().rev().copied().collect();
            assert_eq!(best_address(&reversed), Some(pair[0]));
        }
        assert_eq!(
            best_address(&ips(&["fd00::1", "100.64.0.9"])),
            Some("100.64.0.9".parse().unwrap())
        );
    }

    #[test]
    fn loopback_and_tunnel_addresses_are_no_candidates() {
        assert_eq!(best_address(&ips(&["127.0.0.1", "::1", "192.0.0.2"])), None);
    }

    #[test]
    fn interfaces_are_read_from_proc() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.0\n        /24 link UNICAST\n     |-- 10.0.0.5\n        /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\nLocal:\n     |-- 10.0.0.5\n        /32 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(parse_v4(trie), ips(&["10.0.0.5", "127.0.0.1"]));
        let v6 = "00000000000000000000000000000001 01 80 10 80       lo\nfe80000000000000021122fffe334455 02 40 20 80     eth0\n";
        assert_eq!(parse_v6(v6), ips(&["::1", "fe80::211:22ff:fe33:4455"]));
        assert!(parse_v4("").is_empty() && parse_v6("x").is_empty());
    }

    #[test]
    fn the_given_address_wins() {
        assert_eq!(host_address(Some("1.2.3.4"), &[]), "1.2.3.4");
        assert!(host_address(None, &[]).parse::<IpAddr>().is_ok());
    }
}
