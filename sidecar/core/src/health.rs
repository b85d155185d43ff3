//! Readiness as a value: named targets, each ready or not (contract `flags-env-annotations`, section 5).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The health targets of the process.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    targets: Arc<Mutex<BTreeMap<&'static str, bool>>>,
}

/// One target; it starts not ready.
#[derive(Debug, Clone)]
pub struct Target {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// Registers a target, not ready yet.
    pub fn register(&self, name: &'static str) -> Target {
        self.set(name, false);
        Target {
            name,
            readiness: self.clone(),
        }
    }

    /// Names of targets that are not ready, sorted; empty = ready.
    pub fn not_ready(&self) -> Vec<&'static str> {
        let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        targets
            .iter()
            .filter(|(_, ready)| !**ready)
            .map(|(name, _)| *name)
            .collect()
    }

    fn set(&self, name: &'static str, ready: bool) {
        self.targets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, ready);
    }
}

impl Target {
    /// The target is ready.
    pub fn ready(&self) {
        self.readiness.set(self.name, true);
    }

    /// The target is not ready any more.
    pub fn not_ready(&self) {
        self.readiness.set(self.name, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_targets_must_be_ready() {
        let readiness = Readiness::default();
        let (b, a) = (readiness.register("b"), readiness.register("a"));
        assert_eq!(readiness.not_ready(), ["a", "b"]);
        a.ready();
        b.ready();
        assert!(readiness.not_ready().is_empty());
        b.not_ready();
        assert_eq!(readiness.not_ready(), ["b"]);
    }
}
