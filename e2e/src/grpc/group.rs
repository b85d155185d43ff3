//! What is running for all cases of one setup.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::app::{Answers, GrpcApp};
use super::apps::App;
use super::fake_placement::FakePlacement;
use super::frame::BYTES;
use super::vector::{Setup, SidecarSetup, fill_in, processes_of};
use crate::http::pattern::Values;
use crate::process::{Daprd, DaprdOptions, Exclusive, RedisServer, exclusive};
use crate::services::{RunningService, Service};

/// Statuses of `/v1.0/healthz` that mean "up": the rest is said by token checks.
const READY: [u16; 4] = [204, 400, 401, 403];
/// How many setups run at the same time in one test process.
static RUNNING: Semaphore = Semaphore::const_new(4);
/// Wait at least this long after start: the recorded sidecars took longer to say that they are ready, and had probed
/// their apps by then.
const LEAST_SETTLE: Duration = Duration::from_millis(150);
/// App ids that sidecars of several setups look for by multicast, which reaches all of them.
const LOOKED_FOR: [&str; 5] = ["galpha", "halpha", "breaks", "slow", "callee"];
/// Everything one setup names, running. Ends when dropped.
#[derive(Debug)]
pub struct Group {
    sidecars: Vec<Daprd>,
    apps: Vec<(String, App)>,
    redis: Option<RedisServer>,
    _scheduler: Option<RunningService>,
    /// Told to every sidecar; held for as long as they run.
    _placement: Option<Placement>,
    values: Values,
    start_calls: Vec<Value>,
    _alone: Option<Exclusive>,
    _permit: SemaphorePermit<'static>,
    _tmp: TempDir,
}

impl Group {
    /// Starts what the setup of the first of the cases says and waits as long as the most patient one asks.
    ///
    /// # Errors
    /// Which sidecar did not come up, with its log; or what the setup needs and is not there yet.
    ///
    /// # Panics
    /// If this machine lacks something: a binary, Redis, space for files.
    pub async fn start(cases: &[Value]) -> Result<Self, String> {
        let first = processes_of(&cases[0]);
        let mut setup = first.clone();
        if let Some(members) = setup.as_object_mut() {
            members.remove("only");
        }
        let setup: Setup = serde_json::from_value(setup).expect("setups have the members the README says");
        if let Some(service) = missing_service(&setup) {
            return Err(format!("the service {service} cannot be started yet"));
        }
        let looked_for = |s: &SidecarSetup| LOOKED_FOR.contains(&s.app_id.as_str());
        let alone = if setup.sidecars.len() > 1 || setup.sidecars.iter().any(looked_for) {
            Some(exclusive("mdns").await)
        } else {
            None
        };
        // After the wait above, so that those who wait for each other do not hold up the others.
        let permit = RUNNING.acquire().await.expect("the semaphore is never closed");
        let tmp = tempfile::tempdir().expect("temporary folders can be made");
        let mut apps = Vec::new();
        let mut names = BTreeMap::new();
        let needs = |service: &str| setup.services.iter().any(|s| s == service);
        let redis = if needs("redis") {
            let folder = tmp.path().join("redis");
            std::fs::create_dir(&folder).expect("temporary folders can be made");
            let redis = RedisServer::start(&folder).await;
            names.insert("redis-port".to_owned(), redis.port().to_string());
            Some(redis)
        } else {
            None
        };
        let scheduler = if needs("scheduler") {
            Some(start_scheduler(tmp.path(), &mut names).await)
        } else {
            None
        };
        if needs("fake-internal") {
            let internal = GrpcApp::internal("fake-internal").await;
            names.insert("fake-internal-port".to_owned(), internal.port().to_string());
            apps.push(("fake-internal".to_owned(), App::Grpc(internal)));
        }
        let placement = Placement::start(&setup, &names, tmp.path()).await;
        let mut sidecars = Vec::new();
        for sidecar in &setup.sidecars {
            let app = App::start(sidecar).await;
            let mut sidecar = sidecar.clone();
            sidecar.flags.extend(placement.iter().flat_map(Placement::flags));
            sidecars.push(start_sidecar(&sidecar, app.as_ref(), tmp.path(), &mut names)?);
            apps.extend(app.map(|app| (sidecar.app_id.clone(), app)));
        }
        for sidecar in &mut sidecars {
            sidecar.try_ready(&READY).await?;
        }
        let settle = cases
            .iter()
            .filter_map(|c| c["setup"]["settle_ms"].as_u64())
            .max();
        tokio::time::sleep(LEAST_SETTLE.max(Duration::from_millis(settle.unwrap_or_default()))).await;
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        names.insert("hostname".to_owned(), hostname.trim().to_owned());
        let mut group = Self {
            sidecars,
            apps,
            redis,
            _scheduler: scheduler,
            _placement: placement,
            values: Values::new(names),
            start_calls: Vec::new(),
            _alone: alone,
            _permit: permit,
            _tmp: tmp,
        };
        group.start_calls = group.take_calls();
        Ok(group)
    }

    /// Makes the apps answer as a case says, and forgets what they were asked before.
    pub fn begin_case(&mut self, answers: &BTreeMap<String, Answers>) {
        for (name, app) in &self.apps {
            app.script(answers.get(name).unwrap_or(&Answers::new()));
        }
        self.take_calls();
    }

    /// Values for `<name>` in recorded results.
    #[must_use]
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// What the apps got before the first step.
    #[must_use]
    pub fn start_calls(&self) -> &[Value] {
        &self.start_calls
    }

