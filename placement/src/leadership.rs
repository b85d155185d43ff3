//! Which replica serves: a single one does at once, several elect one of them by Raft (openraft).
//!
//! A leader counts as such only as long as a majority has confirmed it lately: every [`CONFIRM_EVERY`] it asks them, and
//! their answers make it the leader until [`CONFIRMED_FOR`] after it asked. The others choose nobody else for longer than
//! that. So there is never a moment with two that serve, whatever the network or the scheduler does.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openraft::{BasicNode, Config as RaftConfig, ServerState, SnapshotPolicy};
use outrigger_identity::{Acceptor, Authorise, Dialer, Security, Service};
use outrigger_process::End;
use outrigger_process::readiness::Target;
use outrigger_service::{Context, Failure};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Moment;
use crate::config::{Config, Replica};
use crate::shared::Shared;

pub mod net;
pub mod store;

use store::{Group, Log, Machine, WantEpoch};

type Raft = openraft::Raft<Group>;

/// Milliseconds between heartbeats.
const HEARTBEAT: u64 = 150;
/// Milliseconds without a leader before a replica stands for election: a number of its own between these.
const ELECTION: (u64, u64) = (600, 900);
/// How often a leader has itself confirmed.
const CONFIRM_EVERY: Duration = Duration::from_millis(130);
/// How long a confirmation holds. The others wait for the longer of the election timeouts; the difference is for clocks
/// of different speed.
const CONFIRMED_FOR: Duration = Duration::from_millis(780);
/// A replica that starts does not vote, nor stand, before; a leader of before would have been heard by then.
const QUIET: Duration = Duration::from_millis(ELECTION.1 + 300);
/// Tries to listen on the own address, whose name may not be known to DNS yet, and the pause between them.
const BIND_TRIES: (u32, Duration) = (240, Duration::from_millis(500));

/// Decides from now on who serves.
///
/// # Errors
/// None today; what fails later ends the process.
pub async fn start(
    context: &mut Context,
    config: &Config,
    security: &Security,
    shared: Arc<Shared>,
    ready: Target,
) -> Result<(), Failure> {
    if config.cluster.len() == 1 {
        shared.set_leader(Some((milliseconds(), Moment::MAX)));
        ready.ready();
        return Ok(());
    }
    // Only replicas of placement are let in and talked to; no application protocol, as in Dapr.
    let replica = Authorise::service(security.control_plane(), Service::Placement);
    let replica = ReplicaTask {
        config: config.clone(),
        acceptor: security.acceptor_with(replica.clone(), &[]),
        dialer: security.to_peer(replica, &[]),
        shared,
        ready,
        stop: context.stopping.clone(),
    };
    context
        .tasks
        .spawn("placement leadership", End::Fatal, replica.run());
    Ok(())
}

/// Milliseconds since 1970.
fn milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

struct ReplicaTask {
    config: Config,
    acceptor: Acceptor,
    dialer: Dialer,
    shared: Arc<Shared>,
    ready: Target,
    stop: CancellationToken,
}

impl ReplicaTask {
    async fn run(self) -> Result<(), String> {
        let own = self.own();
        let Some(listener) = bind(&self.config.cluster[own].address, &self.stop).await? else {
            return Ok(());
        };
        let raft = self.raft(own as u64).await?;
        let votes_from = Instant::now() + QUIET;
        let serving = net::serve(
            listener,
            self.acceptor.clone(),
            raft.clone(),
            votes_from,
            self.stop.clone(),
        );
        let leading = async {
            self.join(&raft, own).await;
            self.ready.ready();
            self.follow(&raft).await;
        };
        tokio::join!(serving, leading);
        self.shared.set_leader(None);
        raft.shutdown().await.map_err(|error| error.to_string())
    }

    fn own(&self) -> usize {
        let own = self
            .config
            .cluster
            .iter()
            .position(|replica| replica.id == self.config.id);
        own.expect("the configuration was checked for it")
    }

