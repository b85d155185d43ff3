//! The operator's metrics (contract `operator`, section 10).

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

/// Counters of Services by app.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Services that were created.
    pub created: IntCounterVec,
    /// Services that were changed back to what they should be.
    pub updated: IntCounterVec,
    /// 1 while this replica looks after Services.
    pub leading: IntGauge,
}

impl Metrics {
    /// Counters in this registry.
    ///
    /// # Errors
    /// If their names are taken.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |what: &str, help: &str| {
            let opts = Opts::new(format!("dapr_operator_service_{what}_total"), help);
            let counter = IntCounterVec::new(opts, &["app_id"])?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let created = counter("created", "Services made for apps")?;
        let updated = counter("updated", "Services of apps that were brought up to date")?;
        // Declared, since dashboards name it; Services are deleted by the garbage collector.
        counter("deleted", "Services of apps that were deleted")?;
        let leading = IntGauge::new("outrigger_operator_leading", "1 while this replica leads")?;
        registry.register(Box::new(leading.clone()))?;
        Ok(Self {
            created,
            updated,
            leading,
        })
    }
}
