//! Ends what a killed `outrigger run` left behind.
//!
//! `kill -9` cannot be handled, and without care app and sidecar would live on and hold their ports. So `run` starts
//! itself once more as a guard with a pipe to its standard input, and writes `+ID` when a process group starts and
//! `-ID` when it is gone. The kernel closes the pipe however we end; the guard then ends the groups still on its
//! list. (The kernel's parent-death signal would need unsafe code between fork and exec, and binds to a thread.)

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

/// How long the orphans have before they are killed.
const GRACE: Duration = Duration::from_secs(5);

/// The line to the guard process.
#[derive(Debug, Clone)]
pub(crate) struct Guard(Option<Arc<Line>>);

#[derive(Debug)]
struct Line {
    stdin: Mutex<Option<ChildStdin>>,
    child: Mutex<Child>,
}

impl Guard {
    /// Starts the guard.
    ///
    /// # Errors
    /// If our own binary cannot be started again.
    pub(crate) fn start() -> std::io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("__guard")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let stdin = Mutex::new(child.stdin.take());
        let child = Mutex::new(child);
        Ok(Self(Some(Arc::new(Line { stdin, child }))))
    }

    /// No guard, for unit tests.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// From now on this group is ended if we die.
    pub(crate) fn add(&self, group: Pid) {
        self.say('+', group);
    }

    /// The group is gone.
    pub(crate) fn remove(&self, group: Pid) {
        self.say('-', group);
    }

    fn say(&self, sign: char, group: Pid) {
        let Some(line) = &self.0 else { return };
        if let Ok(mut stdin) = line.stdin.lock()
            && let Some(stdin) = stdin.as_mut()
        {
            // Somebody killed the guard: nothing worth stopping for, we still end our children ourselves.
            let _ = writeln!(stdin, "{sign}{}", group.as_raw_nonzero());
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Ok(mut stdin) = self.stdin.lock() {
            stdin.take();
        }
        if let Ok(mut child) = self.child.lock() {
            // It ends at once, since its list is empty by now.
            let _ = child.wait();
        }
    }
}

/// The guard process itself.
pub(crate) fn main() -> ExitCode {
    end(listed(std::io::stdin().lock()));
    ExitCode::SUCCESS
}

/// Reads to the end; the groups still on the list then.
fn listed(lines: impl BufRead) -> BTreeSet<i32> {
    let mut groups = BTreeSet::new();
    for line in lines.lines().map_while(Result::ok) {
        let Some((sign, Ok(group))) = line.split_at_checked(1).map(|(s, id)| (s, id.parse::<i32>())) else {
            continue;
        };
        // 0 and 1 would mean our own group and everybody.
        match sign {
            "+" if group > 1 => groups.insert(group),
            _ => groups.remove(&group),
        };
    }
    groups
}

fn end(groups: BTreeSet<i32>) {
    let mut left: Vec<Pid> = groups.into_iter().filter_map(Pid::from_raw).collect();
    for group in &left {
        let _ = kill_process_group(*group, Signal::TERM);
    }
    let deadline = Instant::now() + GRACE;
    while !left.is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
        left.retain(|group| test_kill_process_group(*group).is_ok());
    }
    for group in left {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_what_came_and_did_not_go() {
        let left = listed(&b"+10\n+11\n-10\n+12\nnonsense\n+0\n+-5\n\n+x\n"[..]);
        assert_eq!(left, BTreeSet::from([11, 12]));
    }
}
