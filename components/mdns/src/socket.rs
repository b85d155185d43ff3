//! The socket that all sidecars of a machine share by name: port 5353 of every interface.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use if_addrs::IfAddr;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::debug;

/// The group of multicast DNS.
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
/// The port of multicast DNS.
pub(crate) const PORT: u16 = 5353;
/// How often interfaces are looked up again at most: laptops change networks.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Sends to and hears from the group on all interfaces, IPv4. (Addresses of both families can be announced.)
#[derive(Debug)]
pub(crate) struct Multicast {
    socket: UdpSocket,
    /// Interfaces joined; locked while one is chosen for sending.
    interfaces: Mutex<Interfaces>,
}

#[derive(Debug)]
struct Interfaces {
    joined: Vec<Ipv4Addr>,
    looked: Instant,
}

impl Multicast {
    /// Opens the socket and joins the group.
    ///
    /// # Errors
    /// If the port is held by a program that does not share it, or no interface takes part.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        // Other sidecars, avahi and browsers have this port as well.
        socket.set_reuse_address(true)?;
        #[cfg(unix)]
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.set_multicast_loop_v4(true)?;
        socket.set_multicast_ttl_v4(255)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
        let mut joined = Vec::new();
        join_new(&socket, &mut joined);
        if joined.is_empty() {
            return Err(io::Error::other("no network interface takes part in multicast"));
        }
        Ok(Self {
            socket: UdpSocket::from_std(socket.into())?,
            interfaces: Mutex::new(Interfaces {
                joined,
                looked: Instant::now(),
            }),
        })
    }

    /// Waits for a packet; its length and sender.
    pub(crate) async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.socket.recv_from(buffer).await
    }

    /// Sends to the group on every interface; one that is gone does not hinder the others.
    pub(crate) async fn send(&self, bytes: &[u8]) {
        let mut interfaces = self.interfaces.lock().await;
        let socket = SockRef::from(&self.socket);
        if interfaces.looked.elapsed() >= LOOK_AGAIN {
            interfaces.looked = Instant::now();
            join_new(&socket, &mut interfaces.joined);
        }
        for interface in &interfaces.joined {
            let sent = match socket.set_multicast_if_v4(interface) {
                Ok(()) => self.socket.send_to(bytes, (GROUP, PORT)).await.map(|_| ()),
                Err(error) => Err(error),
            };
            if let Err(error) = sent {
                debug!(%interface, %error, "multicast not sent");
            }
        }
    }

    /// Sends to one peer.
    pub(crate) async fn reply(&self, bytes: &[u8], to: SocketAddr) {
        if let Err(error) = self.socket.send_to(bytes, to).await {
            debug!(%to, %error, "answer not sent");
        }
    }
}

/// Joins the group where it was not joined yet; loopback too, which works when nothing else does.
fn join_new(socket: &Socket, joined: &mut Vec<Ipv4Addr>) {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let mut addresses: Vec<(Ipv4Addr, Option<u32>)> = interfaces
        .iter()
        .filter_map(|interface| match &interface.addr {
            IfAddr::V4(v4) => Some((v4.ip, interface.index)),
            IfAddr::V6(_) => None,
        })
        .collect();
    if !addresses.iter().any(|(ip, _)| ip.is_loopback()) {
        addresses.push((Ipv4Addr::LOCALHOST, None));
    }
    // What went away and comes back must be joined anew.
    joined.retain(|ip| addresses.iter().any(|(other, _)| other == ip));
    for (ip, index) in addresses {
        if joined.contains(&ip) {
            continue;
        }
        let interface = index.map_or(
            InterfaceIndexOrAddress::Address(ip),
            InterfaceIndexOrAddress::Index,
        );
        match socket.join_multicast_v4_n(&GROUP, &interface) {
            Ok(()) => joined.push(ip),
            // A second address of an interface: the group is joined, one packet a link is enough.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => debug!(%ip, %error, "interface takes no part in multicast"),
        }
    }
}

/// Whether a packet came from a multicast DNS host, not from a simple resolver on a port of its own.
pub(crate) fn is_group_member(from: SocketAddr) -> bool {
    matches!(from, SocketAddr::V4(v4) if SocketAddrV4::port(&v4) == PORT)
}
