//! Placement and scheduler of a laptop: actors, reminders and jobs without a further step.
//!
//! All runs of a user share them, since actors of one run call those of another and a job must be triggered once. Who
//! holds the lock on `<install folder>/outrigger/services/<mode>.lock` runs them; their ports are in `<mode>.json`
//! beside it. When that run ends, by whatever means, the system gives the lock to another run, which starts them on
//! the same ports and the same data; sidecars connect again by themselves. The last run's end is theirs.
//!
//! There is one set with mTLS and one without (`<mode>` is `mtls` or `plain`), each with jobs of its own, because a
//! service speaks either.
//!
//! An app whose settings name an address, or an empty one for none, keeps that. `$OUTRIGGER_PLACEMENT` and
//! `$OUTRIGGER_SCHEDULER` name a binary, or `off`.

use std::fs::{File, TryLockError};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::mtls::{Mtls, NAMESPACE};
use super::ports::Ports;
use super::service::{self, Process};
use crate::env::Env;
use crate::process::Group;
use crate::process::guard::Guard;
use crate::settings::Settings;

/// How often a run looks whether the services have become its own affair.
const LOOK: Duration = Duration::from_millis(250);
/// How long another run may take to start them.
const START_LIMIT: Duration = Duration::from_secs(25);
/// How long the ports of the last time may still be somebody's.
const PORTS_LIMIT: Duration = Duration::from_secs(6);
/// Where `dapr scheduler` looks for jobs.
const USUAL_ETCD: u16 = 2379;

/// The services of a run.
#[derive(Default)]
pub(super) struct Shared {
    sets: Vec<Set>,
    notices: Vec<String>,
}

/// Which services there are binaries for.
#[derive(Debug, Clone, Default)]
struct Binaries {
    placement: Option<PathBuf>,
    scheduler: Option<PathBuf>,
}

impl Binaries {
    /// Whether the user named one.
    fn are_asked_for(&self, env: &Env) -> bool {
        let named = |binary: &Option<PathBuf>, variable| binary.is_some() && env.get(variable).is_some();
        named(&self.placement, "OUTRIGGER_PLACEMENT") || named(&self.scheduler, "OUTRIGGER_SCHEDULER")
    }
}

/// The services of one mode.
struct Set {
    mtls: bool,
    binaries: Binaries,
    ports: ServicePorts,
    stop: oneshot::Sender<()>,
    keeping: JoinSet<()>,
}

/// Where they listen, as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ServicePorts {
    placement: u16,
    placement_peers: u16,
    placement_health: u16,
    scheduler: u16,
    scheduler_etcd: u16,
    scheduler_health: u16,
}

/// What it takes to run the services of one mode.
#[derive(Debug, Clone)]
struct Recipe {
    binaries: Binaries,
    /// `<install folder>/outrigger`.
    data: PathBuf,
    mode: &'static str,
    /// Arguments for mTLS.
    tls: Vec<String>,
    guard: Guard,
}

impl Shared {
    /// Starts what the apps need and no other run has, and waits until it is ready.
    ///
    /// # Errors
    /// If a service that `$OUTRIGGER_PLACEMENT` or `$OUTRIGGER_SCHEDULER` names does not exist or does not start. One that
    /// nobody asked for is only missed: most apps need neither, and must not fail for it.
    pub(super) async fn prepare(
        apps: &[Settings],
        mtls: &Mtls,
        install: &Path,
        env: &Env,
        guard: &Guard,
    ) -> anyhow::Result<Self> {
        let mut shared = Self::default();
        let binaries = shared.binaries(apps, install, env)?;
        if binaries.placement.is_none() && binaries.scheduler.is_none() {
            return Ok(shared);
        }
        let tls = mtls.service_args();
        for encrypted in [true, false] {
            let wanted = |app: &&Settings| {
                (app.placement_host_address.is_none() || app.scheduler_host_address.is_none())
                    && is_encrypted(app, tls.is_some()) == encrypted
            };
            if !apps.iter().any(|app| wanted(&app)) {
                continue;
            }
            let recipe = Recipe {
                binaries: binaries.clone(),
                data: install.join("outrigger"),
                mode: if encrypted { "mtls" } else { "plain" },
                tls: tls.clone().filter(|_| encrypted).unwrap_or_default(),
                guard: guard.clone(),
            };
            match Set::start(recipe, encrypted).await {
                Ok(set) => shared.sets.push(set),
                Err(error) if binaries.are_asked_for(env) => return Err(error),
                Err(error) => shared.notices.push(format!(
                    "warning: no actors, jobs and reminders unless an address is given: {error:#}"
                )),
            }
        }
        Ok(shared)
    }

