//! `--wait`: polls the outbound health of a sidecar on this machine.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);
const TRY: Duration = Duration::from_millis(500);

/// Returns when the sidecar is ready for outbound calls, or after 60 s.
pub(crate) fn until_outbound_ready(port: &str) {
    let address = format!("localhost:{port}");
    let start = Instant::now();
    eprintln!("waiting for Dapr outbound to become ready on http://{address}/v1.0/healthz/outbound");
    while start.elapsed() < LIMIT {
        let addresses = address
            .to_socket_addrs()
            .map(Iterator::collect::<Vec<_>>)
            .unwrap_or_default();
        if addresses.iter().any(|address| is_ready(address).unwrap_or(false)) {
            eprintln!("Dapr outbound is ready");
            return;
        }
        std::thread::sleep(PAUSE);
    }
    eprintln!("Dapr outbound did not become ready within {LIMIT:?}");
}

fn is_ready(address: &SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(address, TRY)?;
    stream.set_read_timeout(Some(TRY))?;
    stream
        .write_all(b"GET /v1.0/healthz/outbound HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    Ok(head.starts_with(b"HTTP/1.1 2"))
}
