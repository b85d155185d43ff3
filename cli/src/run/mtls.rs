//! Encrypted connections between the sidecars of this machine: an authority (sentry) of the user's own.
//!
//! Its files lie in `<install folder>/outrigger/certs`, so sidecars of several runs trust each other; each run has its
//! own sentry process over them, which ends with it. On unless something speaks against it: then sidecars talk in
//! plain text, and [`Mtls::notice`] says why. Who asks for it by `--enable-mtls` gets it or an error.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::plan::Plan;
use super::ports::Ports;
use super::service::{self, Process};
use crate::env::Env;
use crate::process::guard::Guard;
use crate::settings::Settings;

/// Where the control plane of a laptop is.
const TRUST_DOMAIN: &str = "localhost";
pub(super) const NAMESPACE: &str = "default";
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
    anchors_file: PathBuf,
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
        let sentry = match service::find("sentry", "OUTRIGGER_SENTRY", own.as_deref(), install, env) {
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

    /// What makes services trust the run's authority, for a run that has one.
    pub(super) fn service_args(&self) -> Option<Vec<String>> {
        let Self::On(authority) = self else { return None };
        let anchors = authority.anchors_file.display().to_string();
        let words = [
            "--tls-enabled",
            "--sentry-address",
            &authority.address,
            "--trust-domain",
            TRUST_DOMAIN,
            "--trust-anchors-file",
            &anchors,
        ];
        Some(words.map(str::to_owned).into())
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
        let words = [
            "--mode",
            "standalone",
            "--trust-domain",
            TRUST_DOMAIN,
            "--listen-address",
            "127.0.0.1",
        ];
        let mut args: Vec<String> = words.map(str::to_owned).into();
        args.extend([
            "--config".to_owned(),
            temporary.path().join("daprsystem").display().to_string(),
            "--issuer-credentials".to_owned(),
            certs.display().to_string(),
            "--port".to_owned(),
            port.to_string(),
        ]);
        let process = Process {
            name: "sentry",
            binary: sentry.to_owned(),
            args,
            namespace: NAMESPACE,
            folder: temporary.path().to_owned(),
            health,
            without: "--enable-mtls=false",
            guard: guard.clone(),
        };
        let mut group = process.spawn()?;
        process.ready(&mut group).await?;
        let anchors_file = certs.join("ca.crt");
        let anchors = std::fs::read_to_string(&anchors_file)
            .with_context(|| format!("sentry left no root certificate in {}", certs.display()))?;
        let (stop, stopped) = oneshot::channel();
        Ok(Self {
            address: format!("127.0.0.1:{port}"),
            anchors,
            anchors_file,
            stop,
            running: tokio::spawn(process.keep(Some(group), stopped)),
            _temporary: temporary,
        })
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