    /// Looks for the binaries; notes those that are missing and were not switched off.
    fn binaries(&mut self, apps: &[Settings], install: &Path, env: &Env) -> anyhow::Result<Binaries> {
        let own = std::env::current_exe().ok();
        let mut look = |name, variable, without: &str, is_needed: bool| {
            if !is_needed || env.get(variable) == Some("off") {
                return Ok(None);
            }
            match service::find(name, variable, own.as_deref(), install, env) {
                Ok(path) => Ok(Some(path)),
                Err(error) if env.get(variable).is_some() => Err(error),
                Err(error) => {
                    self.notices.push(format!("no {without}: {error}"));
                    Ok(None)
                }
            }
        };
        let any = |address: fn(&Settings) -> bool| apps.iter().any(address);
        Ok(Binaries {
            placement: look(
                "placement",
                "OUTRIGGER_PLACEMENT",
                "actors",
                any(|app| app.placement_host_address.is_none()),
            )?,
            scheduler: look(
                "scheduler",
                "OUTRIGGER_SCHEDULER",
                "jobs and reminders",
                any(|app| app.scheduler_host_address.is_none()),
            )?,
        })
    }

    /// Gives an app their addresses where its settings say nothing.
    pub(super) fn apply(&self, settings: &mut Settings) {
        let has_tls = self.sets.iter().any(|set| set.mtls);
        let encrypted = is_encrypted(settings, has_tls);
        let Some(set) = self.sets.iter().find(|set| set.mtls == encrypted) else {
            return;
        };
        let give = |address: &mut Option<String>, binary: &Option<PathBuf>, port: u16| {
            if address.is_none() && binary.is_some() {
                *address = Some(format!("127.0.0.1:{port}"));
            }
        };
        give(
            &mut settings.placement_host_address,
            &set.binaries.placement,
            set.ports.placement,
        );
        give(
            &mut settings.scheduler_host_address,
            &set.binaries.scheduler,
            set.ports.scheduler,
        );
    }

    /// What is missing, in words.
    pub(super) fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Ends the services if they are this run's; another run takes over.
    pub(super) async fn stop(self) {
        for mut set in self.sets {
            let _ = set.stop.send(());
            // It ends by being told to; what could be wrong with it is over with it.
            while set.keeping.join_next().await.is_some() {}
        }
    }
}

/// Whether an app's sidecar uses mTLS, given whether the run has an authority.
fn is_encrypted(app: &Settings, has_authority: bool) -> bool {
    has_authority && app.enable_mtls != Some(false)
}

impl Set {
    /// Starts the services, or finds those of another run.
    async fn start(recipe: Recipe, mtls: bool) -> anyhow::Result<Self> {
        let folder = recipe.data.join("services");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let deadline = Instant::now() + START_LIMIT;
        let (ports, owned) = loop {
            if let Some(lock) = recipe.try_lock()? {
                let ports = recipe.choose_ports().await?;
                let running = recipe.start(&ports).await?;
                break (ports, Some((lock, running)));
            }
            if let Some(ports) = recipe.read_ports()
                && recipe.is_ready(&ports).await
            {
                break (ports, None);
            }
            ensure!(
                Instant::now() < deadline,
                "another `outrigger run` has the services in {} and they are not ready after {START_LIMIT:?}; their logs \
                 are there; OUTRIGGER_PLACEMENT=off and OUTRIGGER_SCHEDULER=off do without them",
                folder.display()
            );
            sleep(Duration::from_millis(20)).await;
        };
        let (stop, stopped) = oneshot::channel();
        let binaries = recipe.binaries.clone();
        let mut keeping = JoinSet::new();
        keeping.spawn(keep(recipe, ports.clone(), owned, stopped));
        Ok(Self {
            mtls,
            binaries,
            ports,
            stop,
            keeping,
        })
    }
}

type Running = Vec<(Process, Option<Group>)>;

