//! Actors on real processes: placement replicas, hosts whose app counts, and the account of what was promised.
//!
//! The app's actors count in their state: a turn reads a number, thinks for some milliseconds, writes the next one in a
//! transaction and answers it. Two turns at once, or a turn by a host that has lost the actor, would write a number that
//! another turn has written too: the [`Ledger`] holds every acknowledged number against all others and against what is
//! in the store at the end.

mod app;
mod ledger;
mod placement;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use app::CounterApp;
pub use ledger::Ledger;
pub use placement::Placement;

use crate::http::client::{Request, send};
use crate::process::{Daprd, DaprdOptions, RedisServer};
use crate::sdk::component;

/// The actor type.
pub const TYPE: &str = "counter";
/// A name of the placement service.
const NAME: &str = "placement.test";
/// Longer than any call may take: whoever waits that long hangs.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// Redis, placement, a sidecar that only calls, and hosts.
pub struct World {
    /// The replicas.
    pub placement: Placement,
    /// Sidecars with an app.
    pub hosts: Vec<Host>,
    /// The account.
    pub ledger: Arc<Ledger>,
    /// The sidecar without an app.
    pub caller: Daprd,
    options: DaprdOptions,
    redis: RedisServer,
    dir: tempfile::TempDir,
}

/// A sidecar and its app; the app outlives its sidecars.
pub struct Host {
    /// The app.
    pub app: CounterApp,
    /// The sidecar, until it is stopped.
    pub daprd: Option<Daprd>,
    options: DaprdOptions,
    dir: PathBuf,
    starts: usize,
}

impl World {
    /// Starts everything and waits until every host is ready.
    ///
    /// # Panics
    /// If something does not come up.
    pub async fn start(replicas: usize, hosts: usize) -> Self {
        Self::start_with(replicas, hosts, false).await
    }

    /// As [`World::start`], but the sidecars know placement by a name only, see [`World::point_name_to`].
    ///
    /// # Panics
    /// If something does not come up.
    pub async fn start_by_name(replicas: usize, hosts: usize) -> Self {
        Self::start_with(replicas, hosts, true).await
    }

