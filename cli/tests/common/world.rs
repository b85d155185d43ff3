//! A private home with a fake sidecar, and ways to run `outrigger` there.

#![allow(clippy::unwrap_used, reason = "test helpers, where a panic is the report")]
#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const FAKE: &str = include_str!("fake_daprd.py");
/// Generous: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(30);

/// One test's world: home folder, fake `daprd`, nothing inherited but PATH.
pub(crate) struct World {
    dir: tempfile::TempDir,
    vars: Vec<(String, String)>,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let daprd = dir.path().join("daprd");
        std::fs::write(&daprd, format!("#!{}\n{FAKE}", python())).unwrap();
        std::fs::set_permissions(&daprd, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self {
            dir,
            vars: Vec::new(),
        }
    }

    pub(crate) fn var(mut self, key: &str, value: &str) -> Self {
        self.vars.push((key.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command
            .args(words)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.dir.path())
            .env("OUTRIGGER_DAPRD", self.dir.path().join("daprd"))
            .env("OUTRIGGER_REDIS", "off")
            .env("OUTRIGGER_SENTRY", "off")
            .env("OUTRIGGER_PLACEMENT", "off")
            .env("OUTRIGGER_SCHEDULER", "off")
            .envs(self.vars.iter().cloned())
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub(crate) fn outrigger(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Starts it and goes on.
    pub(crate) fn start(&self, words: &[&str]) -> Started {
        let log = self.dir.path().join("outrigger.log");
        let file = std::fs::File::create(&log).unwrap();
        let mut command = self.command(words);
        let errors = file.try_clone().unwrap();
        Started {
            child: command.stdout(file).stderr(errors).spawn().unwrap(),
            log,
        }
    }
}

/// A running `outrigger`.
pub(crate) struct Started {
    child: Child,
    log: PathBuf,
}

impl Started {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until it printed this.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let until = Instant::now() + LIMIT;
        loop {
            let log = self.log();
            if log.contains(text) {
                return log;
            }
            let ended = self.child.try_wait().unwrap();
            let late = Instant::now() > until;
            // Once more after the end: the text may have come between the two looks.
            if (ended.is_some() && !self.log().contains(text)) || late {
                panic!("{text:?} is not in the output (ended: {ended:?}):\n{log}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for its end; the exit code.
    pub(crate) fn wait(&mut self) -> i32 {
        let until = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < until, "does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.id(), name);
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // Its guard ends the rest.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &pid.to_string()]).status();
    assert!(status.unwrap().success());
}

/// Whether a process is there and not a zombie.
pub(crate) fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.chars().next());
    state.flatten().is_some_and(|state| state != 'Z')
}

/// Waits until all of them are gone.
pub(crate) fn wait_gone(pids: &[u32]) {
    let until = Instant::now() + LIMIT;
    while pids.iter().any(|pid| alive(*pid)) {
        assert!(Instant::now() < until, "still there: {pids:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The number that follows `before` in a text.
pub(crate) fn number_after(text: &str, before: &str) -> u32 {
    let (_, rest) = text
        .split_once(before)
        .unwrap_or_else(|| panic!("no {before:?} in:\n{text}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

/// The real interpreter: a sidecar must be named `daprd`, which a wrapper script or `env` would spoil.
fn python() -> String {
    let mut child = Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("these tests need python3 in PATH");
    let mut path = String::new();
    child.stdout.take().unwrap().read_to_string(&mut path).unwrap();
    assert!(child.wait().unwrap().success());
    let path = path.trim().to_owned();
    assert!(Path::new(&path).is_file());
    path
}