/// Keeps the services running while they are this run's, and makes them so once nobody else has them.
async fn keep(
    recipe: Recipe,
    ports: ServicePorts,
    owned: Option<(File, Running)>,
    mut stopped: oneshot::Receiver<()>,
) {
    let (_lock, running) = match owned {
        Some(owned) => owned,
        None => {
            let lock = loop {
                tokio::select! {
                    _ = &mut stopped => return,
                    () = sleep(LOOK) => {}
                }
                // What fails now may work the next time; nothing else can be done about it here.
                if let Ok(Some(lock)) = recipe.try_lock() {
                    break lock;
                }
            };
            let processes = recipe.processes(&ports);
            (
                lock,
                processes.into_iter().map(|process| (process, None)).collect(),
            )
        }
    };
    let mut keepers = JoinSet::new();
    let mut stops = Vec::new();
    for (process, group) in running {
        let (stop, stopped) = oneshot::channel();
        stops.push(stop);
        keepers.spawn(process.keep(group, stopped));
    }
    // An error is the end of the run, too.
    let _ = stopped.await;
    for stop in stops {
        let _ = stop.send(());
    }
    while keepers.join_next().await.is_some() {}
}

impl Recipe {
    fn file(&self, ending: &str) -> PathBuf {
        self.data.join("services").join(format!("{}.{ending}", self.mode))
    }

