//! All families of a sidecar, and how a change of the Configuration gets to them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use outrigger_resources::configuration::MetricsSpec;
use prometheus::Registry;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::settings::{MetricsError, Settings};

/// All families, the settings they are made with, and what else is shown with them.
pub(super) struct Shared {
    app_id: String,
    settings: ArcSwap<Settings>,
    /// Grows with every change of the settings.
    generation: AtomicU64,
    families: Mutex<Vec<Arc<dyn Configured>>>,
    others: Registry,
}

/// A family, whatever it is of.
pub(super) trait Configured: Send + Sync {
    /// As in the contract, without `dapr_`.
    fn name(&self) -> &str;

    /// Makes what these settings want; what is returned puts it in force.
    fn prepare(&self, app_id: &str, settings: &Settings) -> Result<Box<dyn FnOnce() + '_>, MetricsError>;

    /// What is shown of it.
    fn collect(&self) -> Vec<MetricFamily>;
}

impl Shared {
    /// Nothing is kept yet.
    pub(super) fn new(app_id: &str) -> Self {
        Self {
            app_id: app_id.to_owned(),
            settings: ArcSwap::default(),
            generation: AtomicU64::new(0),
            families: Mutex::default(),
            others: Registry::new(),
        }
    }

    /// Puts settings in force, as a whole or not at all.
    pub(super) fn configure(&self, spec: &MetricsSpec) -> Result<(), MetricsError> {
        self.prepare(spec, |settings, prepared| {
            for put_in_force in prepared {
                put_in_force();
            }
            self.settings.store(Arc::new(settings));
            // Last: series that were found before are those of families before.
            self.generation.fetch_add(1, Ordering::Release);
        })
    }

    /// Whether settings could be put in force.
    pub(super) fn check(&self, spec: &MetricsSpec) -> Result<(), MetricsError> {
        self.prepare(spec, |_, _| ())
    }

    fn prepare(
        &self,
        spec: &MetricsSpec,
        then: impl FnOnce(Settings, Vec<Box<dyn FnOnce() + '_>>),
    ) -> Result<(), MetricsError> {
        let settings = Settings::new(spec)?;
        let families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let families = families.iter();
        let prepared = families.map(|family| family.prepare(&self.app_id, &settings));
        let prepared = prepared.collect::<Result<_, _>>()?;
        then(settings, prepared);
        Ok(())
    }

    pub(super) fn settings(&self) -> arc_swap::Guard<Arc<Settings>> {
        self.settings.load()
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// What is shown beside the families, while metrics are on.
    pub(super) const fn others(&self) -> &Registry {
        &self.others
    }

    /// Takes in a family, which follows the settings from now on.
    pub(super) fn add(&self, family: Arc<dyn Configured>) -> Result<(), MetricsError> {
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        if families.iter().any(|known| known.name() == family.name()) {
            return Err(MetricsError::Unfit {
                name: family.name().to_owned(),
                reason: "there is one already".to_owned(),
            });
        }
        family.prepare(&self.app_id, &self.settings())?();
        families.push(family);
        Ok(())
    }
}

/// Shows the families and what goes with them.
pub(super) struct Shown(pub(super) Arc<Shared>);

impl Collector for Shown {
    /// None, since they change.
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if !self.0.settings().is_on {
            return Vec::new();
        }
        let mut all = self.0.others.gather();
        let families = self.0.families.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(families.iter().flat_map(|family| family.collect()));
        all
    }
}