    async fn raft(&self, own: u64) -> Result<Raft, String> {
        let config = RaftConfig {
            cluster_name: "placement".to_owned(),
            heartbeat_interval: HEARTBEAT,
            election_timeout_min: ELECTION.0,
            election_timeout_max: ELECTION.1,
            // One entry per change of leaders.
            snapshot_policy: SnapshotPolicy::LogsSinceLast(1000),
            enable_elect: false,
            ..RaftConfig::default()
        };
        let config = config.validate().map_err(|error| error.to_string())?;
        let links = net::Links {
            dialer: self.dialer.clone(),
        };
        Raft::new(own, Arc::new(config), links, Log::default(), Machine::default())
            .await
            .map_err(|error| error.to_string())
    }

    /// Joins the group, or founds it if nobody leads.
    async fn join(&self, raft: &Raft, own: usize) {
        // One after the other, so that the first usually wins at once.
        let patience = QUIET + Duration::from_millis(400) * u32::try_from(own).unwrap_or(0);
        let wait = raft.wait(Some(patience));
        let led = wait.metrics(|metrics| metrics.current_leader.is_some(), "a leader");
        let led = tokio::select! {
            led = led => led.is_ok(),
            () = self.stop.cancelled() => return,
        };
        if !led {
            let members = (0u64..).zip(&self.config.cluster);
            let members: std::collections::BTreeMap<u64, BasicNode> = members
                .map(|(id, replica): (u64, &Replica)| (id, BasicNode::new(&replica.address)))
                .collect();
            if let Err(error) = raft.initialize(members).await {
                tracing::debug!("the group exists: {error}");
            }
        }
        raft.runtime_config().elect(true);
    }

    /// Tells the hub who leads, until stopped.
    async fn follow(&self, raft: &Raft) {
        let mut epoch: Option<(u64, u64)> = None;
        while !self.stop.is_cancelled() {
            let asked = self.shared.now();
            let (state, term) = {
                let metrics = raft.metrics();
                let metrics = metrics.borrow();
                (metrics.state, metrics.current_term)
            };
            if state == ServerState::Leader {
                if let Some(number) = confirmed(raft, term, &mut epoch).await {
                    self.shared.set_leader(Some((number, asked + CONFIRMED_FOR)));
                }
            } else {
                if epoch.take().is_some() {
                    tracing::warn!("lost leadership: another replica serves from now on");
                }
                self.shared.set_leader(None);
            }
            tokio::select! {
                () = tokio::time::sleep(CONFIRM_EVERY) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }
}

/// Has this replica confirmed by a majority; its epoch, which is fetched once per term.
async fn confirmed(raft: &Raft, term: u64, epoch: &mut Option<(u64, u64)>) -> Option<u64> {
    let confirming = async {
        raft.ensure_linearizable().await.ok()?;
        if let Some((of, number)) = *epoch
            && of == term
        {
            return Some(number);
        }
        let written = raft.client_write(WantEpoch(milliseconds())).await.ok()?;
        tracing::info!(
            term,
            epoch = written.data.0,
            "cluster leadership acquired: this replica serves"
        );
        *epoch = Some((term, written.data.0));
        Some(written.data.0)
    };
    tokio::time::timeout(CONFIRMED_FOR, confirming)
        .await
        .ok()
        .flatten()
}

/// Listens on this replica's address of `--initial-cluster`; `None` when stopped before.
async fn bind(address: &str, stop: &CancellationToken) -> Result<Option<TcpListener>, String> {
    let (tries, pause) = BIND_TRIES;
    let mut last = String::new();
    for _ in 0..tries {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(Some(listener)),
            // A port that is taken will not become free by waiting; a name may appear.
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                return Err(format!(
                    "the address for other replicas, {address}, is taken: {error}"
                ));
            }
            Err(error) => last = error.to_string(),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return Ok(None),
        }
    }
    Err(format!(
        "cannot listen on {address}, this replica's entry in --initial-cluster: {last}"
    ))
}
