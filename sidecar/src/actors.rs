//! Actors of this sidecar: their engine, its place in start and stop.

use std::sync::Arc;
use std::time::Duration;

use outrigger_identity::{Security, Service};
use outrigger_process::readiness::Target;
use outrigger_resiliency::Resiliency;
use outrigger_sidecar_core::Identity;
use outrigger_sidecar_core::actors::metrics::ActorObserver;
use outrigger_sidecar_core::actors::peers::GrpcPeers;
use outrigger_sidecar_core::actors::placement::GrpcPlacement;
use outrigger_sidecar_core::actors::store::ComponentActorStores;
use outrigger_sidecar_core::actors::{Engine, EngineOptions, EngineParts};
use outrigger_sidecar_core::components::ComponentStore;
use outrigger_sidecar_core::config::{BoundPorts, Mode, SidecarConfig};
use outrigger_sidecar_core::invoke::peer::Peers;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a stopping sidecar waits at most for the placement service to move its actors away.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the engine is made of.
pub(crate) struct Parts<'a> {
    pub(crate) config: &'a SidecarConfig,
    pub(crate) identity: &'a Identity,
    pub(crate) ports: BoundPorts,
    pub(crate) components: Arc<ComponentStore>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) resiliency: Resiliency,
    pub(crate) max_message: usize,
    pub(crate) state_ttl: bool,
    pub(crate) tasks: TaskTracker,
    /// `None` with metrics off.
    pub(crate) observer: Option<Arc<dyn ActorObserver>>,
}

/// The engine; `None` without a placement service.
pub(crate) fn engine(parts: Parts<'_>) -> Option<Arc<Engine>> {
    let control_plane = &parts.config.control_plane;
    if control_plane.placement_addresses.is_empty() {
        return None;
    }
    Some(Engine::new(EngineParts {
        options: EngineOptions {
            app_id: parts.identity.app_id.clone(),
            namespace: parts.identity.namespace.clone(),
            own_address: own_address(parts.config, parts.identity, parts.ports),
            round_limit: control_plane.actors_disseminate_timeout,
            state_ttl: parts.state_ttl,
        },
        peers: Arc::new(GrpcPeers::new(parts.peers, parts.identity, parts.max_message)),
        stores: Arc::new(ComponentActorStores(parts.components)),
        resiliency: parts.resiliency,
        tasks: parts.tasks,
        observer: parts.observer,
    }))
}

/// `host:port` of the internal API as other sidecars reach it.
fn own_address(config: &SidecarConfig, identity: &Identity, ports: BoundPorts) -> String {
    let listen = config.internal_grpc_listen_address.as_str();
    let host = if matches!(listen, "127.0.0.1" | "localhost" | "[::1]" | "::1") {
        listen
    } else {
        &identity.host_address
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let port = ports.internal_grpc;
    if bare.contains(':') {
        format!("[{bare}]:{port}")
    } else {
        format!("{bare}:{port}")
    }
}

/// The engine at work.
pub(crate) struct RunningActors {
    engine: Arc<Engine>,
    stop: CancellationToken,
    patience: Duration,
}

impl RunningActors {
    /// Connects to the placement service; the target is ready once a table has been in force. Losing it later does not
    /// count: everything but actors goes on, and Kubernetes would take pods that are not ready out of their Service, so that
    /// a restart of placement would cut off all apps (as it does in Dapr).
    pub(crate) fn start(
        engine: Arc<Engine>,
        config: &SidecarConfig,
        security: &Security,
        ready: Target,
        tasks: &TaskTracker,
    ) -> Self {
        let mut addresses = config.control_plane.placement_addresses.clone();
        if config.mode == Mode::Kubernetes {
            // One name stands for all replicas.
            addresses.truncate(1);
        }
        let stop = CancellationToken::new();
        let connector = GrpcPlacement::new(addresses, security.to_service(Service::Placement));
        tasks.spawn(engine.clone().run(Box::new(connector), stop.clone()));
        let (mut link, until) = (engine.link(), stop.clone());
        tasks.spawn(async move {
            let waiting = link.wait_for(|link| link.ready);
            if let Some(Ok(_)) = until.run_until_cancelled(waiting).await {
                ready.ready();
            }
        });
        let limit = config.graceful_shutdown.map_or(PATIENCE, |limit| limit / 2);
        Self {
            engine,
            stop,
            patience: PATIENCE.min(limit),
        }
    }

    /// The actors leave for other hosts; what still comes is passed on to them.
    pub(crate) async fn withdraw(&self) {
        self.engine.withdraw(self.patience).await;
    }

    /// The stream to the placement service ends.
    pub(crate) fn end(&self) {
        self.stop.cancel();
    }
}
