//! What is running for all cases of one setup.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::app::{Call, FakeApp};
use super::pattern::Values;
use super::vector::{Setup, fill_in};
use crate::process::{Daprd, DaprdOptions, Exclusive, Port, RedisServer, dead_port, exclusive, free_port};

/// Statuses of `/v1.0/healthz` that mean "up": the rest is said by middleware.
const READY: [u16; 4] = [204, 400, 401, 403];
/// How many setups run at the same time in one test process.
static RUNNING: Semaphore = Semaphore::const_new(4);

/// Everything one setup names, running. Ends when dropped.
#[derive(Debug)]
pub struct Group {
    sidecars: Vec<Daprd>,
    apps: Vec<(String, FakeApp)>,
    redis: Option<RedisServer>,
    names: BTreeMap<String, String>,
    values: Values,
    start_calls: Vec<Call>,
    _ports: Vec<Port>,
    _alone: Option<Exclusive>,
    _permit: SemaphorePermit<'static>,
    _tmp: TempDir,
}

impl Group {
    /// Starts what `setup` (as recorded, with `{{…}}` in it) says and waits until it has settled.
    ///
    /// # Errors
    /// Which sidecar did not come up, with its log.
    ///
    /// # Panics
    /// If this machine lacks something: a binary, Redis, space for files.
    pub async fn start(setup: &Value) -> Result<Self, String> {
        let plain: Setup =
            serde_json::from_value(setup.clone()).expect("setups have the members the README says");
        // Sidecars of other tests have the same app ids, and multicast reaches everyone.
        let alone = if plain.sidecars.len() > 1 {
            Some(exclusive("mdns").await)
        } else {
            None
        };
        // After the wait above, so that those who wait for each other do not hold up the others.
        let permit = RUNNING.acquire().await.expect("the semaphore is never closed");
        let tmp = tempfile::tempdir().expect("temporary folders can be made");
        let redis = if plain.services.iter().any(|s| s == "redis") {
            let folder = tmp.path().join("redis");
            std::fs::create_dir(&folder).expect("temporary folders can be made");
            Some(RedisServer::start(&folder).await)
        } else {
            None
        };
        let (mut names, ports) = base_names(tmp.path(), redis.as_ref());
        let mut apps = Vec::new();
        for sidecar in plain.sidecars.iter().filter(|s| s.app.is_some()) {
            let name = if plain.sidecars.len() > 1 {
                sidecar.app_id.as_str()
            } else {
                ""
            };
            let app = FakeApp::start(name).await;
            names.insert(format!("app-port:{}", sidecar.app_id), app.port().to_string());
            names
                .entry("app-port".to_owned())
                .or_insert_with(|| app.port().to_string());
            apps.push((sidecar.app_id.clone(), app));
        }
        let setup = filled(setup, &names);
        prepare(&setup, tmp.path(), redis.as_ref()).await?;
        let sidecars = start_sidecars(&setup, &apps, tmp.path(), &mut names).await?;
        // Only now, so that seeding and starting are not part of it.
        tokio::time::sleep(Duration::from_millis(setup.settle_ms)).await;
        let values = Values::new(names.clone());
        let mut group = Self {
            sidecars,
            apps,
            redis,
            names,
            values,
            start_calls: Vec::new(),
            _ports: ports,
            _alone: alone,
            _permit: permit,
            _tmp: tmp,
        };
        group.start_calls = group.take_calls();
        Ok(group)
    }

    /// Values for `{{name}}` in steps.
    #[must_use]
    pub fn names(&self) -> &BTreeMap<String, String> {
        &self.names
    }

    /// Values for `<name>` in recorded results.
    #[must_use]
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// What the apps got before the first step.
    #[must_use]
    pub fn start_calls(&self) -> &[Call] {
        &self.start_calls
    }

    /// The sidecar with that app id, or the first.
    ///
    /// # Panics
    /// If there is none with that id.
    pub fn sidecar(&mut self, app_id: Option<&str>) -> &mut Daprd {
        let index = app_id.map_or(Some(0), |id| self.sidecars.iter().position(|s| s.app_id() == id));
        &mut self.sidecars[index.expect("vectors name sidecars of their setup")]
    }

