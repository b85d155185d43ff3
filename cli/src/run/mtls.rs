//! Encrypted connections between the sidecars of this machine: an authority (sentry) of the user's own.
//!
//! Its files lie in `<install folder>/outrigger/certs`, so sidecars of several runs trust each other; each run has its
//! own sentry process over them, which ends with it. On unless something speaks against it: then sidecars talk in
//! plain text, and [`Mtls::notice`] says why. Who asks for it by `--enable-mtls` gets it or an error.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::plan::Plan;
use super::ports::Ports;
use crate::env::{Env, is_executable};
use crate::http::{Call, Target, send};
use crate::process::Group;
use crate::process::guard::Guard;
use crate::settings::Settings;

/// Where the control plane of a laptop is.
const TRUST_DOMAIN: &str = "localhost";
const NAMESPACE: &str = "default";
const START_LIMIT: Duration = Duration::from_secs(20);
const RESTART_PAUSE: Duration = Duration::from_secs(1);
const STOP_GRACE: Duration = Duration::from_secs(2);
/// Sentry insists on a Configuration; its defaults are meant.
const CONFIGURATION: &str =
    "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: daprsystem\nspec: {}\n";

/// Whether this run's sidecars are encrypted.
pub(super) enum Mtls {
    /// By this authority.
    On(Authority),
    /// Not, and why if nobody asked for that.
    Off(Option<String>),
}

/// A running sentry.
pub(super) struct Authority {
    address: String,
    anchors: String,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
    /// Its configuration and log; goes when this goes.
    _temporary: tempfile::TempDir,
}

impl Mtls {
    /// Decides, and starts what is needed.
    ///
    /// # Errors
    /// If it was asked for and cannot be, or if the authority does not start.
    pub(super) async fn prepare(
        apps: &[Settings],
        install: &Path,
        env: &Env,
        guard: &Guard,
    ) -> anyhow::Result<Self> {
        let asked = apps.iter().any(|app| app.enable_mtls == Some(true));
        if !asked {
            if apps.iter().all(|app| app.enable_mtls == Some(false)) {
                return Ok(Self::Off(None));
            }
            if let Some(reason) = against(apps) {
                return Ok(Self::Off(Some(reason)));
            }
        }
        let own = std::env::current_exe().ok();
        let sentry = match find(own.as_deref(), install, env) {
            Ok(sentry) => sentry,
            Err(error) if asked => return Err(error.context("--enable-mtls needs an authority")),
            Err(error) => return Ok(Self::Off(Some(error.to_string()))),
        };
        Ok(Self::On(Authority::start(&sentry, install, guard).await?))
    }

    /// Makes an app's sidecar use it, unless its settings say otherwise. `wanted` is its `enable_mtls`.
    pub(super) fn apply(&self, plan: &mut Plan, wanted: Option<bool>) {
        let Self::On(authority) = self else { return };
        if wanted == Some(false) {
            return;
        }
        let words = [
            "--enable-mtls",
            "--sentry-address",
            &authority.address,
            "--control-plane-trust-domain",
            TRUST_DOMAIN,
            "--control-plane-namespace",
            NAMESPACE,
        ];
        plan.daprd_args.extend(words.map(str::to_owned));
        plan.daprd_env.extend([
            ("DAPR_TRUST_ANCHORS".to_owned(), authority.anchors.clone()),
            // One from elsewhere would win.
            ("DAPR_TRUST_ANCHORS_FILE".to_owned(), String::new()),
        ]);
    }

    /// What was chosen, in words, where it is worth saying.
    pub(super) fn notice(&self) -> Option<String> {
        match self {
            Self::On(_) => {
                Some("sidecars talk over mutual TLS (--enable-mtls=false for plain text)".to_owned())
            }
            Self::Off(reason) => reason
                .as_ref()
                .map(|reason| format!("sidecars talk in plain text: {reason}")),
        }
    }

