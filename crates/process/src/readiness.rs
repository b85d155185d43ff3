//! Readiness as a value: named targets, each ready or not (contract `flags-env-annotations`, section 5).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// The health targets of the process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Readiness {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    targets: Mutex<BTreeMap<&'static str, bool>>,
    /// Whether all targets are ready; wakes those who wait for it.
    all: watch::Sender<bool>,
}

/// One target; it starts not ready.
#[derive(Debug, Clone)]
pub struct Target {
    name: &'static str,
    readiness: Readiness,
}

impl Default for Readiness {
    fn default() -> Self {
        Self {
            inner: Arc::new(Inner {
                targets: Mutex::default(),
                all: watch::Sender::new(true),
            }),
        }
    }
}

impl Readiness {
    /// Registers a target, not ready yet. A name that is registered again is the same target, not ready again.
    pub fn register(&self, name: &'static str) -> Target {
        self.set(name, false);
        Target {
            name,
            readiness: self.clone(),
        }
    }

    /// Names of targets that are not ready, sorted; empty = ready.
    pub fn not_ready(&self) -> Vec<&'static str> {
        let targets = self.inner.targets.lock().unwrap_or_else(PoisonError::into_inner);
        targets
            .iter()
            .filter(|(_, ready)| !**ready)
            .map(|(name, _)| *name)
            .collect()
    }

    /// Whether every target is ready.
    pub fn is_ready(&self) -> bool {
        *self.inner.all.borrow()
    }

    /// Resolves as soon as every target is ready.
    pub async fn ready(&self) {
        let mut all = self.inner.all.subscribe();
        // Fails only when the sender is gone, and we hold it.
        let _ = all.wait_for(|ready| *ready).await;
    }

    fn set(&self, name: &'static str, ready: bool) {
        let mut targets = self.inner.targets.lock().unwrap_or_else(PoisonError::into_inner);
        targets.insert(name, ready);
        let all = targets.values().all(|ready| *ready);
        self.inner
            .all
            .send_if_modified(|before| std::mem::replace(before, all) != all);
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
        assert!(readiness.is_ready());
        let (b, a) = (readiness.register("b"), readiness.register("a"));
        assert_eq!(readiness.not_ready(), ["a", "b"]);
        a.ready();
        assert_eq!(readiness.not_ready(), ["b"]);
        b.ready();
        assert!(readiness.is_ready() && readiness.not_ready().is_empty());
        a.not_ready();
        assert!(!readiness.is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_when_the_last_target_is_ready() {
        let readiness = Readiness::default();
        let (a, b) = (readiness.register("a"), readiness.register("b"));
        a.ready();
        let wait = readiness.ready();
        tokio::pin!(wait);
        assert!(
            tokio::time::timeout(std::time::Duration::from_secs(1), &mut wait)
                .await
                .is_err()
        );
        b.ready();
        wait.await;
    }
}
