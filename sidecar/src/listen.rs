//! Binding the listeners.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::Instant;

/// Binding is retried for this long: a predecessor may still be stopping.
const LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);
const BACKLOG: i32 = 1024;

/// No listener could be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "could not listen on any endpoint: {what} on port {port}: {reason}; stop the other process or choose another port with {flag}"
)]
pub(crate) struct ListenError {
    what: &'static str,
    port: u16,
    reason: String,
    flag: &'static str,
}

/// Binds every address that can be bound; the port of the first serves the others when 0 is asked for.
pub(crate) async fn tcp(
    what: &'static str,
    flag: &'static str,
    addresses: &[String],
    port: u16,
) -> Result<Vec<TcpListener>, ListenError> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut bound: Vec<TcpListener> = Vec::new();
        let mut reason = String::from("no address to listen on");
        for address in addresses {
            let port = match bound.first().map(TcpListener::local_addr) {
                Some(Ok(first)) if port == 0 => first.port(),
                _ => port,
            };
            match bind(address, port) {
                Ok(listener) => bound.push(listener),
                Err(error) => {
                    tracing::debug!(target: "dapr.runtime", "{what}: cannot listen on {address}:{port}: {error}");
                    reason = error.to_string();
                }
            }
        }
        if !bound.is_empty() {
            return Ok(bound);
        }
        if Instant::now() >= deadline {
            return Err(ListenError {
                what,
                port,
                reason,
                flag,
            });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn bind(address: &str, port: u16) -> io::Result<TcpListener> {
    let bare = address.trim().trim_start_matches('[').trim_end_matches(']');
    if bare.is_empty() {
        // Both families on one socket, as Go listens on ":port"; IPv4 alone where there is no IPv6.
        return bind_to(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
            .or_else(|_| bind_to(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port));
    }
    if bare.eq_ignore_ascii_case("localhost") {
        return bind_to(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    }
    let ip: IpAddr = bare
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{bare:?} is no IP address")))?;
    bind_to(ip, port)
}

fn bind_to(ip: IpAddr, port: u16) -> io::Result<TcpListener> {
    let address = SocketAddr::new(ip, port);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Binds a Unix socket in place of a stale one.
pub(crate) fn unix(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    UnixListener::bind(path)
}
