//! A control-plane service as a process of a run: found, started, waited for, and started again whenever it ends.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use crate::env::{Env, is_executable};
use crate::http::{Call, Target, send};
use crate::process::Group;
use crate::process::guard::Guard;

const START_LIMIT: Duration = Duration::from_secs(20);
const RESTART_PAUSE: Duration = Duration::from_secs(1);
const STOP_GRACE: Duration = Duration::from_secs(3);

/// A service's binary: the one that `variable` names (`off` for none), else the one beside our own binary, else the
/// installed one, else the first in `PATH`.
///
/// # Errors
/// If there is none; the text says where it was looked for.
pub(super) fn find(
    name: &str,
    variable: &str,
    own: Option<&Path>,
    install: &Path,
    env: &Env,
) -> anyhow::Result<PathBuf> {
    match env.get(variable) {
        Some("off") => bail!("${variable} is off"),
        Some(path) => {
            let path = PathBuf::from(path);
            ensure!(
                is_executable(&path),
                "${variable} names {}, which is no executable file",
                path.display()
            );
            return Ok(path);
        }
        None => {}
    }
    let beside = own.and_then(Path::parent).map(|dir| dir.join(name));
    let installed = install.join("bin").join(name);
    beside
        .into_iter()
        .chain([installed])
        .find(|path| is_executable(path))
        .or_else(|| env.find_in_path(name))
        .with_context(|| {
            format!(
                "there is no `{name}` binary beside outrigger, in the install folder or in PATH (`cargo build -p outrigger-{name}`)"
            )
        })
}

/// How a service is run.
#[derive(Debug)]
pub(super) struct Process {
    /// Name of the service, for messages.
    pub(super) name: &'static str,
    pub(super) binary: PathBuf,
    /// Its arguments besides those of health, metrics and log.
    pub(super) args: Vec<String>,
    /// Its namespace.
    pub(super) namespace: &'static str,
    /// Working folder, with its log.
    pub(super) folder: PathBuf,
    /// Port of its health endpoint.
    pub(super) health: u16,
    /// How to do without it.
    pub(super) without: &'static str,
    pub(super) guard: Guard,
}

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn spawn(&self) -> anyhow::Result<Group> {
        let mut command = Command::new(&self.binary);
        command
            .args(&self.args)
            .args([
                "--healthz-listen-address",
                "127.0.0.1",
                "--healthz-port",
                &self.health.to_string(),
            ])
            .arg("--enable-metrics=false")
            .arg("--log-file")
            .arg(self.log())
            .env("NAMESPACE", self.namespace)
            .current_dir(&self.folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Group::start_quiet(command, &self.guard)
            .with_context(|| format!("cannot start {}", self.binary.display()))
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// If it ends before or takes too long, with its last words.
    pub(super) async fn ready(&self, group: &mut Group) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while !healthy(self.health).await {
            if let Ok(Some(status)) = group.child().try_wait() {
                bail!(
                    "{} ended at once ({status}): {}\n{} does without it",
                    self.name,
                    self.last_words(),
                    self.without
                );
            }
            ensure!(
                Instant::now() < deadline,
                "{} is not ready after {START_LIMIT:?}: {}\n{} does without it",
                self.name,
                self.last_words(),
                self.without
            );
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        log.lines().last().unwrap_or("it said nothing").to_owned()
    }

    /// Starts it again whenever it ends, until told to stop. `group` is `None` if it has yet to be started.
    pub(super) async fn keep(self, mut group: Option<Group>, mut stopped: oneshot::Receiver<()>) {
        let mut is_first = group.is_none();
        loop {
            if let Some(running) = &mut group {
                let is_over = tokio::select! {
                    _ = &mut stopped => true,
                    _ = running.wait() => false,
                };
                // What it left behind goes too. What does not end is the guard's affair.
                let _ = running.stop(STOP_GRACE).await;
                if is_over {
                    return;
                }
            }
            if !std::mem::take(&mut is_first) {
                tokio::select! {
                    _ = &mut stopped => return,
                    () = sleep(RESTART_PAUSE) => {}
                }
            }
            group = self.spawn().ok();
        }
    }
}

/// Whether a service's health endpoint says yes.
pub(super) async fn healthy(port: u16) -> bool {
    let answer = send(&Target::Port(port), Call::get("/healthz"), Duration::from_secs(1)).await;
    answer.is_ok_and(|(status, _)| status.is_success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves_a_child_behind(folder: &Path) -> Process {
        Process {
            name: "test",
            binary: PathBuf::from("/bin/sh"),
            args: vec![
                "-c".to_owned(),
                "sleep 600 & echo $! >new; mv new child".to_owned(),
            ],
            namespace: "default",
            folder: folder.to_owned(),
            health: 1,
            without: "",
            guard: Guard::none(),
        }
    }

    #[tokio::test]
    async fn what_an_ended_service_left_behind_is_stopped_even_in_the_pause_before_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let process = leaves_a_child_behind(folder.path());
        let group = process.spawn().unwrap();
        let (stop, stopped) = oneshot::channel();
        let keeping = tokio::spawn(process.keep(Some(group), stopped));
        let deadline = Instant::now() + Duration::from_secs(60);
        let child = loop {
            if let Ok(text) = std::fs::read_to_string(folder.path().join("child")) {
                break text.trim().to_owned();
            }
            assert!(Instant::now() < deadline, "nothing was started");
            sleep(Duration::from_millis(10)).await;
        };
        stop.send(()).unwrap();
        keeping.await.unwrap();
        // What is dead may wait for its parent to look.
        let state = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "{state}");
    }
}
