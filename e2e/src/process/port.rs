//! Free ports without a race between the tests of this machine.
//!
//! The usual trick (bind port 0, close, hand the number on) lets two tests get the same number, and any outgoing
//! connection may take it too. Ports here come from below the kernel's ephemeral range and each is held through
//! a locked file, which all test processes of the machine respect.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// The first port given out; below it live well-known services.
const FIRST: u32 = 10_000;
/// How many ports there are; the end stays below Linux's ephemeral ports (from 32768).
const COUNT: u32 = 22_000;

/// A port that nobody else on this machine uses as long as this value lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// The port number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// A port on which a program started by the test may listen, on any address, for TCP.
///
/// # Panics
/// If there is none, or the folder for the locks cannot be written.
#[must_use]
pub fn free_port() -> Port {
    // Every process starts somewhere else, so that they rarely meet.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(7919);
    let folder = lock_folder();
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let number = FIRST + start.wrapping_add(step) % COUNT;
        let number = u16::try_from(number).expect("FIRST + COUNT fits into 16 bits");
        let path = folder.join(number.to_string());
        let Ok(lock) = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
        else {
            panic!("cannot write {}: is the folder of another user?", path.display());
        };
        if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)).is_ok() {
            return Port { number, _lock: lock };
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// A port on which nobody listens as long as this value lives.
#[must_use]
pub fn dead_port() -> Port {
    free_port()
}

/// Where the lock files lie: one folder for the whole machine.
pub(crate) fn lock_folder() -> PathBuf {
    let folder = std::env::temp_dir().join("outrigger-e2e-locks");
    std::fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("cannot make {}: {e}", folder.display()));
    folder
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ports_in_use_at_the_same_time_differ_and_can_be_bound() {
        let ports: Vec<Port> = (0..50).map(|_| free_port()).collect();
        let numbers: HashSet<u16> = ports.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), 50);
        for port in &ports {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port.number())).unwrap();
        }
    }

    #[test]
    fn a_held_port_is_locked_for_other_processes() {
        let port = free_port();
        let path = lock_folder().join(port.number().to_string());
        let other = File::options().write(true).open(path).unwrap();
        assert!(other.try_lock().is_err());
        drop(port);
        other.try_lock().unwrap();
    }
}