    /// The sidecar with that app id, or the first.
    ///
    /// # Panics
    /// If there is none with that id.
    #[must_use]
    pub fn sidecar(&self, app_id: Option<&str>) -> &Daprd {
        let index = app_id.map_or(Some(0), |id| self.sidecars.iter().position(|s| s.app_id() == id));
        &self.sidecars[index.expect("vectors name sidecars of their setup")]
    }

    /// Redis, if the setup has one.
    #[must_use]
    pub fn redis(&self) -> Option<&RedisServer> {
        self.redis.as_ref()
    }

    /// How many calls the apps got since they were last taken.
    #[must_use]
    pub fn call_count(&self) -> usize {
        self.apps.iter().map(|(_, app)| app.call_count()).sum()
    }

    /// The calls all apps got since they were last taken.
    pub fn take_calls(&mut self) -> Vec<Value> {
        self.apps.iter().flat_map(|(_, app)| app.take_calls()).collect()
    }

    /// The logs of sidecars that have ended, if any has.
    pub fn ended(&mut self) -> Option<String> {
        let ended = self.sidecars.iter_mut().filter_map(|sidecar| {
            let status = sidecar.process().exited()?;
            let log = sidecar.process().log_tail();
            Some(format!("sidecar {} has ended: {status}\n{log}", sidecar.app_id()))
        });
        ended.reduce(|a, b| format!("{a}\n{b}"))
    }

    /// The logs of all sidecars, for people.
    pub fn logs(&mut self) -> String {
        let logs = self.sidecars.iter_mut().map(|s| s.process().log_tail());
        logs.collect::<Vec<_>>().join("\n")
    }
}

/// A scheduler with a store of its own.
async fn start_scheduler(tmp: &Path, names: &mut BTreeMap<String, String>) -> RunningService {
    let dir = tmp.join("scheduler");
    std::fs::create_dir(&dir).expect("temporary folders can be made");
    let service = Service::named("scheduler").expect("it has a line in e2e/src/services.rs");
    let local = ["--listen-address=127.0.0.1".to_owned()];
    let mut scheduler = RunningService::start(service, &dir, &local, &[]);
    scheduler.wait_ready().await;
    names.insert("scheduler-port".to_owned(), scheduler.port(0).to_string());
    scheduler
}

/// The placement service of a setup.
#[derive(Debug)]
enum Placement {
    Real(Box<RunningService>),
    Fake(FakePlacement),
}

impl Placement {
    async fn start(setup: &Setup, names: &BTreeMap<String, String>, tmp: &Path) -> Option<Self> {
        let needs = |service: &str| setup.services.iter().any(|s| s == service);
        if needs("fake-placement") {
            let port = names
                .get("fake-internal-port")
                .map(String::as_str)
                .unwrap_or_default();
            let address = format!("127.0.0.1:{port}");
            return Some(Self::Fake(
                FakePlacement::start(&setup.fake_actor_types, &address).await,
            ));
        }
        if !needs("placement") {
            return None;
        }
        let dir = tmp.join("placement");
        std::fs::create_dir(&dir).expect("temporary folders can be made");
        let service = Service::named("placement").expect("the service exists");
        let mut running = RunningService::start(service, &dir, &[], &[]);
        running.wait_ready().await;
        Some(Self::Real(Box::new(running)))
    }

    fn flags(&self) -> [String; 2] {
        let port = match self {
            Self::Real(service) => service.port(0),
            Self::Fake(service) => service.port(),
        };
        ["--placement-host-address".to_owned(), format!("127.0.0.1:{port}")]
    }
}

/// A service that belongs to a later issue.
fn missing_service(setup: &Setup) -> Option<&str> {
    let there = [
        "redis",
        "fake-internal",
        "fake-placement",
        "placement",
        "scheduler",
    ];
    let mut services = setup.services.iter().map(String::as_str);
    services.find(|s| !there.contains(s))
}

fn start_sidecar(
    sidecar: &SidecarSetup,
    app: Option<&App>,
    tmp: &Path,
    names: &mut BTreeMap<String, String>,
) -> Result<Daprd, String> {
    let dir = tmp.join(format!("sidecar-{}", sidecar.app_id));
    names.insert("dir".to_owned(), dir.display().to_string());
    if let Some(app) = app {
        names.insert("app-port".to_owned(), app.port().to_string());
    }
    for (name, text) in &sidecar.files {
        let bytes = match text.strip_prefix(BYTES) {
            Some(encoded) => super::frame::unbase64(encoded).ok_or("base64 of a file")?,
            None => text.clone().into_bytes(),
        };
        let path = dir.join(name);
        let parent = path.parent().expect("a joined path has a parent");
        std::fs::create_dir_all(parent)
            .and_then(|()| std::fs::write(&path, bytes))
            .map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let filled = |text: &String| {
        let mut value = Value::from(text.as_str());
        fill_in(&mut value, names);
        value.as_str().unwrap_or_default().to_owned()
    };
    let scheduler_flag = names
        .get("scheduler-port")
        .map(|port| format!("--scheduler-host-address=127.0.0.1:{port}"));
    let options = DaprdOptions {
        app_id: sidecar.app_id.clone(),
        app_port: app.map(App::port),
        app_protocol: sidecar.app.as_ref().map(|a| a.kind.clone()),
        resources: sidecar.resources.iter().map(filled).collect(),
        config: sidecar.config.as_ref().map(filled),
        flags: sidecar.flags.iter().map(filled).chain(scheduler_flag).collect(),
        env: sidecar.env.iter().map(|(k, v)| (k.clone(), filled(v))).collect(),
        hosts_file: None,
    };
    Ok(Daprd::start(&options, &dir))
}
