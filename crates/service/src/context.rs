//! What a service gets to start with.

use std::fmt::Display;

use outrigger_process::flags::Values;
use outrigger_process::{Environment, Metrics, Readiness, Tasks};
use tokio_util::sync::CancellationToken;

use crate::health::HealthPages;

/// Why a service cannot start or go on: one sentence for the log. Any error becomes one with `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(String);

impl Failure {
    /// In these words.
    pub fn new(text: impl Display) -> Self {
        Self(text.to_string())
    }

    /// The sentence.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// What a service gets to start with. It stays in the hands of [`run`](crate::run) while the service runs.
#[derive(Debug)]
pub struct Context {
    /// The flags.
    pub values: Values,
    /// The environment.
    pub environment: Environment,
    /// Where metrics are registered; shown on the metrics port.
    pub metrics: Metrics,
    /// Health targets; `/healthz` is 200 when all are ready.
    pub readiness: Readiness,
    /// More pages of the health port.
    pub health: HealthPages,
    /// Cancelled when the process is to end: stop taking in work, finish what is in flight.
    pub stopping: CancellationToken,
    /// The service's tasks. One that ends as it should not ends the process.
    pub tasks: Tasks,
}

impl Context {
    /// `$NAMESPACE`, or `default` where it is unset or empty.
    pub fn namespace(&self) -> &str {
        self.environment.non_empty("NAMESPACE").unwrap_or("default")
    }

    /// What a flag of kind `Text` says, unless it is empty.
    pub fn given(&self, flag: &str) -> Option<String> {
        Some(self.values.text(flag).to_owned()).filter(|text| !text.is_empty())
    }

    /// The port a flag of kind `Int` names.
    ///
    /// # Errors
    /// If it is none.
    pub fn port(&self, flag: &str) -> Result<u16, Failure> {
        let number = self.values.int(flag);
        u16::try_from(number)
            .map_err(|_| Failure(format!("--{flag} is no port: {number}; give one of 0 to 65535")))
    }

    /// In Kubernetes no process of Dapr runs as root.
    ///
    /// # Errors
    /// If this one does and `DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK` is not `true`.
    pub fn refuse_root(&self) -> Result<(), Failure> {
        outrigger_process::refuse_root(&self.environment).map_err(Failure::from)
    }
}
