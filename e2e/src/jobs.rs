//! A cluster for jobs: members of an etcd, replicas of the scheduler on it, and sidecars of one app that counts what
//! it is called for. Each of them can be killed, paused and started again.

mod app;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use outrigger_proto::runtime::v1::dapr_client::DaprClient;
use tonic::transport::Channel;

pub use app::{JobApp, Seen};

use crate::http::client::{Request, send};
use crate::process::{Daprd, DaprdOptions, Port, Program, Running, binary, free_port};

/// The app id of all sidecars.
pub const APP: &str = "shop";
/// Longest wait for a process to be ready.
const READY: Duration = Duration::from_secs(60);

/// A process that may be killed and started again with the same ports and files.
#[derive(Debug)]
struct Node {
    program: Program,
    process: Running,
    /// Where `GET` of the path answers 200 once it is ready.
    health: (Port, &'static str),
    _ports: Vec<Port>,
}

impl Node {
    fn start(program: Program, health: (Port, &'static str), ports: Vec<Port>) -> Self {
        Self {
            process: program.clone().start(),
            program,
            health,
            _ports: ports,
        }
    }

    async fn status(&self) -> Option<u16> {
        let request = Request {
            method: "GET".to_owned(),
            path: self.health.1.to_owned(),
            ..Request::default()
        };
        let answer = send(self.health.0.number(), &request, Duration::from_secs(2)).await;
        answer.ok().map(|answer| answer.status)
    }

    async fn wait_ready(&self) {
        let end = Instant::now() + READY;
        while self.status().await != Some(200) {
            assert!(
                Instant::now() < end,
                "not ready in {READY:?}\n{}",
                self.process.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// One of the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A member of the etcd.
    Etcd(usize),
    /// A replica of the scheduler.
    Scheduler(usize),
    /// A sidecar.
    Sidecar(usize),
}

/// See the module. Everything is killed when dropped.
#[derive(Debug)]
pub struct JobCluster {
    etcd: Vec<Node>,
    schedulers: Vec<Node>,
    sidecars: Vec<Daprd>,
    scheduler_addresses: Vec<String>,
    options: DaprdOptions,
    dir: PathBuf,
    app: JobApp,
}

impl JobCluster {
    /// Starts so many of each in a folder, and waits until all are ready.
    ///
    /// # Panics
    /// If etcd is not installed or something does not come up.
    pub async fn start(etcd: usize, schedulers: usize, sidecars: usize, dir: &Path) -> Self {
        let app = JobApp::start().await;
        let (etcd, endpoints) = etcd_members(etcd, dir);
        for member in &etcd {
            member.wait_ready().await;
        }
        let mut addresses = Vec::new();
        let schedulers: Vec<Node> = (0..schedulers)
            .map(|number| {
                let (node, address) = scheduler(number, &endpoints, dir);
                addresses.push(address);
                node
            })
            .collect();
        for replica in &schedulers {
            replica.wait_ready().await;
        }
        let options = DaprdOptions {
            app_id: APP.to_owned(),
            app_port: Some(app.port()),
            // They announce themselves nowhere outside of this test.
            config: Some(format!(
                "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {{name: jobs}}\nspec:\n  nameResolution:\n    \
                 component: sqlite\n    version: v1\n    configuration: {{connectionString: \"{}\"}}\n",
                dir.join("names.db").display()
            )),
            env: vec![("DAPR_HOST_IP".to_owned(), "127.0.0.1".to_owned())],
            flags: vec!["--scheduler-host-address".to_owned(), addresses.join(",")],
            ..DaprdOptions::default()
        };
        let mut cluster = Self {
            etcd,
            schedulers,
            sidecars: Vec::new(),
            scheduler_addresses: addresses,
            options,
            dir: dir.to_path_buf(),
            app,
        };
        for number in 0..sidecars {
            let sidecar = Daprd::start_ready(&cluster.options, &cluster.sidecar_dir(number)).await;
            cluster.sidecars.push(sidecar);
        }
        cluster
    }

    fn sidecar_dir(&self, number: usize) -> PathBuf {
        self.dir.join(format!("sidecar-{number}"))
    }

    /// The app behind all sidecars.
    #[must_use]
    pub fn app(&self) -> &JobApp {
        &self.app
    }

    /// `host:port` of the schedulers' gRPC servers.
    #[must_use]
    pub fn scheduler_addresses(&self) -> &[String] {
        &self.scheduler_addresses
    }

    /// A client of a sidecar's API.
    ///
    /// # Panics
    /// If it cannot be reached.
    pub async fn client(&self, sidecar: usize) -> DaprClient<Channel> {
        self.sidecars[sidecar].grpc_client().await
    }

    fn process(&mut self, part: Part) -> &mut Running {
        match part {
            Part::Etcd(number) => &mut self.etcd[number].process,
            Part::Scheduler(number) => &mut self.schedulers[number].process,
            Part::Sidecar(number) => self.sidecars[number].process(),
        }
    }

    /// Kills it without warning.
    pub fn kill(&mut self, part: Part) {
        self.process(part).kill();
    }

    /// Sends a signal (`STOP`, `CONT`, `TERM`).
    pub fn signal(&mut self, part: Part, signal: &str) {
        self.process(part).signal(signal);
    }

    /// Waits for the end of one that was told to stop.
    ///
    /// # Panics
    /// If it does not end.
    pub async fn ended(&mut self, part: Part) {
        let ended = self.process(part).wait_exit(Duration::from_secs(20)).await;
        assert!(ended.is_some(), "{part:?} does not end");
    }

    /// Starts again what has ended; a sidecar on other ports. Does not wait for it.
    pub fn restart(&mut self, part: Part) {
        match part {
            Part::Etcd(number) => self.etcd[number].process = self.etcd[number].program.clone().start(),
            Part::Scheduler(number) => {
                self.schedulers[number].process = self.schedulers[number].program.clone().start();
            }
            Part::Sidecar(number) => {
                self.sidecars[number] = Daprd::start(&self.options, &self.sidecar_dir(number));
            }
        }
    }

    /// What `/healthz` of a scheduler says; `None` = nothing.
    pub async fn scheduler_status(&self, number: usize) -> Option<u16> {
        self.schedulers[number].status().await
    }

    /// Waits until everything is ready.
    ///
    /// # Panics
    /// If something is not in time.
    pub async fn wait_ready(&mut self) {
        for node in self.etcd.iter().chain(&self.schedulers) {
            node.wait_ready().await;
        }
        for sidecar in &mut self.sidecars {
            sidecar.wait_ready(&[204]).await;
        }
    }
}

fn etcd_members(count: usize, dir: &Path) -> (Vec<Node>, String) {
    let ports: Vec<(Port, Port)> = (0..count).map(|_| (free_port(), free_port())).collect();
    let url = |port: &Port| format!("http://127.0.0.1:{}", port.number());
    let cluster: Vec<String> = ports
        .iter()
        .enumerate()
        .map(|(number, (_, peer))| format!("m{number}={}", url(peer)))
        .collect();
    let endpoints: Vec<String> = ports
        .iter()
        .map(|(client, _)| format!("127.0.0.1:{}", client.number()))
        .collect();
    let members = ports.into_iter().enumerate().map(|(number, (client, peer))| {
        let folder = super::actors::folder(dir, &format!("etcd-{number}"));
        // No sync to disk: what is killed here are processes, not machines.
        let program = Program::new("etcd", Path::new("etcd"), &folder)
            .args([format!("--name=m{number}"), "--unsafe-no-fsync".to_owned()])
            .args([format!("--data-dir={}", folder.join("data").display())])
            .args([format!("--listen-client-urls={}", url(&client))])
            .args([format!("--advertise-client-urls={}", url(&client))])
            .args([format!("--listen-peer-urls={}", url(&peer))])
            .args([format!("--initial-advertise-peer-urls={}", url(&peer))])
            .args([format!("--initial-cluster={}", cluster.join(","))]);
        Node::start(program, (client, "/health"), vec![peer])
    });
    (members.collect(), endpoints.join(","))
}

fn scheduler(number: usize, endpoints: &str, dir: &Path) -> (Node, String) {
    let folder = super::actors::folder(dir, &format!("scheduler-{number}"));
    let (port, health, metrics) = (free_port(), free_port(), free_port());
    let address = format!("127.0.0.1:{}", port.number());
    let program = Program::new("scheduler", &binary("scheduler"), &folder)
        .args([
            format!("--id=scheduler-{number}"),
            "--etcd-embed=false".to_owned(),
        ])
        .args([format!("--etcd-client-endpoints={endpoints}")])
        .args([format!("--port={}", port.number())])
        .args([format!("--override-broadcast-host-port={address}")])
        .args(["--listen-address=127.0.0.1", "--healthz-listen-address=127.0.0.1"])
        .args([format!("--healthz-port={}", health.number())])
        .args(["--metrics-listen-address=127.0.0.1"])
        .args([format!("--metrics-port={}", metrics.number())]);
    let node = Node::start(program, (health, "/healthz"), vec![port, metrics]);
    (node, address)
}
