//! Replicas of the placement service.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::http::client::{Request, send};
use crate::process::{Port, Program, Running, binary, free_port};

/// Longest wait for a replica's metrics; one that is frozen answers nothing.
const LOOK: Duration = Duration::from_millis(300);

/// All replicas. Killed when dropped.
pub struct Placement {
    replicas: Vec<Replica>,
    cluster: String,
    /// Address of the port for sidecars.
    ip: String,
}

struct Replica {
    process: Option<Running>,
    client: Arc<Port>,
    raft: Port,
    health: Port,
    metrics: Port,
    dir: PathBuf,
}

impl Placement {
    /// Starts so many; does not wait for them.
    ///
    /// # Panics
    /// If one cannot be started.
    #[must_use]
    pub fn start(count: usize, dir: &Path) -> Self {
        let replicas: Vec<Replica> = (0..count)
            .map(|number| Replica {
                process: None,
                client: free_port().into(),
                raft: free_port(),
                health: free_port(),
                metrics: free_port(),
                dir: super::folder(dir, &format!("placement-{number}")),
            })
            .collect();
        Self::start_replicas(replicas, "127.0.0.1")
    }

    /// Another service with the same ports for sidecars at another address of this machine; this one stays as it is.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn elsewhere(&self, ip: &str, dir: &Path) -> Self {
        let again = |(number, replica): (usize, &Replica)| Replica {
            process: None,
            client: Arc::clone(&replica.client),
            raft: free_port(),
            health: free_port(),
            metrics: free_port(),
            dir: super::folder(dir, &format!("placement-{ip}-{number}")),
        };
        Self::start_replicas(self.replicas.iter().enumerate().map(again).collect(), ip)
    }

    fn start_replicas(replicas: Vec<Replica>, ip: &str) -> Self {
        let entry =
            |(number, replica): (usize, &Replica)| format!("p{number}=127.0.0.1:{}", replica.raft.number());
        let cluster: Vec<String> = replicas.iter().enumerate().map(entry).collect();
        let mut placement = Self {
            cluster: cluster.join(","),
            replicas,
            ip: ip.to_owned(),
        };
        for number in 0..placement.len() {
            placement.restart(number);
        }
        placement
    }

    /// Starts a replica that was killed.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn restart(&mut self, number: usize) {
        let replica = &mut self.replicas[number];
        let program = Program::new("placement", &binary("placement"), &replica.dir)
            .args(["--id".to_owned(), format!("p{number}")])
            .args(["--initial-cluster", &self.cluster])
            .args(["--port", &replica.client.number().to_string()])
            .args(["--listen-address", &self.ip])
            .args(["--healthz-listen-address", "127.0.0.1"])
            .args(["--healthz-port", &replica.health.number().to_string()])
            .args(["--metrics-listen-address", "127.0.0.1"])
            .args(["--metrics-port", &replica.metrics.number().to_string()]);
        replica.process = Some(program.start());
    }

    /// For `--placement-host-address`.
    #[must_use]
    pub fn addresses(&self) -> String {
        self.addresses_at(&self.ip)
    }

    /// The same with a name instead of the address.
    #[must_use]
    pub fn addresses_at(&self, name: &str) -> String {
        let ports = self.replicas.iter().map(|replica| replica.client.number());
        let all: Vec<String> = ports.map(|port| format!("{name}:{port}")).collect();
        all.join(",")
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.replicas.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.replicas.is_empty()
    }

    /// The replica that says it leads.
    pub async fn leader(&self) -> Option<usize> {
        for (number, replica) in self.replicas.iter().enumerate() {
            if replica.process.is_some() && replica.leads().await {
                return Some(number);
            }
        }
        None
    }

    /// Waits for a leader; which one, and how long it took.
    ///
    /// # Panics
    /// If there is none within `limit`.
    pub async fn wait_leader(&mut self, limit: Duration) -> (usize, Duration) {
        let start = Instant::now();
        loop {
            if let Some(leader) = self.leader().await {
                return (leader, start.elapsed());
            }
            if start.elapsed() > limit {
                let logs = self
                    .replicas
                    .iter()
                    .filter_map(|replica| replica.process.as_ref());
                let logs: Vec<String> = logs.map(Running::log_tail).collect();
                panic!("no replica leads within {limit:?}\n{}", logs.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self, number: usize) {
        if let Some(mut process) = self.replicas[number].process.take() {
            process.kill();
        }
    }

    /// Sends a signal to a replica.
    pub fn signal(&self, number: usize, name: &str) {
        if let Some(process) = &self.replicas[number].process {
            process.signal(name);
        }
    }
}

impl Replica {
    async fn leads(&self) -> bool {
        let request = Request {
            method: "GET".to_owned(),
            path: "/metrics".to_owned(),
            ..Request::default()
        };
        let Ok(answer) = send(self.metrics.number(), &request, LOOK).await else {
            return false;
        };
        let text = String::from_utf8_lossy(&answer.body);
        text.lines().any(|line| line == "dapr_placement_leader_status 1")
    }
}
