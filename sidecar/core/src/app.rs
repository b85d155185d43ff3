//! The app beside this sidecar: its channel over HTTP or gRPC, its health, its concurrency limit
//! (contract `service-invocation`, section 9, and `http-api`, section 8).

pub mod configuration;
mod dial;
pub mod grpc;
mod gzip;
pub mod health;
pub mod http;
pub mod outgoing;
mod pool;
mod tls;

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::config::{AppConfig, Protocol};
use crate::metrics::Metrics;
use crate::outside::Outside;

pub use grpc::GrpcApp;
pub use health::AppHealth;
pub use http::HttpApp;
pub(crate) use tls::Connector as SpanConnector;

/// Why a call did not reach the app.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppError {
    /// The health check says no; the app was not touched.
    #[error("app is not in a healthy state")]
    Unhealthy,
    /// The connection or the exchange failed; Go's wording.
    #[error("{0}")]
    Transport(String),
    /// The app takes no connections: it has seen nothing of the call.
    #[error("{0}")]
    Refused(String),
}

/// The channel to the app.
pub struct AppChannel {
    config: AppConfig,
    port: u16,
    transport: Transport,
    slots: Option<Arc<Semaphore>>,
    healthy: watch::Receiver<bool>,
}

enum Transport {
    Http(Box<HttpApp>),
    Grpc(GrpcApp),
}

/// A slot of `--app-max-concurrency`, held until the answer's body has been read.
pub type Slot = Option<OwnedSemaphorePermit>;

impl AppChannel {
    /// A channel to the configured app; `None` without an app port.
    ///
    /// `max_message` bounds gRPC messages in both directions, `max_headers` the head of an HTTP answer (bytes). `outside`
    /// is for URLs that are called through it, and for an app on another machine.
    pub fn new(
        config: &AppConfig,
        max_message: usize,
        max_headers: usize,
        outside: &Outside,
        metrics: &Metrics,
        healthy: watch::Receiver<bool>,
    ) -> Option<Self> {
        let port = config.port?;
        let token = config.token_header();
        let transport = if config.protocol.is_http() {
            Transport::Http(Box::new(HttpApp::new(
                config,
                port,
                token,
                max_headers,
                outside,
                metrics.http.clone(),
            )))
        } else {
            Transport::Grpc(GrpcApp::new(
                config,
                port,
                token,
                max_message,
                metrics.grpc.clone(),
            ))
        };
        let slots = config
            .max_concurrency
            .map(|limit| Arc::new(Semaphore::new(limit)));
        Some(Self {
            config: config.clone(),
            port,
            transport,
            slots,
            healthy,
        })
    }

    /// Calls to an HTTP app pass this pipeline (`spec.appHttpPipeline`), health probes excepted.
    #[must_use]
    pub fn with_middleware(mut self, middleware: Option<Arc<crate::middleware::Pipeline>>) -> Self {
        if let Transport::Http(app) = &mut self.transport {
            app.set_middleware(middleware);
        }
        self
    }

    /// `--app-protocol`
    pub const fn protocol(&self) -> Protocol {
        self.config.protocol
    }

    /// `--app-port`
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The HTTP side, for HTTP-family apps.
    pub fn http(&self) -> Option<&HttpApp> {
        match &self.transport {
            Transport::Http(app) => Some(app),
            Transport::Grpc(_) => None,
        }
    }

    /// The gRPC side, for gRPC-family apps.
    pub const fn grpc(&self) -> Option<&GrpcApp> {
        match &self.transport {
            Transport::Http(_) => None,
            Transport::Grpc(app) => Some(app),
        }
    }

    /// Whether the app may be called.
    ///
    /// # Errors
    /// [`AppError::Unhealthy`]
    pub fn check_health(&self) -> Result<(), AppError> {
        if *self.healthy.borrow() {
            Ok(())
        } else {
            Err(AppError::Unhealthy)
        }
    }

    /// Resolves when the app may not be called (any more).
    pub async fn unhealthy(&self) {
        let mut healthy = self.healthy.clone();
        // The sender lives as long as the health checks; without it the state cannot change any more.
        if healthy.wait_for(|healthy| !healthy).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The health as it changes.
    pub fn health(&self) -> watch::Receiver<bool> {
        self.healthy.clone()
    }

    /// Waits until the app answers on its port.
    pub async fn listening(&self) {
        dial::until_listening(&self.config, self.port).await;
    }

    /// Waits for a slot of `--app-max-concurrency`.
    pub async fn slot(&self) -> Slot {
        match &self.slots {
            // The semaphore is never closed.
            Some(slots) => slots.clone().acquire_owned().await.ok(),
            None => None,
        }
    }
}