    /// The lock, if nobody has it.
    fn try_lock(&self) -> anyhow::Result<Option<File>> {
        let path = self.file("lock");
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    fn read_ports(&self) -> Option<ServicePorts> {
        serde_json::from_slice(&std::fs::read(self.file("json")).ok()?).ok()
    }

    /// Those of the last time, once they are free: sidecars of other runs may know them. Else new ones.
    async fn choose_ports(&self) -> anyhow::Result<ServicePorts> {
        let deadline = Instant::now() + PORTS_LIMIT;
        while let Some(ports) = self.read_ports() {
            if ports.are_free() {
                return Ok(ports);
            }
            if Instant::now() >= deadline {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        let ports = ServicePorts::pick()?;
        let path = self.file("json");
        let new = self.file("json.new");
        std::fs::write(&new, serde_json::to_vec(&ports)?)
            .and_then(|()| std::fs::rename(&new, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(ports)
    }

    async fn start(&self, ports: &ServicePorts) -> anyhow::Result<Running> {
        let mut running = Vec::new();
        for process in self.processes(ports) {
            std::fs::create_dir_all(&process.folder)
                .with_context(|| format!("cannot make {}", process.folder.display()))?;
            let group = process.spawn()?;
            running.push((process, Some(group)));
        }
        for (process, group) in &mut running {
            if let Some(group) = group {
                process.ready(group).await?;
            }
        }
        Ok(running)
    }

    async fn is_ready(&self, ports: &ServicePorts) -> bool {
        let placement = self.binaries.placement.is_none() || service::healthy(ports.placement_health).await;
        placement && (self.binaries.scheduler.is_none() || service::healthy(ports.scheduler_health).await)
    }

    fn processes(&self, ports: &ServicePorts) -> Vec<Process> {
        let process = |name, binary: &PathBuf, health, without, args: Vec<String>| Process {
            name,
            binary: binary.clone(),
            args: args.into_iter().chain(self.tls.iter().cloned()).collect(),
            namespace: NAMESPACE,
            folder: self.data.join("services").join(self.mode),
            health,
            without,
            guard: self.guard.clone(),
        };
        let placement = self.binaries.placement.as_ref().map(|binary| {
            let args = vec![
                "--listen-address=127.0.0.1".to_owned(),
                format!("--port={}", ports.placement),
                format!(
                    "--initial-cluster=dapr-placement-0=127.0.0.1:{}",
                    ports.placement_peers
                ),
            ];
            let without = "OUTRIGGER_PLACEMENT=off";
            process("placement", binary, ports.placement_health, without, args)
        });
        let scheduler = self.binaries.scheduler.as_ref().map(|binary| {
            let args = vec![
                "--listen-address=127.0.0.1".to_owned(),
                format!("--port={}", ports.scheduler),
                format!("--override-broadcast-host-port=127.0.0.1:{}", ports.scheduler),
                format!("--etcd-client-port={}", ports.scheduler_etcd),
                format!(
                    "--etcd-data-dir={}",
                    self.data.join("scheduler").join(self.mode).display()
                ),
            ];
            let without = "OUTRIGGER_SCHEDULER=off";
            process("scheduler", binary, ports.scheduler_health, without, args)
        });
        placement.into_iter().chain(scheduler).collect()
    }
}

impl ServicePorts {
    fn pick() -> anyhow::Result<Self> {
        let mut ports = Ports::default();
        let usual = TcpListener::bind((Ipv4Addr::LOCALHOST, USUAL_ETCD)).is_ok();
        let chosen = Self {
            placement: ports.pick()?,
            placement_peers: ports.pick()?,
            placement_health: ports.pick()?,
            scheduler: ports.pick()?,
            scheduler_etcd: if usual { USUAL_ETCD } else { ports.pick()? },
            scheduler_health: ports.pick()?,
        };
        ports.release();
        Ok(chosen)
    }

    fn are_free(&self) -> bool {
        let all = [
            self.placement,
            self.placement_peers,
            self.placement_health,
            self.scheduler,
            self.scheduler_etcd,
            self.scheduler_health,
        ];
        all.iter()
            .all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn prepare(apps: &[Settings], env: &Env, home: &Path) -> anyhow::Result<Shared> {
        Shared::prepare(apps, &Mtls::Off(None), home, env, &Guard::none()).await
    }

    #[tokio::test]
    async fn addresses_that_are_given_stay_even_if_they_are_empty() {
        let home = tempfile::tempdir().unwrap();
        // Binaries that would be errors if somebody looked for them.
        let env = Env::from([
            ("OUTRIGGER_PLACEMENT", "/nowhere"),
            ("OUTRIGGER_SCHEDULER", "/nowhere"),
        ]);
        let mut app = Settings {
            placement_host_address: Some("p:1".into()),
            scheduler_host_address: Some(String::new()),
            ..Settings::default()
        };
        let shared = prepare(std::slice::from_ref(&app), &env, home.path())
            .await
            .unwrap();
        shared.apply(&mut app);
        assert_eq!(app.placement_host_address.as_deref(), Some("p:1"));
        assert_eq!(app.scheduler_host_address.as_deref(), Some(""));
        assert!(shared.notices().is_empty());
        let error = prepare(&[Settings::default()], &env, home.path())
            .await
            .err()
            .unwrap();
        assert!(
            error.to_string().contains("$OUTRIGGER_PLACEMENT names /nowhere"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_service_that_ends_at_once_is_an_error_that_says_how_to_do_without() {
        let home = tempfile::tempdir().unwrap();
        let env = Env::from([
            ("OUTRIGGER_PLACEMENT", "/bin/false"),
            ("OUTRIGGER_SCHEDULER", "off"),
        ]);
        let error = prepare(&[Settings::default()], &env, home.path())
            .await
            .err()
            .unwrap();
        let text = error.to_string();
        assert!(text.starts_with("placement ended at once"), "{text}");
        assert!(text.contains("OUTRIGGER_PLACEMENT=off does without it"), "{text}");
    }

    #[tokio::test]
    async fn a_service_that_nobody_asked_for_and_that_does_not_start_is_a_warning() {
        let home = tempfile::tempdir().unwrap();
        let bin = home.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink("/bin/false", bin.join("placement")).unwrap();
        let env = Env::from([("OUTRIGGER_SCHEDULER", "off")]);
        let mut app = Settings::default();
        let shared = prepare(std::slice::from_ref(&app), &env, home.path())
            .await
            .unwrap();
        let [notice] = shared.notices() else {
            panic!("{:?}", shared.notices())
        };
        assert!(notice.contains("placement ended at once"), "{notice}");
        shared.apply(&mut app);
        assert_eq!(app.placement_host_address, None);
    }

    #[tokio::test]
    async fn ports_of_the_last_time_are_used_again_and_one_run_has_the_lock() {
        let home = tempfile::tempdir().unwrap();
        let recipe = Recipe {
            binaries: Binaries::default(),
            data: home.path().to_owned(),
            mode: "plain",
            tls: Vec::new(),
            guard: Guard::none(),
        };
        std::fs::create_dir_all(home.path().join("services")).unwrap();
        let lock = recipe.try_lock().unwrap();
        assert!(lock.is_some());
        assert!(recipe.try_lock().unwrap().is_none());
        drop(lock);
        assert!(recipe.try_lock().unwrap().is_some());
        std::fs::write(recipe.file("json"), "{").unwrap();
        let ports = recipe.choose_ports().await.unwrap();
        assert_eq!(recipe.read_ports(), Some(ports));
    }
}
