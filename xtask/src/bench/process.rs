//! Processes under measurement: started, watched through `/proc`, ended.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use super::load::Connection;

/// A child process that ends with its handle.
pub(crate) struct Process {
    name: String,
    child: Child,
    /// When it was asked for, just before `fork`.
    pub(crate) started: Instant,
}

impl Process {
    /// Starts `command` with its output in `log`.
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let started = Instant::now();
        let child = command
            .spawn()
            .with_context(|| format!("starting {name}: {command:?}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            started,
        })
    }

    /// Waits until `path` on `address` is answered with a status of 2xx, looking every 0.2 ms; the time since `started`.
    pub(crate) fn wait_ready(&mut self, address: SocketAddr, path: &str, log: &Path) -> Result<Duration> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        loop {
            let status =
                Connection::open(address).and_then(|mut connection| connection.exchange(request.as_bytes()));
            let passed = self.started.elapsed();
            if matches!(status, Ok(200..=299)) {
                return Ok(passed);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "{} ended with {status}:\n{}",
                    self.name,
                    fs::read_to_string(log).unwrap_or_default()
                );
            }
            ensure!(
                passed < Duration::from_secs(20),
                "{} did not answer {path} within 20 s, last with {status:?}:\n{}",
                self.name,
                fs::read_to_string(log).unwrap_or_default()
            );
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// CPU time its living threads, and those that ended, have used so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let pid = self.child.id();
        let mut nanos = 0;
        for task in
            fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("{} is gone", self.name))?
        {
            // A thread may end between listing and reading.
            if let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) {
                nanos += text
                    .split(' ')
                    .next()
                    .and_then(|run| run.parse::<u64>().ok())
                    .unwrap_or(0);
            }
        }
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Ok(Duration::from_nanos(nanos).max(ticks(&text).context("reading /proc/PID/stat")?))
    }

    /// What it keeps in memory now.
    pub(crate) fn memory(&self) -> Result<Memory> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))
            .with_context(|| format!("{} is gone", self.name))?;
        Ok(Memory {
            rss_kb: field(&text, "Rss:")?,
            anonymous_kb: field(&text, "Anonymous:")?,
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // What is measured has been measured: nothing is left to be drained.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User and system time of `/proc/PID/stat`, which counts threads that have ended too, by the hundredth of a second.
fn ticks(stat: &str) -> Option<Duration> {
    times(stat, [11, 12])
}

/// User and system time of all that this process has started, waited for, and they in turn.
pub(crate) fn children_time() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    times(&stat, [13, 14]).context("reading /proc/self/stat")
}

fn times(stat: &str, which: [usize; 2]) -> Option<Duration> {
    // The name, in brackets, may hold anything; after it come the fields from the third on.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let [user, system] = which.map(|at| fields.get(at)?.parse::<u64>().ok());
    Some(Duration::from_millis((user? + system?) * 10))
}

fn field(smaps: &str, name: &str) -> Result<u64> {
    let line = smaps.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok())
        .with_context(|| format!("smaps_rollup has no {name}"))
}

/// Resident memory in kB: all of it, and the part that no file backs.
#[derive(Serialize, Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Memory {
    pub(crate) rss_kb: u64,
    pub(crate) anonymous_kb: u64,
}

impl Memory {
    /// The larger of both in each respect.
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            rss_kb: self.rss_kb.max(other.rss_kb),
            anonymous_kb: self.anonymous_kb.max(other.anonymous_kb),
        }
    }
}

/// A port of the loopback address that is free now.
pub(crate) fn free_port() -> Result<u16> {
    let [port] = free_ports()?;
    Ok(port)
}

/// Several of them, no two alike.
pub(crate) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    // All are held until the last is known: a port that was let go may come again.
    let listeners: Vec<TcpListener> = (0..N)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<_, _>>()?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_brackets_and_spaces_does_not_shift_the_fields_of_stat() {
        let stat = "42 (odd ) name) S 1 42 42 0 -1 4194560 900 0 0 0 150 50 0 0 20 0 1 0 100 1000 200";
        assert_eq!(ticks(stat), Some(Duration::from_secs(2)));
    }

    #[test]
    fn resident_memory_is_read_from_smaps() {
        let smaps = "55d0-7fff ---p 00000000 00:00 0 [rollup]\nRss:                8616 kB\nAnonymous:          1560 kB\n";
        assert_eq!(field(smaps, "Rss:").expect("there"), 8616);
        assert_eq!(field(smaps, "Anonymous:").expect("there"), 1560);
        assert!(field(smaps, "Swap:").is_err());
    }

    #[test]
    fn a_child_that_ends_before_it_is_ready_is_reported_with_its_output() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = folder.path().join("log");
        let mut process = Process::start("shell", Command::new("sh").args(["-c", "echo why; exit 3"]), &log)
            .expect("starts");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().expect("a port")));
        let error = process
            .wait_ready(address, "/", &log)
            .expect_err("never ready")
            .to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("why"),
            "{error}"
        );
    }
}
