//! What waits for the app: its health checks, the subscriptions, its configuration, and with them readiness.

use std::sync::Arc;
use std::time::Duration;

use outrigger_process::readiness::Target;
use outrigger_sidecar_core::Sidecar;
use outrigger_sidecar_core::actors::hosting::AppHosting;
use outrigger_sidecar_core::app::{AppChannel, AppHealth};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long subscriptions may hold up readiness.
const SUBSCRIBE_LIMIT: Duration = Duration::from_secs(10);

/// Deliveries to the app.
#[derive(Clone)]
pub(crate) struct Subscriptions {
    /// Ends taking in events.
    pub(crate) stop: CancellationToken,
    /// Deliveries under way.
    pub(crate) tasks: TaskTracker,
}

impl Subscriptions {
    pub(crate) fn new(stop: CancellationToken) -> Self {
        let tasks = TaskTracker::new();
        Self { stop, tasks }
    }

    fn start(&self, core: &Sidecar, healthy: watch::Receiver<bool>) {
        let (pubsub, stop, up) = (core.pubsub.clone(), self.stop.clone(), healthy.clone());
        self.tasks.spawn(async move { pubsub.run(up, stop).await });
        let (pubsub, stop, up) = (core.pubsub.clone(), self.stop.clone(), healthy.clone());
        self.tasks.spawn(async move { pubsub.run_outbox(up, stop).await });
        let (bindings, stop) = (core.bindings.clone(), self.stop.clone());
        self.tasks.spawn(async move { bindings.run(healthy, stop).await });
    }
}

/// The part of the start that the app may hold up for ever.
pub(crate) struct AppStart {
    pub(crate) core: Arc<Sidecar>,
    pub(crate) app: Option<Arc<AppChannel>>,
    pub(crate) health: Option<AppHealth>,
    pub(crate) subscriptions: Subscriptions,
    /// The app is asked for its configuration.
    pub(crate) asks_configuration: bool,
    /// Largest message in bytes.
    pub(crate) max_message: usize,
    /// Set once the sidecar serves in both directions.
    pub(crate) ready: Target,
    pub(crate) started: Instant,
    pub(crate) shutdown: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl AppStart {
    /// Waits for the app, then starts what calls it.
    pub(crate) async fn run(mut self) {
        let healthy = self
            .app
            .as_ref()
            .map_or_else(|| watch::channel(true).1, |app| app.health());
        let shutdown = self.shutdown.clone();
        if let Some(app) = self.app.clone() {
            if shutdown.run_until_cancelled(discover(&app)).await.is_none() {
                return;
            }
            if let Some(health) = self.health.take() {
                self.tasks.spawn(health.run(app.clone(), shutdown.clone()));
            }
        }
        self.take_jobs(healthy.clone());
        self.subscriptions.start(&self.core, healthy);
        self.host_actors();
        // Who publishes as soon as the sidecar is ready may count on the subscriptions.
        tokio::select! {
            () = self.core.pubsub.settled() => {}
            () = tokio::time::sleep(SUBSCRIBE_LIMIT) => {}
            () = shutdown.cancelled() => {}
        }
        self.ready.ready();
        let elapsed = self.started.elapsed().as_millis();
        tracing::info!(target: "dapr.runtime", "dapr initialized. Status: Running. Init Elapsed {elapsed}ms");
    }

    /// The scheduler is told whether the app takes jobs: while it is there and healthy.
    fn take_jobs(&self, mut healthy: watch::Receiver<bool>) {
        if self.app.is_none() {
            return;
        }
        let (core, stop) = (self.core.clone(), self.subscriptions.stop.clone());
        self.subscriptions.tasks.spawn(async move {
            loop {
                let is_healthy = *healthy.borrow_and_update();
                core.jobs
                    .scheduler()
                    .set_interest(|interest| interest.jobs = is_healthy);
                tokio::select! {
                    changed = healthy.changed() => if changed.is_err() { return },
                    () = stop.cancelled() => return,
                }
            }
        });
    }

    fn host_actors(&self) {
        let hosting = AppHosting {
            engine: self.core.actors.engine().ok().cloned(),
            app: self.app.clone(),
            streams: self.core.actor_streams.clone(),
            identity: self.core.identity.clone(),
            asks: self.asks_configuration,
            max_message: self.max_message,
        };
        let shutdown = self.shutdown.clone();
        self.tasks
            .spawn(async move { shutdown.run_until_cancelled(hosting.run()).await });
    }
}

async fn discover(app: &AppChannel) {
    tracing::info!(
        target: "dapr.runtime",
        "application protocol: {}. waiting on port {}.  This will block until the app is listening on that port.",
        app.protocol().name(),
        app.port()
    );
    app.listening().await;
    tracing::info!(target: "dapr.runtime", "application discovered on port {}", app.port());
}