    /// Ends the authority.
    pub(super) async fn stop(self) {
        if let Self::On(authority) = self {
            let _ = authority.stop.send(());
            // It ends by being told to; what could be wrong with it is over with it.
            let _ = authority.running.await;
        }
    }
}

/// What speaks against it where nobody asked.
fn against(apps: &[Settings]) -> Option<String> {
    let has = |address: &Option<String>| address.as_ref().is_some_and(|address| !address.is_empty());
    apps.iter()
        .any(|app| has(&app.placement_host_address) || has(&app.scheduler_host_address))
        .then(|| {
            "with mTLS, the placement and scheduler services that were named would need it too (--enable-mtls if they have it)"
                .to_owned()
        })
}

/// The sentry binary: `$OUTRIGGER_SENTRY` (`off` for none), else the one beside our own binary, else the installed one,
/// else the first in `PATH`.
fn find(own: Option<&Path>, install: &Path, env: &Env) -> anyhow::Result<PathBuf> {
    match env.get("OUTRIGGER_SENTRY") {
        Some("off") => bail!("$OUTRIGGER_SENTRY is off"),
        Some(path) => {
            let path = PathBuf::from(path);
            ensure!(
                is_executable(&path),
                "$OUTRIGGER_SENTRY names {}, which is no executable file",
                path.display()
            );
            return Ok(path);
        }
        None => {}
    }
    let beside = own.and_then(Path::parent).map(|dir| dir.join("sentry"));
    let installed = install.join("bin").join("sentry");
    beside
        .into_iter()
        .chain([installed])
        .find(|path| is_executable(path))
        .or_else(|| env.find_in_path("sentry"))
        .context(
            "there is no `sentry` binary beside outrigger, in the install folder or in PATH (`cargo build -p outrigger-sentry`)",
        )
}

impl Authority {
    async fn start(sentry: &Path, install: &Path, guard: &Guard) -> anyhow::Result<Self> {
        let certs = install.join("outrigger").join("certs");
        private_folder(&certs).with_context(|| format!("cannot make {}", certs.display()))?;
        let temporary = tempfile::Builder::new()
            .prefix("outrigger-sentry-")
            .tempdir()
            .context("cannot make a temporary folder")?;
        std::fs::write(temporary.path().join("daprsystem"), CONFIGURATION)
            .context("cannot write sentry's configuration")?;
        let mut ports = Ports::default();
        let (port, health) = (ports.pick()?, ports.pick()?);
        ports.release();
        let process = Process {
            sentry: sentry.to_owned(),
            folder: temporary.path().to_owned(),
            certs: certs.clone(),
            port,
            health,
            guard: guard.clone(),
        };
        let mut group = process.spawn()?;
        process.ready(&mut group).await?;
        let anchors = std::fs::read_to_string(certs.join("ca.crt"))
            .with_context(|| format!("sentry left no root certificate in {}", certs.display()))?;
        let (stop, stopped) = oneshot::channel();
        Ok(Self {
            address: format!("127.0.0.1:{port}"),
            anchors,
            stop,
            running: tokio::spawn(process.keep(group, stopped)),
            _temporary: temporary,
        })
    }
}

/// How sentry is run.
struct Process {
    sentry: PathBuf,
    folder: PathBuf,
    certs: PathBuf,
    port: u16,
    health: u16,
    guard: Guard,
}

