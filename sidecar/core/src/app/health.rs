//! The app's health: one probe after another on a fixed beat (contract `flags-env-annotations`, section 6).

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{AppChannel, AppError};
use crate::Body;
use crate::config::AppHealthConfig;

/// The state machine between probes and subscribers.
pub struct AppHealth {
    config: AppHealthConfig,
    failures: u32,
    state: watch::Sender<bool>,
}

impl AppHealth {
    /// With health checks the app starts unhealthy; without, it is healthy at once.
    pub fn new(config: Option<&AppHealthConfig>) -> (Option<Self>, watch::Receiver<bool>) {
        let (state, receiver) = watch::channel(config.is_none());
        let health = config.map(|config| Self {
            config: config.clone(),
            failures: 0,
            state,
        });
        (health, receiver)
    }

    /// Probes until shutdown.
    pub async fn run(mut self, app: Arc<AppChannel>, shutdown: CancellationToken) {
        let mut beat = tokio::time::interval(self.config.interval);
        // Never more than one probe queued.
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = beat.tick() => {}
            }
            let result = tokio::select! {
                () = shutdown.cancelled() => return,
                result = probe(&app, &self.config.path, self.config.timeout) => result,
            };
            self.report(result);
        }
    }

    /// One success makes healthy; the n-th failure since then makes unhealthy. As in the reference, a success
    /// while healthy doesn't reset the count.
    fn report(&mut self, result: Result<(), String>) {
        match result {
            Ok(()) => {
                if !*self.state.borrow() {
                    self.failures = 0;
                    tracing::info!("App entered healthy status");
                    self.state.send_replace(true);
                }
            }
            Err(reason) => {
                self.failures = self.failures.saturating_add(1);
                if self.failures >= self.config.threshold && *self.state.borrow() {
                    tracing::warn!("App entered un-healthy status: {reason}");
                    self.state.send_replace(false);
                }
            }
        }
    }
}

async fn probe(app: &AppChannel, path: &str, limit: Duration) -> Result<(), String> {
    let probe = async {
        if let Some(http) = app.http() {
            let uri = http
                .uri(path.trim_start_matches('/'), "")
                .map_err(|error: AppError| error.to_string())?;
            let request = Request::get(uri)
                .body(Body::Empty)
                .map_err(|error| error.to_string())?;
            let response = http.probe(request).await.map_err(|error| error.to_string())?;
            let status = response.status();
            if status.is_success() {
                Ok(())
            } else {
                Err(format!("the health endpoint answered {status}"))
            }
        } else if let Some(grpc) = app.grpc() {
            grpc.health()
                .health_check(())
                .await
                .map(|_| ())
                .map_err(|status| status.to_string())
        } else {
            Ok(())
        }
    };
    match tokio::time::timeout(limit, probe).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> (AppHealth, watch::Receiver<bool>) {
        let config = AppHealthConfig {
            path: "/healthz".into(),
            interval: Duration::from_secs(5),
            timeout: Duration::from_millis(500),
            threshold: 3,
        };
        let (health, receiver) = AppHealth::new(Some(&config));
        (health.unwrap(), receiver)
    }

    #[test]
    fn without_checks_the_app_is_healthy_at_once() {
        assert!(*AppHealth::new(None).1.borrow());
    }

    #[test]
    fn failures_add_up_across_successes_until_the_threshold() {
        let (mut health, state) = health();
        assert!(!*state.borrow());
        health.report(Ok(()));
        assert!(*state.borrow());
        for _ in 0..2 {
            health.report(Err("x".into()));
            health.report(Ok(()));
        }
        assert!(*state.borrow());
        health.report(Err("x".into()));
        assert!(!*state.borrow());
        health.report(Ok(()));
        assert!(*state.borrow());
    }
}
