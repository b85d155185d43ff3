//! One life of the sidecar: start, serve, stop (contract `flags-env-annotations`, section 6).

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use outrigger_identity::IdentityMetrics;
use outrigger_process::logging::{self, LogIdentity, LogOptions};
use outrigger_process::readiness::Target;
use outrigger_process::{Drain, Environment, Metrics, Signals, Tasks};
use outrigger_sidecar_core::Sidecar;
use outrigger_sidecar_core::actors::import::ReminderImport;
use outrigger_sidecar_core::actors::store::ComponentActorStores;
use outrigger_sidecar_core::app::AppChannel;
use outrigger_sidecar_core::config::{Mode, SidecarConfig};
use outrigger_sidecar_core::jobs::{ActorReminders, DueJobs};
use outrigger_sidecar_core::operator::Operator;
use outrigger_sidecar_core::scheduler::SchedulerReminders;
use outrigger_sidecar_core::sidecar::ShutdownRequest;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::actors::RunningActors;
use crate::app_start::{AppStart, Subscriptions};
use crate::build::{self, Base, Built, StartError};
use crate::{VERSION, register, reload, security, servers};

const FORCED_EXIT: Duration = Duration::from_millis(100);

/// Why a life of the sidecar ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Stopped in order.
    Stopped,
    /// SIGHUP: start again with the same flags.
    Restart,
    /// The end was forced, or the grace period was over.
    Forced,
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
    let mut signals = match Signals::listen() {
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

fn fatal(error: &StartError) -> ExitCode {
    tracing::error!(target: "dapr.runtime", fatal = true, "Fatal error from runtime: {error}");
    ExitCode::FAILURE
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
    // Files first: a mistake in them needs no identity to be found.
    let from_files = match config.mode {
        Mode::Standalone => Some(build::configuration(config)?),
        Mode::Kubernetes => None,
    };
    let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
    let metrics = Metrics::new();
    let starting = async {
        // Nothing listens before it can prove who it is.
        let counters = IdentityMetrics::new(&[("app_id", &config.app_id)]);
        let security = security::start(config, &counters, &shutdown, &tasks).await?;
        let (operator, configuration) = match from_files {
            Some(configuration) => (None, configuration),
            None => {
                let operator = Operator::new(&security, config).map_err(StartError::new)?;
                let configuration = operator.configuration().await.map_err(StartError::new)?;
                (Some(operator), build::with_environment(config, configuration)?)
            }
        };
        for warning in crate::not_built::warnings(&configuration) {
            tracing::warn!(target: "dapr.runtime", "{warning}");
        }
        let identity = build::identity(config);
        let kept = build::metrics(&metrics, &identity, &configuration)?;
        if let Some(others) = kept.others() {
            counters.register(others).map_err(StartError::new)?;
        }
        let listeners = servers::bind(config, &metrics).await?;
        let mut registry = register::registry();
        register::pluggable(&mut registry, config).await;
        let base = Base {
            metrics: kept,
            identity,
            security,
            ports: listeners.ports,
            registry,
            operator,
        };
        let built = build::build(config, configuration, base, &shutdown, &tasks).await?;
        Ok::<_, StartError>((listeners, built))
    };
    let (listeners, built) = tokio::select! {
        started = starting => started?,
        end = early_end(signals) => {
            shutdown.cancel();
            return Ok(end);
        }
    };
    // Servers stop before the components that serve them.
    let drain = Drain::new();
    let mut servers = Tasks::new(drain.stopping().clone());
    let ready = built.core.readiness.register("runtime");
    let secure = built.core.readiness.register("security-provider");
    tasks.spawn(security::tell_health(
        built.core.security.clone(),
        secure,
        shutdown.child_token(),
    ));
    let apis = listeners.serve(config, &built, drain.stopping(), &mut servers);
    built.core.outbound_ready.store(true, Ordering::Release);
    tasks.spawn(built.peers.clone().collect_idle(config.peer_collect_interval));

    let actors = built.engine.clone().map(|engine| {
        let ready = built.core.readiness.register("internal-placement-service");
        RunningActors::start(engine, config, &built.core.security, ready, &tasks)
    });

    // Subscriptions and jobs stop first, while the API still answers.
    let subscriptions = Subscriptions::new(drain.intake_closed().clone());
    let due = Arc::new(DueJobs::new(built.app.clone()));
    if let Some(engine) = &built.engine {
        let reminders = Arc::new(SchedulerReminders(built.core.jobs.scheduler().clone()));
        engine.set_reminders(reminders.clone());
        if reminders.0.is_enabled() {
            let import = ReminderImport {
                stores: Arc::new(ComponentActorStores(built.core.components.clone())),
                reminders: reminders.clone(),
            };
            let (hosted, stop) = (reminders.0.interest(), subscriptions.stop.clone());
            subscriptions.tasks.spawn(import.run(hosted, stop));
        }
        due.set_reminders(Arc::new(ActorReminders(engine.clone())));
    }
    subscriptions.tasks.spawn(built.core.jobs.scheduler().clone().run(
        due,
        built.core.readiness.register("scheduler-watch-hosts"),
        subscriptions.stop.clone(),
        subscriptions.tasks.clone(),
    ));
    let core = built.core.clone();
    reload::start(config, &built, apis, &subscriptions, &shutdown, &tasks);
    tasks.spawn(app_start(config, built, &subscriptions, &ready, started, &shutdown, &tasks).run());
    let running = Running {
        core,
        actors,
        drain,
        servers,
        subscriptions,
        ready,
        shutdown,
        tasks,
    };
    running.until_end(config, signals).await
}

fn app_start(
    config: &SidecarConfig,
    built: Built,
    subscriptions: &Subscriptions,
    ready: &Target,
    started: Instant,
    shutdown: &CancellationToken,
    tasks: &TaskTracker,
) -> AppStart {
    AppStart {
        core: built.core,
        app: built.app,
        health: built.app_health,
        subscriptions: subscriptions.clone(),
        asks_configuration: !config.app.disabled_init.config,
        max_message: built.max_message,
        ready: ready.clone(),
        started,
        shutdown: shutdown.child_token(),
        tasks: tasks.clone(),
    }
}

/// A sidecar at work.
struct Running {
    core: Arc<Sidecar>,
    actors: Option<RunningActors>,
    drain: Drain,
    servers: Tasks,
    subscriptions: Subscriptions,
    ready: Target,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Running {
    /// Waits for a reason to end, and ends.
    async fn until_end(mut self, config: &SidecarConfig, signals: &mut Signals) -> Result<End, StartError> {
        let end = tokio::select! {
            end = wait_for_end(signals, &self.core.shutdown) => end,
            Err(error) = self.servers.watch() => return Err(StartError::new(error)),
        };
        if end == End::Forced {
            tokio::time::sleep(FORCED_EXIT).await;
            return Ok(end);
        }
        self.drain.close_intake();
        if let Some(duration) = config.block_shutdown.filter(|_| end != End::Restart) {
            tracing::info!(
                target: "dapr.runtime",
                "Blocking graceful shutdown for {duration:?} or until app reports unhealthy..."
            );
            tokio::select! {
                () = tokio::time::sleep(duration) => {}
                () = unhealthy(self.core.invoker.app()) => {}
                () = second_signal(signals) => return Ok(End::Forced),
            }
        }
        tokio::select! {
            () = self.stop() => Ok(end),
            () = grace_over(config.graceful_shutdown) => {
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

    /// Deliveries end, the name is withdrawn, the servers drain, the components close.
    async fn stop(self) {
        tracing::info!(target: "dapr.runtime", "Dapr is shutting down");
        self.ready.not_ready();
        self.subscriptions.tasks.close();
        self.subscriptions.tasks.wait().await;
        // Also where no app ever came and nothing ran; a server waits for its streams.
        self.core.pubsub.close_streams();
        if let Some(actors) = &self.actors {
            // While both APIs still answer: turns end, the app is told, late calls are passed on.
            actors.withdraw().await;
        }
        self.core.actor_streams.close();
        self.core.configuration.close().await;
        self.core.invoker.addresses().close().await;
        self.drain.begin();
        if let Err(error) = self.servers.finish(None).await {
            tracing::warn!(target: "dapr.runtime", "{error}");
        }
        if let Some(actors) = &self.actors {
            actors.end();
        }
        self.core.components.close_all().await;
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        tracing::info!(target: "dapr.runtime", "Dapr runtime stopped");
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

/// A signal during the start needs no orderly end: nothing was taken in yet.
async fn early_end(signals: &mut Signals) -> End {
    if signals.next().await.is_stop() {
        End::Stopped
    } else {
        End::Restart
    }
}

/// A second signal to stop; a restart that is asked for while stopping has no effect.
async fn second_signal(signals: &mut Signals) {
    while !signals.next().await.is_stop() {}
}

async fn wait_for_end(signals: &mut Signals, request: &ShutdownRequest) -> End {
    let signal = tokio::select! {
        signal = signals.next() => signal,
        () = request.graceful() => return End::Stopped,
        () = request.forced() => return End::Forced,
    };
    tracing::info!(target: "dapr.signals", "{}", signal.log_line());
    if signal.is_stop() {
        End::Stopped
    } else {
        End::Restart
    }
}
