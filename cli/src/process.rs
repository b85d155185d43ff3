//! Processes in groups of their own, and being sure that they are gone afterwards.
//!
//! Every app and sidecar leads a process group, so that what an app starts (a shell's children, a reloader's worker)
//! is reached too, and so that Ctrl-C at the terminal reaches only us and we stop things in the right order.
//! [`guard`] covers the one case we cannot handle ourselves: being killed.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

pub(crate) mod guard;

/// How often we look whether a group is gone. There is no event for that.
const POLL: Duration = Duration::from_millis(20);

/// A started program that leads its own process group.
#[derive(Debug)]
pub(crate) struct Group {
    child: Child,
    leader: Pid,
    guard: guard::Guard,
}

impl Group {
    /// Starts the program with no standard input and with piped outputs.
    ///
    /// # Errors
    /// What the system says, e.g. that there is no such file.
    pub(crate) fn start(mut command: Command, guard: &guard::Guard) -> std::io::Result<Self> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::start_quiet(command, guard)
    }

    /// As [`Self::start`], with the outputs going where the command says.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub(crate) fn start_quiet(mut command: Command, guard: &guard::Guard) -> std::io::Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let leader = child
            .id()
            .and_then(pid)
            .ok_or_else(|| std::io::Error::other("the process ended at once"))?;
        guard.add(leader);
        Ok(Self {
            child,
            leader,
            guard: guard.clone(),
        })
    }

    /// The process, to take its outputs from.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its process id, which is also the group's.
    pub(crate) fn id(&self) -> u32 {
        self.leader.as_raw_nonzero().get().unsigned_abs()
    }

    /// Waits for the end of the leading process. Can be called again after it ended.
    ///
    /// # Errors
    /// Only if the system lost track of our child.
    pub(crate) async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks the whole group to end (SIGTERM), waits up to `grace`, then ends it (SIGKILL). Returns how the leader
    /// ended, and whether force was needed.
    ///
    /// # Errors
    /// Only if the system lost track of our child.
    pub(crate) async fn stop(&mut self, grace: Duration) -> std::io::Result<(ExitStatus, bool)> {
        let deadline = Instant::now() + grace;
        self.signal(Signal::TERM);
        let ended = timeout(grace, self.child.wait()).await.is_ok();
        let clean = ended && self.gone(deadline).await;
        if !clean {
            self.signal(Signal::KILL);
        }
        let status = self.child.wait().await?;
        self.guard.remove(self.leader);
        Ok((status, !clean))
    }

    /// Whether every member is gone before the deadline. Members that the leader left behind are not our children,
    /// hence the looking.
    async fn gone(&self, deadline: Instant) -> bool {
        while test_kill_process_group(self.leader) != Err(Errno::SRCH) {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(POLL).await;
        }
        true
    }

    fn signal(&self, signal: Signal) {
        // Fails only when nobody is left in the group, which is what we want.
        let _ = kill_process_group(self.leader, signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // After a stop nobody is left and this does nothing; else (an error on the way) nothing must stay behind.
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.signal(Signal::KILL);
        }
    }
}

/// A process id as the system calls want it.
pub(crate) fn pid(raw: u32) -> Option<Pid> {
    i32::try_from(raw).ok().and_then(Pid::from_raw)
}

/// Asks one process to end (SIGTERM).
///
/// # Errors
/// If there is no such process or it belongs to somebody else.
pub(crate) fn terminate(raw: u32) -> std::io::Result<()> {
    let pid = pid(raw).ok_or_else(|| std::io::Error::other(format!("{raw} is no process id")))?;
    Ok(kill_process(pid, Signal::TERM)?)
}

/// An exit status the way a shell reports it: the code, or 128 and the signal.
pub(crate) fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code & 0xff).ok()).unwrap_or(1)
}

/// An exit status in words, for messages.
pub(crate) fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(9)) => "killed (SIGKILL)".to_owned(),
        (None, Some(15)) => "terminated (SIGTERM)".to_owned(),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn stopping_reaches_what_the_program_started() {
        let guard = guard::Guard::none();
        let mut group = Group::start(shell("sleep 60 & sleep 60"), &guard).unwrap();
        let (status, forced) = group.stop(Duration::from_secs(5)).await.unwrap();
        assert_eq!(exit_code(status), 128 + 15);
        assert!(!forced);
        assert_eq!(test_kill_process_group(group.leader), Err(Errno::SRCH));
    }

    #[tokio::test]
    async fn what_does_not_listen_is_killed_after_the_grace_time() {
        let guard = guard::Guard::none();
        // The shell says when it is deaf; before that SIGTERM would end it.
        let mut group = Group::start(
            shell("trap '' TERM; echo deaf; while :; do sleep 1; done"),
            &guard,
        )
        .unwrap();
        let mut line = [0; 4];
        let mut out = group.child().stdout.take().unwrap();
        tokio::io::AsyncReadExt::read_exact(&mut out, &mut line)
            .await
            .unwrap();
        let (status, forced) = group.stop(Duration::from_millis(50)).await.unwrap();
        assert_eq!(exit_code(status), 128 + 9);
        assert!(forced);
    }

    #[tokio::test]
    async fn children_left_behind_by_an_ended_program_are_stopped_too() {
        let guard = guard::Guard::none();
        let mut group = Group::start(shell("sleep 60 >/dev/null 2>&1 & exit 3"), &guard).unwrap();
        assert_eq!(exit_code(group.wait().await.unwrap()), 3);
        let (status, _) = group.stop(Duration::from_secs(5)).await.unwrap();
        assert_eq!(exit_code(status), 3);
        // Whoever adopted the orphan may take a moment to bury it.
        assert!(group.gone(Instant::now() + Duration::from_secs(5)).await);
    }

    #[test]
    fn statuses_read_as_a_shell_has_them() {
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(exit_code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(exit_code(ExitStatus::from_raw(15)), 143);
        assert_eq!(describe(ExitStatus::from_raw(7 << 8)), "exit code 7");
        assert_eq!(describe(ExitStatus::from_raw(9)), "killed (SIGKILL)");
    }
}
