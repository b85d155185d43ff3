//! Time from `exec` to ready.

use anyhow::Result;
use serde::Serialize;

use super::BenchArgs;
use super::numbers::median;
use super::stage::Stage;

/// Medians over several starts of a sidecar with two in-memory components, its app already up.
#[derive(Serialize, Debug, Clone, Copy)]
pub(crate) struct Startup {
    pub(crate) starts: u32,
    /// Until `/v1.0/healthz/outbound` is answered with 204.
    pub(crate) outbound_ms: f64,
    /// Until `/v1.0/healthz` is answered with 204.
    pub(crate) healthz_ms: f64,
    pub(crate) slowest_healthz_ms: f64,
}

pub(crate) fn measure(stage: &Stage, args: &BenchArgs) -> Result<Startup> {
    stage.component("start", "state-memory", "state.in-memory", &[])?;
    stage.component("start", "pubsub-memory", "pubsub.in-memory", &[])?;
    let mut times = Vec::new();
    for _ in 0..args.starts {
        let (outbound, healthz) = stage.time_start()?;
        times.push((outbound.as_secs_f64() * 1e3, healthz.as_secs_f64() * 1e3));
    }
    Ok(Startup {
        starts: args.starts,
        outbound_ms: median(times.iter().map(|(outbound, _)| *outbound)).unwrap_or(f64::NAN),
        healthz_ms: median(times.iter().map(|(_, healthz)| *healthz)).unwrap_or(f64::NAN),
        slowest_healthz_ms: times
            .iter()
            .fold(0.0, |slowest, (_, healthz)| healthz.max(slowest)),
    })
}
