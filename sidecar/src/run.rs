//! One life of the sidecar: start, serve, stop (contract `flags-env-annotations`, section 6).

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use outrigger_process::Environment;
use outrigger_process::logging::{self, LogIdentity, LogOptions};
use outrigger_process::metrics::{Metrics, MetricsServer};
use outrigger_sidecar_core::Sidecar;
use outrigger_sidecar_core::app::{self, AppChannel};
use outrigger_sidecar_core::config::{BoundPorts, Mode, SidecarConfig, choose_internal_port, stable_port};
use outrigger_sidecar_grpc::{GrpcApi, Server, Socket};
use outrigger_sidecar_http::{HttpApi, Listener};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::build::{self, Built, StartError};
use crate::{VERSION, listen, register};

const DIAL_TIMEOUT: Duration = Duration::from_millis(500);
const DIAL_PAUSE: Duration = Duration::from_millis(100);
/// How long subscriptions may hold up readiness.
const SUBSCRIBE_LIMIT: Duration = Duration::from_secs(10);
const FORCED_EXIT: Duration = Duration::from_millis(100);

/// Why a life of the sidecar ended.
enum End {
    /// Stopped in order.
    Stopped,
    /// SIGHUP: start again with the same flags.
    Restart,
    /// The end was forced, or the grace period was over.
    Forced,
}