    async fn start_with(replicas: usize, hosts: usize, by_name: bool) -> Self {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("cannot make a temporary folder: {e}"));
        let redis = RedisServer::start(dir.path()).await;
        let mut placement = Placement::start(replicas, dir.path());
        placement.wait_leader(Duration::from_secs(60)).await;
        let options = DaprdOptions {
            app_id: "counters".to_owned(),
            resources: vec![actor_store(redis.port())],
            flags: vec![
                "--placement-host-address".to_owned(),
                if by_name {
                    placement.addresses_at(NAME)
                } else {
                    placement.addresses()
                },
                "--dapr-graceful-shutdown-seconds".to_owned(),
                "15".to_owned(),
            ],
            env: vec![("DAPR_HOST_IP".to_owned(), "127.0.0.1".to_owned())],
            hosts_file: by_name.then(|| dir.path().join("hosts")),
            ..DaprdOptions::default()
        };
        let calling = DaprdOptions {
            app_id: "caller".to_owned(),
            ..options.clone()
        };
        let ledger = Arc::new(Ledger::default());
        point_name(dir.path(), "127.0.0.1");
        let caller = Daprd::start_ready(&calling, &dir.path().join("caller")).await;
        let mut world = Self {
            placement,
            hosts: Vec::new(),
            ledger,
            caller,
            options,
            redis,
            dir,
        };
        for number in 0..hosts {
            let mut host = world.host(number).await;
            host.start().await;
            world.hosts.push(host);
        }
        world
    }

    /// The name by which the sidecars know placement is that of another address from now on.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn point_name_to(&self, ip: &str) {
        point_name(self.dir.path(), ip);
    }

    /// Starts another placement service at another address, which nobody is told.
    #[must_use]
    pub fn another_placement(&self, ip: &str) -> Placement {
        self.placement.elsewhere(ip, self.dir.path())
    }

    /// A host that is not started yet.
    pub async fn host(&self, number: usize) -> Host {
        let app = CounterApp::start(number, Arc::clone(&self.ledger)).await;
        Host {
            options: DaprdOptions {
                app_port: Some(app.port()),
                ..self.options.clone()
            },
            app,
            daprd: None,
            dir: self.dir.path().join(format!("host-{number}")),
            starts: 0,
        }
    }

    /// A host that reaches the store through another port of this machine.
    pub async fn host_through(&self, number: usize, store: u16) -> Host {
        let mut host = self.host(number).await;
        host.options.resources = vec![actor_store(store)];
        host
    }

    /// A host whose sidecar asks the app for its health every second.
    pub async fn host_with_health_checks(&self, number: usize) -> Host {
        let mut host = self.host(number).await;
        let flags = [
            "--enable-app-health-check",
            "--app-health-probe-interval",
            "1",
            "--app-health-threshold",
            "1",
        ];
        host.options.flags.extend(flags.map(str::to_owned));
        host
    }

    /// The port of the store.
    #[must_use]
    pub fn store_port(&self) -> u16 {
        self.redis.port()
    }

    /// The number that the store has for an actor.
    ///
    /// # Panics
    /// If Redis does not answer.
    pub async fn stored(&self, actor: usize) -> u64 {
        let words = [
            "HGET".to_owned(),
            format!("counters||{TYPE}||{actor}||n"),
            "data".to_owned(),
        ];
        let value = self.redis.command(&words).await.expect("Redis answers");
        let text: Option<String> = redis::from_redis_value(value).expect("a text");
        text.map_or(0, |text| text.parse().expect("a number"))
    }

    /// Ports of the HTTP APIs through which every actor must be reachable.
    #[must_use]
    pub fn entrances(&self) -> Vec<u16> {
        let hosts = self.hosts.iter().filter_map(|host| host.daprd.as_ref());
        let mut ports: Vec<u16> = hosts.map(Daprd::http_port).collect();
        ports.push(self.caller.http_port());
        ports
    }

    /// Waits until each actor answers through each sidecar; returns how long the slowest took.
    ///
    /// # Panics
    /// If one takes longer than `limit`.
    pub async fn wait_reachable(&self, actors: usize, limit: Duration) -> Duration {
        let start = Instant::now();
        let mut asking = tokio::task::JoinSet::new();
        for port in self.entrances() {
            for actor in 0..actors {
                let ledger = Arc::clone(&self.ledger);
                asking.spawn(async move {
                    let mut last = String::new();
                    while start.elapsed() < limit {
                        match add(port, actor, limit, &ledger).await {
                            Ok(_) => return,
                            Err(problem) => last = problem,
                        }
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    panic!("actor {actor} is not reachable through port {port} within {limit:?}: {last}");
                });
            }
        }
        while let Some(done) = asking.join_next().await {
            done.unwrap_or_else(|problem| panic!("{problem}"));
        }
        start.elapsed()
    }

    /// Holds what was acknowledged against the store.
    ///
    /// # Panics
    /// If a promise was broken.
    pub async fn settle(&self, actors: usize) {
        let problems = self.ledger.problems();
        assert!(
            problems.is_empty(),
            "{} problems:\n{}",
            problems.len(),
            problems.join("\n")
        );
        for actor in 0..actors {
            let (acknowledged, highest) = self.ledger.account(actor);
            let stored = self.stored(actor).await;
            assert!(
                stored >= acknowledged && stored >= highest,
                "actor {actor}: {acknowledged} calls were acknowledged, the highest number {highest}; the store has {stored}"
            );
        }
    }
}

/// In place: the file is mounted where sidecars look for it.
fn point_name(dir: &Path, ip: &str) {
    let text = format!("127.0.0.1 localhost\n{ip} {NAME}\n");
    std::fs::write(dir.join("hosts"), text).unwrap_or_else(|e| panic!("cannot write the file of names: {e}"));
}

fn actor_store(port: u16) -> String {
    let address = format!("127.0.0.1:{port}");
    let settings = [("redisHost", address.as_str()), ("actorStateStore", "true")];
    component("actorstore", "state.redis", &settings)
}

impl Host {
    /// Starts a sidecar, on ports of its own, and waits until it is ready.
    ///
    /// # Panics
    /// If it does not come up.
    pub async fn start(&mut self) {
        self.starts += 1;
        let dir = self.dir.join(self.starts.to_string());
        let mut daprd = Daprd::start(&self.options, &dir);
        self.app.serve_sidecar(daprd.http_port());
        daprd.wait_ready(&[204]).await;
        self.daprd = Some(daprd);
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut daprd) = self.daprd.take() {
            daprd.process().kill();
        }
    }

    /// SIGTERM, and the wait for the end.
    ///
    /// # Panics
    /// If it takes longer than 30 seconds.
    pub async fn stop(&mut self) {
        let Some(mut daprd) = self.daprd.take() else {
            return;
        };
        daprd.process().terminate();
        let ended = daprd.process().wait_exit(Duration::from_secs(30)).await;
        assert!(
            ended.is_some_and(|status| status.success()),
            "the sidecar should have ended in order: {ended:?}\n{}",
            daprd.process().log_tail()
        );
    }

    /// Sends a signal to the sidecar; its app's turns are not held against it from now on.
    pub fn signal(&mut self, name: &str) {
        if let Some(daprd) = &mut self.daprd {
            self.app.excuse(true);
            daprd.process().signal(name);
        }
    }

    /// SIGSTOP for so long.
    pub async fn pause(&mut self, length: Duration) {
        let Some(daprd) = &mut self.daprd else { return };
        // What the app does in the meantime for a sidecar that is frozen is not held against it.
        self.app.excuse(true);
        daprd.process().signal("STOP");
        tokio::time::sleep(length).await;
        daprd.process().signal("CONT");
        // Turns that were cut off end in the app a little later than in the sidecar.
        tokio::time::sleep(Duration::from_secs(2)).await;
        self.app.excuse(false);
    }
}

