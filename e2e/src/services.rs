//! Starting a control-plane service for a test. A new service joins with a line in [`services`], and the vectors of
//! `process.json` and `metrics.json` are replayed against it from then on (`tests/golden_process.rs`).

use std::path::Path;
use std::time::{Duration, Instant};

use crate::http::client::{Request, send};
use crate::process::{Port, Program, Running, binary, free_port};

/// How long a service may take until it is ready.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// A service that exists.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// Name of its binary.
    pub name: &'static str,
    /// Arguments that let it run in an empty folder besides anything else on the machine, apart from the ports of
    /// health and metrics; `{dir}` stands for the folder, `{port}` for a free port (a new one each time).
    pub args: &'static [&'static str],
    /// Files that must be in the folder first; a name that ends in `/` is a folder.
    pub files: &'static [(&'static str, &'static str)],
}

/// The services that exist.
#[must_use]
pub fn services() -> &'static [Service] {
    &[PLACEMENT, SENTRY, SCHEDULER]
}

const PLACEMENT: Service = Service {
    name: "placement",
    args: &[
        "--port={port}",
        "--initial-cluster=dapr-placement-0=127.0.0.1:{port}",
    ],
    files: &[],
};

const SCHEDULER: Service = Service {
    name: "scheduler",
    args: &[
        "--port={port}",
        "--etcd-client-port={port}",
        "--etcd-data-dir={dir}",
    ],
    files: &[],
};

const SENTRY: Service = Service {
    name: "sentry",
    args: &[
        "--port={port}",
        "--issuer-credentials={dir}/credentials",
        "--config={dir}/config.yaml",
        "--trust-domain=cluster.local",
    ],
    files: &[
        ("credentials/", ""),
        (
            "config.yaml",
            "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: conf}\n",
        ),
    ],
};

impl Service {
    /// The service of that name, if it exists yet.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        services().iter().find(|service| service.name == name)
    }
}

/// A running service with free ports of its own. Killed when dropped.
#[derive(Debug)]
pub struct RunningService {
    /// The process: log, signals, end.
    pub process: Running,
    health: Port,
    metrics: Port,
    ports: Vec<Port>,
}

impl RunningService {
    /// Starts a service in the folder `dir`, with more arguments after its own; does not wait for it.
    ///
    /// # Panics
    /// If its files cannot be written or the binary cannot be started.
    #[must_use]
    pub fn start(service: &Service, dir: &Path, more: &[String], env: &[(String, String)]) -> Self {
        for (name, text) in service.files {
            let path = dir.join(name);
            let written = if name.ends_with('/') {
                std::fs::create_dir_all(&path)
            } else {
                std::fs::write(&path, text)
            };
            written.unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        }
        let mut ports = Vec::new();
        let args: Vec<String> = service
            .args
            .iter()
            .map(|arg| {
                if !arg.contains("{port}") {
                    return arg.replace("{dir}", &dir.display().to_string());
                }
                let port = free_port();
                let arg = arg.replace("{port}", &port.number().to_string());
                ports.push(port);
                arg
            })
            .collect();
        let (health, metrics) = (free_port(), free_port());
        let mut program = Program::new(service.name, &binary(service.name), dir)
            .args(args)
            .args(["--healthz-listen-address", "127.0.0.1"])
            .args(["--healthz-port", &health.number().to_string()])
            .args(["--metrics-listen-address", "127.0.0.1"])
            .args(["--metrics-port", &metrics.number().to_string()]);
        for (name, value) in env {
            program = program.env(name, value);
        }
        Self {
            process: program.args(more.iter().cloned()).start(),
            health,
            metrics,
            ports,
        }
    }

    /// Waits until `GET /healthz` answers 200.
    ///
    /// # Panics
    /// If the service ends before or takes longer than 30 seconds.
    pub async fn wait_ready(&mut self) {
        let deadline = Instant::now() + READY_LIMIT;
        let request = Request {
            method: "GET".to_owned(),
            path: "/healthz".to_owned(),
            ..Request::default()
        };
        loop {
            let answer = send(self.health_port(), &request, Duration::from_secs(2)).await;
            if answer.is_ok_and(|answer| answer.status == 200) {
                return;
            }
            if let Some(exit) = self.process.exited() {
                panic!("ended ({exit}) before it was ready\n{}", self.process.log_tail());
            }
            assert!(
                Instant::now() < deadline,
                "not ready after {READY_LIMIT:?}\n{}",
                self.process.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Port of its health endpoint.
    #[must_use]
    pub fn health_port(&self) -> u16 {
        self.health.number()
    }

    /// Port of its metrics.
    #[must_use]
    pub fn metrics_port(&self) -> u16 {
        self.metrics.number()
    }

    /// The number that the `index`-th `{port}` of its arguments became.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn port(&self, index: usize) -> u16 {
        self.ports[index].number()
    }
}
