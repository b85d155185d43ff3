//! Starting programs for a test and being sure that they are gone afterwards.
//!
//! A [`Running`] program is killed when dropped. Its output goes to a file in the work folder, so that nothing
//! blocks on a full pipe, and the end of it is printed when the test panics.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Flags of a daprd that asks its app every second whether it is well, and believes the first answer.
pub const APP_HEALTH_CHECKS: [&str; 7] = [
    "--enable-app-health-check",
    "--app-health-probe-interval",
    "1",
    "--app-health-probe-timeout",
    "900",
    "--app-health-threshold",
    "1",
];

mod daprd;
mod exclusive;
mod port;
mod redis_server;

pub use daprd::{Daprd, DaprdOptions};
pub use exclusive::{Exclusive, exclusive};
pub(crate) use port::lock_folder;
pub use port::{Port, dead_port, free_port};
pub use redis_server::RedisServer;

/// How many bytes from the end of a log are shown when a test fails.
const LOG_TAIL: usize = 16 * 1024;
/// How often a condition is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(10);

/// The path of one of our own binaries, e.g. `daprd`.
///
/// Looks in the folder named by `OUTRIGGER_BIN_DIR`, or else in the cargo target folder the running test was built
/// into.
///
/// # Panics
/// If the binary is not there; the text says how to build it.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let folder = match std::env::var_os("OUTRIGGER_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let exe = std::env::current_exe().expect("a running test has an executable");
            // target/debug/deps/test-1234 -> target/debug
            let mut dir = exe
                .parent()
                .expect("an executable lies in a folder")
                .to_path_buf();
            if dir.ends_with("deps") {
                dir.pop();
            }
            dir
        }
    };
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "no `{name}` in {}: build it first (`cargo build --workspace --bins`) or set OUTRIGGER_BIN_DIR to a folder that has it",
        folder.display()
    );
    path
}

/// A program to start: what, with which arguments and environment, and where.
#[derive(Debug, Clone)]
pub struct Program {
    name: String,
    path: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    dir: PathBuf,
}

impl Program {
    /// The program at `path`, to be run inside the existing folder `dir`. `name` is used for its log file and in
    /// messages. It gets an empty environment except for `PATH`, `TZ=UTC` and leave to run as root, which tests often do.
    #[must_use]
    pub fn new(name: &str, path: &Path, dir: &Path) -> Self {
        let mut env = vec![
            ("TZ".to_owned(), "UTC".to_owned()),
            (
                "DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK".to_owned(),
                "true".to_owned(),
            ),
        ];
        if let Ok(path) = std::env::var("PATH") {
            env.push(("PATH".to_owned(), path));
        }
        Self {
            name: name.to_owned(),
            path: path.to_path_buf(),
            args: Vec::new(),
            env,
            dir: dir.to_path_buf(),
        }
    }

    /// Appends command line arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Lets it, and nobody else, see another file as `/etc/hosts`; what is written into that file later it sees too.
    #[must_use]
    pub fn hosts_file(self, file: &Path) -> Self {
        // The shell becomes the program, so the process id is its own. A mount of one's own needs root, as in CI.
        let wrapped = [
            "--mount",
            "sh",
            "-c",
            "mount --bind \"$0\" /etc/hosts && exec \"$@\"",
        ];
        let mut args: Vec<String> = wrapped.map(str::to_owned).into();
        args.extend([file.display().to_string(), self.path.display().to_string()]);
        args.extend(self.args);
        Self {
            path: PathBuf::from("unshare"),
            args,
            ..self
        }
    }

    /// Starts it.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(self) -> Running {
        let log = self.dir.join(format!("{}.log", self.name));
        let out = File::options().create(true).append(true).open(&log);
        let out = out.unwrap_or_else(|e| panic!("cannot write {}: {e}", log.display()));
        let err = out.try_clone().expect("a file handle can be duplicated");
        let child = Command::new(&self.path)
            .args(&self.args)
            .env_clear()
            .envs(self.env)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {}: {e}", self.path.display()));
        Running {
            name: self.name,
            command: self.args.join(" "),
            child,
            log,
        }
    }
}