impl Process {
    fn spawn(&self) -> anyhow::Result<Group> {
        let mut command = Command::new(&self.sentry);
        command
            .args(["--mode", "standalone", "--trust-domain", TRUST_DOMAIN])
            .arg("--config")
            .arg(self.folder.join("daprsystem"))
            .arg("--issuer-credentials")
            .arg(&self.certs)
            .args(["--listen-address", "127.0.0.1", "--port", &self.port.to_string()])
            .args([
                "--healthz-listen-address",
                "127.0.0.1",
                "--healthz-port",
                &self.health.to_string(),
            ])
            .arg("--enable-metrics=false")
            .arg("--log-file")
            .arg(self.folder.join("sentry.log"))
            .env("NAMESPACE", NAMESPACE)
            .current_dir(&self.folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Group::start_quiet(command, &self.guard)
            .with_context(|| format!("cannot start {}", self.sentry.display()))
    }

    /// Waits until it signs.
    async fn ready(&self, group: &mut Group) -> anyhow::Result<()> {
        let (target, deadline) = (Target::Port(self.health), Instant::now() + START_LIMIT);
        loop {
            let answer = send(&target, Call::get("/healthz"), Duration::from_secs(1)).await;
            if answer.is_ok_and(|(status, _)| status.is_success()) {
                return Ok(());
            }
            if let Ok(Some(status)) = group.child().try_wait() {
                bail!(
                    "sentry ended at once ({status}): {}\n--enable-mtls=false does without it",
                    self.last_words()
                );
            }
            ensure!(
                Instant::now() < deadline,
                "sentry is not ready after {START_LIMIT:?}: {}\n--enable-mtls=false does without it",
                self.last_words()
            );
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.folder.join("sentry.log")).unwrap_or_default();
        log.lines().last().unwrap_or("it said nothing").to_owned()
    }

    /// Starts it again whenever it ends, until told to stop: certificates have to be renewed while apps run.
    async fn keep(self, mut group: Group, mut stopped: oneshot::Receiver<()>) {
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                _ = group.wait() => {}
            }
            tokio::select! {
                _ = &mut stopped => break,
                () = sleep(RESTART_PAUSE) => {}
            }
            if let Ok(again) = self.spawn() {
                group = again;
            }
        }
        // What does not end is the guard's affair.
        let _ = group.stop(STOP_GRACE).await;
    }
}

/// A folder that nobody else can read: whoever has the key in it can be any app.
fn private_folder(path: &Path) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn notice_of(apps: &[Settings], env: &Env) -> anyhow::Result<Option<String>> {
        let home = tempfile::tempdir().unwrap();
        let mtls = Mtls::prepare(apps, home.path(), env, &Guard::none()).await?;
        Ok(mtls.notice())
    }

    fn wants(enable_mtls: Option<bool>) -> Settings {
        Settings {
            enable_mtls,
            ..Settings::default()
        }
    }

    #[tokio::test]
    async fn plain_text_is_said_unless_it_was_asked_for() {
        let off = Env::from([("OUTRIGGER_SENTRY", "off")]);
        assert_eq!(notice_of(&[wants(Some(false))], &off).await.unwrap(), None);
        let notice = notice_of(&[wants(None)], &off).await.unwrap().unwrap();
        assert_eq!(notice, "sidecars talk in plain text: $OUTRIGGER_SENTRY is off");
        let placement = Settings {
            placement_host_address: Some("localhost:50005".into()),
            ..Settings::default()
        };
        let notice = notice_of(&[placement, wants(None)], &off).await.unwrap().unwrap();
        assert!(notice.contains("placement and scheduler"), "{notice}");
    }

    #[tokio::test]
    async fn what_was_asked_for_is_had_or_an_error() {
        let off = Env::from([("OUTRIGGER_SENTRY", "off")]);
        let error = notice_of(&[wants(Some(true)), wants(None)], &off)
            .await
            .unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "--enable-mtls needs an authority: $OUTRIGGER_SENTRY is off"
        );
        let wrong = Env::from([("OUTRIGGER_SENTRY", "/bin/false")]);
        let error = notice_of(&[wants(None)], &wrong).await.unwrap_err();
        assert!(error.to_string().starts_with("sentry ended at once"), "{error}");
    }

    #[test]
    fn the_folder_of_the_key_is_for_its_owner_only() {
        let home = tempfile::tempdir().unwrap();
        let certs = home.path().join("a/certs");
        for _ in 0..2 {
            private_folder(&certs).unwrap();
            let mode = certs.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
        }
    }
}
