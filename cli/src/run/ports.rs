//! Free ports.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::Context;

/// Picks free ports and keeps them until [`Ports::release`], so that one run does not pick a port twice.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    held: Vec<TcpListener>,
}

impl Ports {
    /// A port that is free on all addresses.
    ///
    /// # Errors
    /// If the machine has none left.
    pub(crate) fn pick(&mut self) -> anyhow::Result<u16> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).context("found no free port")?;
        let port = listener.local_addr().context("found no free port")?.port();
        self.held.push(listener);
        Ok(port)
    }

    /// Lets go of all of them, for the sidecars to take.
    pub(crate) fn release(self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picked_ports_differ_and_are_free_after_the_release() {
        let mut ports = Ports::default();
        let (a, b) = (ports.pick().unwrap(), ports.pick().unwrap());
        assert_ne!(a, b);
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, a)).is_err());
        ports.release();
        TcpListener::bind((Ipv4Addr::LOCALHOST, a)).unwrap();
    }
}
