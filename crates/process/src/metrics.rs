//! The metrics registry of a process and the endpoint that shows it (contract `observability`, section 1).

mod process;
mod server;

use prometheus::{Encoder as _, Registry, TextEncoder};

pub use server::{MetricsServer, MetricsServerError};

/// Content type of the endpoint, as upstream sends it.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// The metrics of a process. Cheap to clone; nothing is global.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry with the `process_*` metrics in it.
    pub fn new() -> Self {
        let registry = Registry::new();
        registry
            .register(Box::new(process::ProcessCollector::new()))
            .expect("an empty registry takes the process collector");
        Self { registry }
    }

    /// Where metrics are registered.
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// All metrics in the text format.
    ///
    /// # Errors
    /// If a metric is inconsistent, in the library's words.
    pub fn text(&self) -> Result<String, String> {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .map_err(|error| error.to_string())?;
        String::from_utf8(text).map_err(|error| error.to_string())
    }
}