/// The signals that the process listens to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// Sends log lines where the flags say.
pub(crate) fn init_logging(
    options: &LogOptions,
    app_id: &str,
    environment: &Environment,
) -> std::io::Result<()> {
    let identity = LogIdentity {
        app_id: app_id.to_owned(),
        instance: logging::host_name(),
        version: VERSION.to_owned(),
    };
    let subscriber = logging::subscriber(options, identity, logging::local_zone(environment.get("TZ")))?;
    // Fails only if a subscriber is there already, and then log lines have somewhere to go.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

/// Runs until the process is to end.
pub(crate) async fn run(config: SidecarConfig) -> ExitCode {
    if let Err(error) = init_logging(&config.log, &config.app_id, &config.environment) {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    tracing::info!(target: "dapr.runtime", "Starting Dapr Runtime -- version {VERSION} -- commit unknown");
    tracing::info!(target: "dapr.runtime", "Log level set to: {}", config.log.level.name());
    for missing in &config.not_built {
        tracing::warn!(target: "dapr.runtime", "{missing}");
    }
    let mut signals = match signals() {
        Ok(signals) => signals,
        Err(error) => return fatal(&StartError::new(error)),
    };
    loop {
        match life(&config, &mut signals).await {
            Ok(End::Stopped) => {
                tracing::info!(target: "dapr.runtime", "Daprd shutdown gracefully");
                return ExitCode::SUCCESS;
            }
            Ok(End::Restart) => {}
            Ok(End::Forced) => return ExitCode::FAILURE,
            Err(error) => return fatal(&error),
        }
    }
}

fn signals() -> std::io::Result<Signals> {
    Ok(Signals {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
        hangup: signal(SignalKind::hangup())?,
    })
}

fn fatal(error: &StartError) -> ExitCode {
    tracing::error!(target: "dapr.runtime", fatal = true, "Fatal error from runtime: {error}");
    ExitCode::FAILURE
}

/// The listeners, bound before anything is announced.
struct Listeners {
    http: Vec<TcpListener>,
    grpc: Vec<TcpListener>,
    internal: Vec<TcpListener>,
    public: Vec<TcpListener>,
    metrics: Option<MetricsServer>,
    unix: Option<(tokio::net::UnixListener, tokio::net::UnixListener)>,
    ports: BoundPorts,
}

async fn bind(config: &SidecarConfig) -> Result<Listeners, StartError> {
    let internal_port = match config.internal_grpc_port {
        Some(port) => port,
        None => {
            let cwd = std::env::current_dir().unwrap_or_default();
            let uid = std::fs::metadata("/proc/self")
                .map(|m| std::os::unix::fs::MetadataExt::uid(&m))
                .unwrap_or(0);
            let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let stable = stable_port(
                &config.app_id,
                &cwd.to_string_lossy(),
                &uid.to_string(),
                hostname.trim(),
            );
            choose_internal_port(stable).map_err(StartError::new)?
        }
    };
    let one = |address: &str| vec![address.to_owned()];
    let internal = listen::tcp(
        "internal gRPC server",
        "--dapr-internal-grpc-port",
        &one(&config.internal_grpc_listen_address),
        internal_port,
    )
    .await
    .map_err(StartError::new)?;
    let unix = match (config.http_socket(), config.grpc_socket()) {
        (Some(http), Some(grpc)) => {
            let bind = |path: &std::path::Path| {
                listen::unix(path)
                    .map_err(|error| StartError(format!("cannot listen on {}: {error}", path.display())))
            };
            Some((bind(&http)?, bind(&grpc)?))
        }
        _ => None,
    };
    let addresses = &config.api_listen_addresses;
    let (mut http, mut grpc) = (Vec::new(), Vec::new());
    if unix.is_none() {
        http = listen::tcp("HTTP server", "--dapr-http-port", addresses, config.http_port)
            .await
            .map_err(StartError::new)?;
        grpc = listen::tcp("API gRPC server", "--dapr-grpc-port", addresses, config.grpc_port)
            .await
            .map_err(StartError::new)?;
    }
    let public = match config.public_port {
        Some(port) => listen::tcp(
            "public HTTP server",
            "--dapr-public-port",
            &one(&config.public_listen_address),
            port,
        )
        .await
        .map_err(StartError::new)?,
        None => Vec::new(),
    };
    let metrics = metrics_server(config).await?;
    let port = |listeners: &[TcpListener], given: u16| {
        listeners
            .first()
            .and_then(|listener| listener.local_addr().ok())
            .map_or(given, |address| address.port())
    };
    let ports = BoundPorts {
        http: port(&http, config.http_port),
        grpc: port(&grpc, config.grpc_port),
        internal_grpc: port(&internal, internal_port),
    };
    Ok(Listeners {
        http,
        grpc,
        internal,
        public,
        metrics,
        unix,
        ports,
    })
}

/// The Prometheus endpoint, unless it is switched off.
async fn metrics_server(config: &SidecarConfig) -> Result<Option<MetricsServer>, StartError> {
    let settings = &config.metrics;
    if !settings.enabled {
        return Ok(None);
    }
    let server = MetricsServer::bind(&settings.listen_address, settings.port, Metrics::new())
        .await
        .map_err(StartError::new)?;
    tracing::info!(target: "dapr.metrics", "metrics server started on {}/", server.address());
    Ok(Some(server))
}

async fn life(config: &SidecarConfig, signals: &mut Signals) -> Result<End, StartError> {
    let started = Instant::now();
    let mode = if config.mode == Mode::Kubernetes {
        "kubernetes"
    } else {
        "standalone"
    };
    tracing::info!(target: "dapr.runtime", "{mode} mode configured");
    tracing::info!(target: "dapr.runtime", "app id: {}", config.app_id);
    let configuration = build::configuration(config)?;
    for warning in crate::not_built::warnings(&configuration) {
        tracing::warn!(target: "dapr.runtime", "{warning}");
    }
    let listeners = bind(config).await?;
    let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
    let identity = build::identity(config);
    let registry = register::registry();
    let ports = listeners.ports;
    let starting = build::build(
        config,
        configuration,
        identity,
        ports,
        registry,
        &shutdown,
        &tasks,
    );
    let built = tokio::select! {
        built = starting => built?,
        end = early_end(signals) => return Ok(end),
    };
    // Servers stop before the components that serve them.
    let servers = Servers {
        stop: CancellationToken::new(),
        tasks: TaskTracker::new(),
    };
    let ready = built.core.readiness.register("runtime");
    servers.start(config, listeners, &built);
    built.core.outbound_ready.store(true, Ordering::Release);
    tasks.spawn(built.peers.clone().collect_idle(config.peer_collect_interval));

    let (core, app, resolver) = (built.core.clone(), built.app.clone(), built.resolver.clone());
    // Subscriptions stop first, while the API still answers.
    let subscriptions = Subscriptions {
        stop: CancellationToken::new(),
        tasks: TaskTracker::new(),
    };
    let app_tasks = AppTasks {
        shutdown: shutdown.child_token(),
        tasks: tasks.clone(),
        subscriptions: subscriptions.clone(),
        core: core.clone(),
    };
    tasks.spawn(app_tasks.run(config.clone(), app, built.app_health, ready.clone(), started));
    let end = wait_for_end(signals, &core.shutdown).await;
    if matches!(end, End::Forced) {
        tokio::time::sleep(FORCED_EXIT).await;
        return Ok(end);
    }
    subscriptions.stop.cancel();
    if let Some(duration) = config.block_shutdown.filter(|_| !matches!(end, End::Restart)) {
        tracing::info!(
            target: "dapr.runtime",
            "Blocking graceful shutdown for {duration:?} or until app reports unhealthy..."
        );
        tokio::select! {
            () = tokio::time::sleep(duration) => {}
            () = unhealthy(built.core.invoker.app()) => {}
            () = second_signal(signals) => return Ok(End::Forced),
        }
    }
    let stopping = async {
        tracing::info!(target: "dapr.runtime", "Dapr is shutting down");
        ready.not_ready();
        subscriptions.tasks.close();
        subscriptions.tasks.wait().await;
        // Also where no app ever came and nothing ran; a server waits for its streams.
        core.pubsub.close_streams();
        if let Some(resolver) = resolver {
            resolver.close().await;
        }
        servers.stop.cancel();
        servers.tasks.close();
        servers.tasks.wait().await;
        core.components.close_all().await;
        shutdown.cancel();
        tasks.close();
        tasks.wait().await;
        tracing::info!(target: "dapr.runtime", "Dapr runtime stopped");
    };
    let limit = config.graceful_shutdown;
    tokio::select! {
        () = stopping => Ok(end),
        () = grace_over(limit) => {
            tracing::error!(
                target: "dapr.runtime",
                fatal = true,
                "Graceful shutdown timeout exceeded, forcing shutdown"
            );
            Ok(End::Forced)
        }
        () = second_signal(signals) => Ok(End::Forced),
    }
}

async fn grace_over(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Resolves when the app may no longer be called; at once if it never could.
async fn unhealthy(app: Option<&Arc<AppChannel>>) {
    match app {
        Some(app) => app.unhealthy().await,
        None => std::future::pending().await,
    }
}

async fn early_end(signals: &mut Signals) -> End {
    tokio::select! {
        _ = signals.terminate.recv() => End::Stopped,
        _ = signals.interrupt.recv() => End::Stopped,
        _ = signals.hangup.recv() => End::Restart,
    }
}

async fn second_signal(signals: &mut Signals) {
    tokio::select! {
        _ = signals.terminate.recv() => {}
        _ = signals.interrupt.recv() => {}
    }
}

async fn wait_for_end(
    signals: &mut Signals,
    request: &outrigger_sidecar_core::sidecar::ShutdownRequest,
) -> End {
    let (name, end) = tokio::select! {
        _ = signals.terminate.recv() => ("terminated", End::Stopped),
        _ = signals.interrupt.recv() => ("interrupt", End::Stopped),
        _ = signals.hangup.recv() => ("hangup", End::Restart),
        () = request.graceful() => return End::Stopped,
        () = request.forced() => return End::Forced,
    };
    let what = if matches!(end, End::Restart) {
        "restarting"
    } else {
        "beginning shutdown"
    };
    tracing::info!(target: "dapr.signals", "Received signal '{name}'; {what}");
    end
}

struct Servers {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Servers {
    fn start(&self, config: &SidecarConfig, listeners: Listeners, built: &Built) {
        let http = HttpApi::new(built.core.clone(), built.http.clone());
        let grpc = GrpcApi::new(built.core.clone(), built.grpc.clone());
        let ports = listeners.ports;
        let info = |text: String| tracing::info!(target: "dapr.runtime", "{text}");
        let serving = |name: &'static str| built.core.readiness.register(name);
        if let Some(metrics) = listeners.metrics {
            let running = metrics.run(self.stop.clone());
            self.tasks
                .spawn(while_ready(serving("metrics-exporter"), running));
        }
        for listener in listeners.http {
            self.tasks.spawn(outrigger_sidecar_http::serve(
                http.clone(),
                Listener::Api,
                listener,
                self.stop.clone(),
            ));
        }
        for listener in listeners.public {
            self.tasks.spawn(outrigger_sidecar_http::serve(
                http.clone(),
                Listener::Public,
                listener,
                self.stop.clone(),
            ));
        }
        let grpc_listeners = listeners
            .grpc
            .into_iter()
            .map(|listener| (Server::Api, Socket::Tcp(listener)));
        let internal = listeners
            .internal
            .into_iter()
            .map(|listener| (Server::Internal, Socket::Tcp(listener)));
        for (server, socket) in grpc_listeners.chain(internal) {
            let target = serving(match server {
                Server::Api => "grpc-api-server",
                Server::Internal => "grpc-internal-server",
            });
            let running = outrigger_sidecar_grpc::serve(grpc.clone(), server, socket, self.stop.clone());
            self.tasks.spawn(while_ready(target, running));
        }
        match listeners.unix {
            Some((http_socket, grpc_socket)) => {
                self.tasks.spawn(outrigger_sidecar_http::serve(
                    http,
                    Listener::Api,
                    http_socket,
                    self.stop.clone(),
                ));
                let socket = Socket::Unix(grpc_socket);
                let running = outrigger_sidecar_grpc::serve(grpc, Server::Api, socket, self.stop.clone());
                self.tasks.spawn(while_ready(serving("grpc-api-server"), running));
                info("HTTP server is running on a Unix Domain Socket".into());
                info("API gRPC server is running on a Unix Domain Socket".into());
            }
            None => {
                info(format!("HTTP server is running on port {}", ports.http));
                info(format!(
                    "The request body size parameter is: {} bytes",
                    config.max_body_size
                ));
                info(format!("API gRPC server is running on port {}", ports.grpc));
            }
        }
        let address = &config.internal_grpc_listen_address;
        info(format!(
            "Internal gRPC server is running on {address}:{}",
            ports.internal_grpc
        ));
    }
}

/// Runs a server; its health target is ready as long as it runs.
async fn while_ready(target: outrigger_process::readiness::Target, server: impl Future<Output = ()>) {
    target.ready();
    server.await;
    target.not_ready();
}

/// Deliveries to the app.
#[derive(Clone)]
struct Subscriptions {
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What waits for the app.
struct AppTasks {
    shutdown: CancellationToken,
    tasks: TaskTracker,
    subscriptions: Subscriptions,
    core: Arc<Sidecar>,
}

impl AppTasks {
    async fn run(
        self,
        config: SidecarConfig,
        app: Option<Arc<AppChannel>>,
        health: Option<outrigger_sidecar_core::app::AppHealth>,
        ready: outrigger_process::readiness::Target,
        started: Instant,
    ) {
        let app_state = app
            .as_ref()
            .map_or_else(|| watch::channel(true).1, |app| app.health());
        if let Some(app) = app {
            tracing::info!(
                target: "dapr.runtime",
                "application protocol: {}. waiting on port {}.  This will block until the app is listening on that port.",
                app.protocol().name(),
                app.port()
            );
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = app_listens(&config.app.address, app.port()) => {}
            }
            tracing::info!(target: "dapr.runtime", "application discovered on port {}", app.port());
            if let Some(health) = health {
                self.tasks.spawn(health.run(app.clone(), self.shutdown.clone()));
            }
        }
        self.start_subscriptions(app_state);
        if let Some(app) = self
            .core
            .invoker
            .app()
            .filter(|_| !config.app.disabled_init.config)
        {
            let (app, core, shutdown) = (app.clone(), self.core.clone(), self.shutdown.clone());
            // Nothing reads the answer before there are actors; apps count on being asked.
            self.tasks.spawn(async move {
                let asking = app::configuration::ask(&app, &core.identity.app_id);
                shutdown.run_until_cancelled(asking).await;
            });
        }
        // Who publishes as soon as the sidecar is ready may count on the subscriptions.
        tokio::select! {
            () = self.core.pubsub.settled() => {}
            () = tokio::time::sleep(SUBSCRIBE_LIMIT) => {}
            () = self.shutdown.cancelled() => {}
        }
        ready.ready();
        let elapsed = started.elapsed().as_millis();
        tracing::info!(target: "dapr.runtime", "dapr initialized. Status: Running. Init Elapsed {elapsed}ms");
    }
}

impl AppTasks {
    fn start_subscriptions(&self, healthy: watch::Receiver<bool>) {
        let (pubsub, stop) = (self.core.pubsub.clone(), self.subscriptions.stop.clone());
        self.subscriptions
            .tasks
            .spawn(async move { pubsub.run(healthy, stop).await });
    }
}

async fn app_listens(address: &str, port: u16) {
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    loop {
        let dial = tokio::net::TcpStream::connect((bare, port));
        if matches!(tokio::time::timeout(DIAL_TIMEOUT, dial).await, Ok(Ok(_))) {
            return;
        }
        tokio::time::sleep(DIAL_PAUSE).await;
    }
}
