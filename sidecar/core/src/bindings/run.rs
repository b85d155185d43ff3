//! Keeps reading from input bindings while the app is healthy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode};
use outrigger_components_api::bindings::InputBinding;
use rand::RngExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::deliver::AppEvents;
use super::{BindingService, Inner};
use crate::Body;
use crate::app::outgoing::JSON;
use crate::app::{AppChannel, HttpApp};
use crate::invoke::escape;

/// First pause before a failed start is tried again; each one is half as long again as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A binding that may be read from.
struct Source {
    name: Arc<str>,
    binding: Arc<dyn InputBinding>,
    route: Arc<str>,
    is_declared: bool,
}

/// A binding that is read from, or about to be.
struct Kept {
    binding: Arc<dyn InputBinding>,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

type Running = BTreeMap<Arc<str>, Kept>;

impl BindingService {
    /// Reads from the input bindings until shutdown, pausing while the app is not healthy; ends when all events that
    /// were taken have been handled. To be called when the app listens.
    pub async fn run(&self, mut healthy: watch::Receiver<bool>, shutdown: CancellationToken) {
        let inner = &self.inner;
        let mut changes = inner.changes.subscribe();
        let mut running = Running::new();
        while !shutdown.is_cancelled() {
            let up = *healthy.borrow_and_update();
            changes.mark_unchanged();
            inner.reconcile(&mut running, up).await;
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = changed(&mut healthy) => {}
                () = changed(&mut changes) => {}
            }
        }
        stop_all(running).await;
        inner.forwarded.close();
        inner.forwarded.wait().await;
    }
}

/// Resolves when the value has changed; never if nobody can change it any more.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
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

impl Inner {
    fn sources(&self) -> Vec<Source> {
        let snapshot = self.deps.components.snapshot();
        let sources = snapshot.bindings.iter().filter_map(|(name, loaded)| {
            Some(Source {
                name: name.clone(),
                binding: loaded.input.clone()?,
                route: loaded.route.clone(),
                is_declared: loaded.is_declared_input,
            })
        });
        sources.collect()
    }

    /// Stops what is not to be read from (any more), starts what is new.
    async fn reconcile(self: &Arc<Self>, running: &mut Running, up: bool) {
        let sources = if up { self.sources() } else { Vec::new() };
        let obsolete: Running = running
            .extract_if(.., |name, kept| {
                !sources
                    .iter()
                    .any(|source| source.name == *name && Arc::ptr_eq(&source.binding, &kept.binding))
            })
            .collect();
        stop_all(obsolete).await;
        let Some(app) = &self.deps.app else {
            if !sources.is_empty() {
                tracing::warn!(
                    target: "dapr.runtime",
                    "failed to read from bindings: app channel not initialized; give --app-port"
                );
            }
            return;
        };
        for source in sources {
            let (inner, app) = (self.clone(), app.clone());
            running.entry(source.name.clone()).or_insert_with(|| {
                let stop = CancellationToken::new();
                Kept {
                    binding: source.binding.clone(),
                    stop: stop.clone(),
                    task: AbortOnDropHandle::new(tokio::spawn(keep(inner, app, source, stop))),
                }
            });
        }
    }

    /// Whether the app wants a binding's events.
    ///
    /// # Errors
    /// It could not be asked.
    async fn wants(&self, app: &AppChannel, source: &Source) -> Result<bool, String> {
        if source.is_declared {
            return Ok(true);
        }
        if let Some(http) = app.http() {
            return self.options(http, &source.route).await;
        }
        let Some(grpc) = app.grpc() else {
            return Ok(false);
        };
        let listed = self.listed.get_or_init(|| async {
            let mut request = tonic::Request::new(());
            grpc.authorise(request.metadata_mut());
            match grpc.callback().list_input_bindings(request).await {
                Ok(answer) => answer.into_inner().bindings,
                Err(status) => {
                    tracing::debug!(
                        target: "dapr.runtime.processor.binding",
                        "the app lists no input bindings: {status}"
                    );
                    Vec::new()
                }
            }
        });
        Ok(listed.await.iter().any(|name| **name == *source.name))
    }

    async fn options(&self, app: &HttpApp, route: &str) -> Result<bool, String> {
        let failed = |error: &dyn std::fmt::Display| {
            format!(
                "could not invoke OPTIONS method on input binding subscription endpoint \"{route}\": {error}"
            )
        };
        let (path, query) = route.split_once('?').unwrap_or((route, ""));
        let path = escape::path(path.trim_start_matches('/')).map_err(|error| failed(&error))?;
        let request = Request::builder()
            .method(Method::OPTIONS)
            .uri(app.uri(&path, query).map_err(|error| failed(&error))?)
            .header(CONTENT_TYPE, JSON)
            .body(Body::Empty)
            .map_err(|error| failed(&error))?;
        match tokio::time::timeout(self.deps.options_timeout, app.call(request, None)).await {
            Ok(Ok(answer)) => {
                let status = answer.status();
                Ok(status.is_success() || status == StatusCode::METHOD_NOT_ALLOWED)
            }
            Ok(Err(error)) => Err(failed(&error)),
            Err(_) => Err(failed(
                &"context deadline exceeded (--app-binding-options-timeout)",
            )),
        }
    }
}

/// Keeps one binding: asks the app, starts reading, again and again if need be, and drains it when told to stop.
async fn keep(inner: Arc<Inner>, app: Arc<AppChannel>, source: Source, stop: CancellationToken) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(wanted) = stop.run_until_cancelled(inner.wants(&app, &source)).await else {
            return;
        };
        match wanted {
            Ok(true) => {
                if read(&inner, &app, &source, &stop).await {
                    pause = FIRST_PAUSE;
                }
            }
            Ok(false) => {
                tracing::info!(
                    target: "dapr.runtime.processor.binding",
                    "app has not subscribed to binding {}.", source.name
                );
                return;
            }
            Err(error) => tracing::warn!(target: "dapr.runtime", "failed to read from bindings: {error}"),
        }
        let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.5));
        pause = pause.mul_f64(1.5).min(LONGEST_PAUSE);
        if stop
            .run_until_cancelled(tokio::time::sleep(jittered))
            .await
            .is_none()
        {
            return;
        }
    }
}

/// Reads until told to stop, or until the binding gives up; whether it had started.
async fn read(inner: &Arc<Inner>, app: &Arc<AppChannel>, source: &Source, stop: &CancellationToken) -> bool {
    let handler = Arc::new(AppEvents {
        inner: inner.clone(),
        app: app.clone(),
        name: source.name.clone(),
        route: source.route.clone(),
    });
    let started = stop.run_until_cancelled(source.binding.read(handler)).await;
    let mut reading = match started {
        None => return false,
        Some(Ok(reading)) => reading,
        Some(Err(error)) => {
            tracing::error!(
                target: "dapr.runtime.processor.binding",
                "error reading from input binding {}: {error}", source.name
            );
            return false;
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => reading.close().await,
        _ = &mut reading.stopped => tracing::error!(
            target: "dapr.runtime.processor.binding",
            "input binding {} has stopped reading; it is started again", source.name
        ),
    }
    true
}