    /// The app of the sidecar with that app id, or the first.
    #[must_use]
    pub fn app(&self, app_id: Option<&str>) -> Option<&FakeApp> {
        self.apps
            .iter()
            .find(|(id, _)| app_id.is_none_or(|wanted| wanted == id))
            .map(|(_, app)| app)
    }

    /// All apps with the app ids of their sidecars.
    #[must_use]
    pub fn apps(&self) -> &[(String, FakeApp)] {
        &self.apps
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
    pub fn take_calls(&mut self) -> Vec<Call> {
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
        self.sidecars
            .iter_mut()
            .map(|s| s.process().log_tail())
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// Names that do not depend on apps and sidecars, and the ports behind them.
fn base_names(tmp: &Path, redis: Option<&RedisServer>) -> (BTreeMap<String, String>, Vec<Port>) {
    let (dead, public) = (dead_port(), free_port());
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut names = BTreeMap::from([
        ("tmp".to_owned(), tmp.display().to_string()),
        ("dead-port".to_owned(), dead.number().to_string()),
        ("public-port".to_owned(), public.number().to_string()),
        ("hostname".to_owned(), hostname.trim().to_owned()),
    ]);
    if let Some(redis) = redis {
        names.insert("redis-port".to_owned(), redis.port().to_string());
    }
    (names, vec![dead, public])
}

fn filled(setup: &Value, names: &BTreeMap<String, String>) -> Setup {
    let mut setup = setup.clone();
    fill_in(&mut setup, names);
    serde_json::from_value(setup).expect("filling in names keeps the form")
}

/// Writes the files and seeds Redis.
async fn prepare(setup: &Setup, tmp: &Path, redis: Option<&RedisServer>) -> Result<(), String> {
    for (name, text) in &setup.files {
        let path = tmp.join(name);
        let parent = path.parent().expect("a joined path has a parent");
        std::fs::create_dir_all(parent)
            .and_then(|()| std::fs::write(&path, text))
            .map_err(|e| e.to_string())?;
    }
    for command in &setup.redis_seed {
        let redis = redis.expect("a setup with a seed has the service redis");
        redis
            .command(command)
            .await
            .map_err(|e| format!("seed {command:?}: {e}"))?;
    }
    Ok(())
}

async fn start_sidecars(
    setup: &Setup,
    apps: &[(String, FakeApp)],
    tmp: &Path,
    names: &mut BTreeMap<String, String>,
) -> Result<Vec<Daprd>, String> {
    let mut sidecars = Vec::new();
    for sidecar in &setup.sidecars {
        let app = apps
            .iter()
            .find(|(id, _)| *id == sidecar.app_id)
            .map(|(_, app)| app);
        if let (Some(app), Some(script)) = (app, &sidecar.app) {
            app.set_standing(script.answers.clone());
        }
        let options = DaprdOptions {
            app_id: sidecar.app_id.clone(),
            app_port: app.map(FakeApp::port),
            app_protocol: None,
            resources: sidecar.resources.clone(),
            config: sidecar.config.clone(),
            flags: sidecar.flags.clone(),
            env: sidecar.env.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
            hosts_file: None,
        };
        let daprd = Daprd::start(&options, &tmp.join(format!("sidecar-{}", sidecar.app_id)));
        for (name, port) in [
            ("http-port", daprd.http_port()),
            ("grpc-port", daprd.grpc_port()),
            ("internal-port", daprd.internal_port()),
            ("metrics-port", daprd.metrics_port()),
        ] {
            names.insert(format!("{name}:{}", sidecar.app_id), port.to_string());
            names.entry(name.to_owned()).or_insert_with(|| port.to_string());
        }
        sidecars.push(daprd);
    }
    for sidecar in &mut sidecars {
        sidecar.try_ready(&READY).await?;
    }
    Ok(sidecars)
}
