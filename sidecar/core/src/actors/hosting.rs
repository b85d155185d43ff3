//! What the app hosts, as its health comes and goes.

use std::sync::Arc;

use outrigger_sidecar_actors::Engine;
use outrigger_sidecar_actors::config::HostedTypes;
use outrigger_sidecar_actors::seams::ActorTarget;

use super::app::HttpActors;
use super::stream::StreamActors;
use crate::Identity;
use crate::app::{AppChannel, configuration};

/// The app and its streams.
pub struct AppHosting {
    /// The engine; `None` = no placement service, the app is only asked for its configuration.
    pub engine: Option<Arc<Engine>>,
    /// The app.
    pub app: Option<Arc<AppChannel>>,
    /// Streams that gRPC apps, and those without a port, host actors over.
    pub streams: Arc<StreamActors>,
    /// Who this sidecar is.
    pub identity: Identity,
    /// The app is asked for its configuration.
    pub asks: bool,
    /// Largest answer in bytes.
    pub max_message: usize,
}

impl AppHosting {
    /// Registers the app's types while it is healthy and can be reached. Runs until cancelled.
    ///
    /// A pod's app ends before its sidecar is told to: without this its actors would fail until then.
    pub async fn run(self) {
        let Some(engine) = &self.engine else {
            // Nothing reads the answer; apps count on being asked.
            if let Some(app) = self.app.as_ref().filter(|_| self.asks) {
                configuration::ask(app, &self.identity.app_id).await;
            }
            return std::future::pending().await;
        };
        let streams: Arc<dyn ActorTarget> = self.streams.clone();
        let Some(app) = &self.app else {
            engine.register(HostedTypes::default(), streams);
            return std::future::pending().await;
        };
        let target: Arc<dyn ActorTarget> = if app.http().is_some() {
            Arc::new(HttpActors::new(app.clone(), &self.identity, self.max_message))
        } else {
            streams
        };
        let mut known = None;
        let mut health = app.health();
        loop {
            // Without the sender the state cannot change any more: the app is healthy, or will never be.
            if health.wait_for(|healthy| *healthy).await.is_err() {
                return std::future::pending().await;
            }
            let types = match &known {
                Some(types) => types,
                None => known.insert(self.types(app).await),
            };
            let mut unreached = engine.unreached();
            let registration = engine.register(HostedTypes::clone(types), Arc::clone(&target));
            self.streams.resume(engine);
            let is_gone = tokio::select! {
                () = app.unhealthy() => false,
                // The engine outlives this.
                _ = unreached.changed() => true,
            };
            let why = if is_gone {
                "takes no connections"
            } else {
                "is unhealthy"
            };
            tracing::warn!(target: "dapr.runtime.actors", "the app {why}: its actors are withdrawn");
            engine.unregister(registration);
            self.streams.suspend(engine);
            if is_gone {
                app.listening().await;
                // It may have become another one.
                known = None;
            }
        }
    }

    async fn types(&self, app: &AppChannel) -> HostedTypes {
        if !self.asks {
            return HostedTypes::default();
        }
        let Some(json) = configuration::ask(app, &self.identity.app_id).await else {
            return HostedTypes::default();
        };
        HostedTypes::from_json(&json).unwrap_or_else(|error| {
            tracing::error!(target: "dapr.runtime.actors", "no actor type is hosted: {error}");
            HostedTypes::default()
        })
    }
}