/// Calls an actor; the number it answered, already in the ledger.
///
/// # Errors
/// What the caller got instead.
pub async fn add(port: u16, actor: usize, limit: Duration, ledger: &Ledger) -> Result<u64, String> {
    let request = Request {
        method: "PUT".to_owned(),
        path: format!("/v1.0/actors/{TYPE}/{actor}/method/add"),
        body: Some(b"{}".to_vec()),
        ..Request::default()
    };
    let answer = send(port, &request, limit).await?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    match (answer.status, text.parse()) {
        (200, Ok(number)) => {
            ledger.acknowledged(actor, number);
            Ok(number)
        }
        (status, _) => Err(format!("{status} {text}")),
    }
}

/// Callers at work until dropped or [`Load::stop`]ped.
pub struct Load {
    tasks: tokio::task::JoinSet<()>,
    stop: Arc<std::sync::atomic::AtomicBool>,
    outcome: Arc<std::sync::Mutex<Outcome>>,
}

/// What callers got.
#[derive(Debug, Default, Clone)]
pub struct Outcome {
    /// Calls that were answered with success.
    pub succeeded: u64,
    /// What the others got.
    pub failed: Vec<String>,
    /// The longest that any took.
    pub slowest: Duration,
}

impl Load {
    /// `callers` callers, each with one call at a time, through these ports in turn.
    #[must_use]
    pub fn start(ports: &[u16], callers: usize, actors: usize, ledger: &Arc<Ledger>) -> Self {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let outcome = Arc::new(std::sync::Mutex::new(Outcome::default()));
        let mut tasks = tokio::task::JoinSet::new();
        for caller in 0..callers {
            let (stop, outcome, ledger) = (Arc::clone(&stop), Arc::clone(&outcome), Arc::clone(ledger));
            let port = ports[caller % ports.len()];
            tasks.spawn(async move {
                for n in 0.. {
                    if stop.load(std::sync::atomic::Ordering::SeqCst) {
                        return;
                    }
                    let start = Instant::now();
                    let result = add(port, (caller * 7 + n * 13) % actors, CALL_LIMIT, &ledger).await;
                    let took = start.elapsed();
                    let mut outcome = outcome.lock().expect("nothing panics while holding this lock");
                    outcome.slowest = outcome.slowest.max(took);
                    match result {
                        Ok(_) => outcome.succeeded += 1,
                        Err(problem) => outcome.failed.push(problem),
                    }
                }
            });
        }
        Self { tasks, stop, outcome }
    }

    /// Calls that were answered with success so far.
    ///
    /// # Panics
    /// If a caller panicked.
    #[must_use]
    pub fn succeeded(&self) -> u64 {
        self.outcome
            .lock()
            .expect("nothing panics while holding this lock")
            .succeeded
    }

    /// Waits for so many more successful calls.
    ///
    /// # Panics
    /// If they do not come within a minute.
    pub async fn go_on(&self, calls: u64) {
        let (goal, end) = (self.succeeded() + calls, Instant::now() + CALL_LIMIT);
        while self.succeeded() < goal {
            assert!(
                Instant::now() < end,
                "no {calls} more calls within {CALL_LIMIT:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Lets every caller end its call.
    ///
    /// # Panics
    /// If a caller panicked.
    pub async fn stop(mut self) -> Outcome {
        self.stop.store(true, std::sync::atomic::Ordering::SeqCst);
        while let Some(done) = self.tasks.join_next().await {
            done.expect("callers do not panic");
        }
        self.outcome
            .lock()
            .expect("nothing panics while holding this lock")
            .clone()
    }
}

/// A folder for the files of a process.
pub(crate) fn folder(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::create_dir_all(&path).unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
    path
}