/// A started program. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    name: String,
    command: String,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child can be waited for")
    }

    /// Waits up to `limit` for its end.
    pub async fn wait_exit(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.exited() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Sends SIGTERM, the polite request to stop.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends the signal of that name (`TERM`, `STOP`, `CONT`, ...).
    ///
    /// # Panics
    /// If the machine has no `kill` command.
    pub fn signal(&self, name: &str) {
        // The lints forbid unsafe code, hence the command and not the system call.
        let status = Command::new("kill")
            .args(["-s", name, &self.id().to_string()])
            .stderr(Stdio::null())
            .status();
        status.expect("the kill command of Debian's procps is installed");
    }

    /// Kills it with SIGKILL and waits for its end.
    pub fn kill(&mut self) {
        // Fails only if the process has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Everything it wrote so far to its standard output and error output.
    #[must_use]
    pub fn log(&self) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(&self.log) {
            let _ = file.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The last part of [`Running::log`] with a heading, for messages.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let mut from = log.len().saturating_sub(LOG_TAIL);
        while !log.is_char_boundary(from) {
            from += 1;
        }
        format!(
            "--- log of {} ({})\n{}\n--- end of log of {}",
            self.name,
            self.command,
            &log[from..],
            self.name
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
    }
}

/// Waits until `ready` says true, looking every few milliseconds.
///
/// # Panics
/// With `what` and the log of `program` if that takes longer than `limit`, or if the program ends meanwhile.
pub async fn wait_until<F, R>(program: &mut Running, what: &str, limit: Duration, mut ready: F)
where
    F: FnMut() -> R,
    R: Future<Output = bool>,
{
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = program.exited() {
            panic!("{} ended ({status}) before {what}", program.name);
        }
        if ready().await {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{}: waited {limit:?} in vain for {what}",
            program.name
        );
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(dir: &Path, script: &str) -> Running {
        Program::new("sh", Path::new("/bin/sh"), dir)
            .args(["-c", script])
            .start()
    }

    #[tokio::test]
    async fn output_and_exit_status_of_a_program_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut p = shell(dir.path(), "echo out; echo err >&2; pwd; echo tz=$TZ; exit 3");
        let status = p.wait_exit(Duration::from_secs(10)).await.unwrap();
        assert_eq!(status.code(), Some(3));
        let log = p.log();
        assert!(log.contains("out\nerr\n") && log.contains("tz=UTC"), "{log}");
        assert!(
            p.log_tail().contains("echo out"),
            "the command line belongs to the message"
        );
    }

    #[tokio::test]
    async fn dropping_a_program_kills_it() {
        let dir = tempfile::tempdir().unwrap();
        let p = shell(dir.path(), "exec sleep 1000");
        let proc = format!("/proc/{}", p.id());
        assert!(Path::new(&proc).exists());
        drop(p);
        assert!(!Path::new(&proc).exists());
    }

    #[tokio::test]
    async fn terminate_lets_the_program_decide_its_exit_code() {
        let dir = tempfile::tempdir().unwrap();
        let mut p = shell(
            dir.path(),
            "trap 'exit 7' TERM; echo ready; while :; do sleep 0.02; done",
        );
        while !p.log().contains("ready") {
            tokio::time::sleep(POLL).await;
        }
        assert!(p.wait_exit(Duration::from_millis(30)).await.is_none());
        p.terminate();
        assert_eq!(
            p.wait_exit(Duration::from_secs(10)).await.unwrap().code(),
            Some(7)
        );
    }

    #[tokio::test]
    #[should_panic(expected = "ended (exit status: 1) before the end of the world")]
    async fn waiting_for_a_program_that_ends_fails_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut p = shell(dir.path(), "exit 1");
        wait_until(
            &mut p,
            "the end of the world",
            Duration::from_secs(60),
            async || false,
        )
        .await;
    }
}
