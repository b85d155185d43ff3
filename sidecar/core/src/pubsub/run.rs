//! Keeps the app's subscriptions running while the app is healthy.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::Duration;

use outrigger_components_api::pubsub::PubSub;
use rand::RngExt as _;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::active::StartError;
use super::deliver::Subscriber;
use super::deliver::app::AppSubscriber;
use super::subscription::SubscriptionSpec;
use super::{Inner, PubSubService, programmatic};

/// First pause before a failed start is tried again; each one is half as long again as the one before.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Subscriptions that are started or being started, by component and topic.
type Running = BTreeMap<(String, String), Kept>;

/// Held until a first try is through.
type Trying = mpsc::Sender<Infallible>;

struct Kept {
    spec: Arc<SubscriptionSpec>,
    /// The component it was started for; another one in its place means another subscription.
    broker: Option<Weak<dyn PubSub>>,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl PubSubService {
    /// Runs the app's subscriptions until shutdown, then drains them. To be called when the app listens; without an
    /// app there is nothing to do.
    pub async fn run(&self, healthy: watch::Receiver<bool>, shutdown: CancellationToken) {
        if let Some(app) = &self.inner.app {
            let subscriber = Arc::new(AppSubscriber::new(app.clone()));
            self.inner.keep_all(subscriber, healthy, &shutdown).await;
        } else {
            self.inner.settled.cancel();
            shutdown.cancelled().await;
        }
        self.close_streams();
    }

    /// Resolves when each subscription has started, or failed to, once; at once where the app is not healthy. Before
    /// that, [`Self::run`] must have been called.
    pub async fn settled(&self) {
        self.inner.settled.cancelled().await;
    }

    /// Ends the streams. A broker gives their unanswered events to somebody else.
    pub fn close_streams(&self) {
        self.inner.closing.cancel();
    }
}

/// Resolves when the value has changed; never if nobody can change it any more.
pub(super) async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl Inner {
    pub(super) async fn keep_all(
        self: &Arc<Self>,
        subscriber: Arc<dyn Subscriber>,
        mut healthy: watch::Receiver<bool>,
        shutdown: &CancellationToken,
    ) {
        let mut declared = self.declared.subscribe();
        let mut changes = self.changes.subscribe();
        let mut running = Running::new();
        let mut asked = !self.ask_app;
        // Each subscription of the first round holds a sender until it has tried to start.
        let (trying, mut tried) = mpsc::channel(1);
        let mut trying = Some(trying);
        while !shutdown.is_cancelled() {
            let up = *healthy.borrow_and_update();
            declared.mark_unchanged();
            changes.mark_unchanged();
            if up && !asked && !self.components.snapshot().pubsub.is_empty() {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => break,
                    list = programmatic::ask(self) => {
                        self.programmatic.send_replace(Arc::new(list));
                    }
                }
                asked = true;
            }
            let wanted = if up { self.wanted() } else { Vec::new() };
            self.reconcile(&mut running, wanted, &subscriber, trying.take())
                .await;
            tokio::select! {
                None = tried.recv(), if !self.settled.is_cancelled() => self.settled.cancel(),
                () = shutdown.cancelled() => {}
                () = changed(&mut healthy) => {}
                () = changed(&mut declared) => {}
                () = changed(&mut changes) => {}
            }
        }
        stop_all(running).await;
    }

    /// Stops what is not wanted (as it is), then starts what is new.
    async fn reconcile(
        self: &Arc<Self>,
        running: &mut Running,
        wanted: Vec<SubscriptionSpec>,
        subscriber: &Arc<dyn Subscriber>,
        trying: Option<Trying>,
    ) {
        let obsolete: Running = running
            .extract_if(.., |_, kept| {
                !wanted.contains(&kept.spec) || !self.is_current(&kept.spec.pubsub, kept.broker.as_ref())
            })
            .collect();
        stop_all(obsolete).await;
        for spec in wanted {
            let (pubsub, topic) = spec.key();
            let key = (pubsub.to_owned(), topic.to_owned());
            running.entry(key).or_insert_with(|| {
                let (spec, stop) = (Arc::new(spec), CancellationToken::new());
                let (inner, subscriber) = (self.clone(), subscriber.clone());
                let broker = self.broker(&spec.pubsub);
                let keep = keep(inner, spec.clone(), subscriber, stop.clone(), trying.clone());
                Kept {
                    spec,
                    broker,
                    stop,
                    task: AbortOnDropHandle::new(tokio::spawn(keep)),
                }
            });
        }
    }
}

async fn stop_all(running: Running) {
    for kept in running.values() {
        kept.stop.cancel();
    }
    for kept in running.into_values() {
        // A panic has been reported by the runtime; there is nothing left to stop.
        let _ = kept.task.await;
    }
}

/// Keeps one subscription: starts it, again and again if need be, and drains it when told to stop.
async fn keep(
    inner: Arc<Inner>,
    spec: Arc<SubscriptionSpec>,
    subscriber: Arc<dyn Subscriber>,
    stop: CancellationToken,
    mut trying: Option<Trying>,
) {
    let mut pause = FIRST_PAUSE;
    let mut changes = inner.changes.subscribe();
    loop {
        let starting = inner.start(spec.clone(), subscriber.clone());
        let Some(started) = stop.run_until_cancelled(starting).await else {
            return;
        };
        trying.take();
        match started {
            Ok(mut active) => {
                tracing::debug!(target: "dapr.runtime", "subscribed to topic '{}' on pubsub '{}'", spec.topic, spec.pubsub);
                pause = FIRST_PAUSE;
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {
                        active.close().await;
                        return;
                    }
                    () = active.ended() => {}
                }
            }
            // It may still come.
            Err(error @ StartError::NoComponent(_)) => tracing::debug!(
                target: "dapr.runtime", "topic '{}' waits for its component: {error}", spec.topic
            ),
            Err(error) => tracing::error!(
                target: "dapr.runtime", "error occurred while beginning pubsub for topic {} on component {}: {error}",
                spec.topic, spec.pubsub
            ),
        }
        let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.5));
        pause = pause.mul_f64(1.5).min(LONGEST_PAUSE);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(jittered) => {}
            () = changed(&mut changes) => {}
        }
    }
}
