//! Breakers by key, the least recently used one dropped when there are too many.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::breaker::{BreakerTemplate, CircuitBreaker};

#[derive(Debug)]
pub(crate) struct BreakerCache {
    capacity: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_key: HashMap<String, (u64, Arc<CircuitBreaker>)>,
    clock: u64,
}

impl BreakerCache {
    /// Holds at most so many breakers (at least one).
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            inner: Mutex::default(),
        }
    }

    /// The breaker under a key, made from the template if there is none.
    pub(crate) fn get(&self, key: &str, template: &Arc<BreakerTemplate>) -> Arc<CircuitBreaker> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.clock += 1;
        let now = inner.clock;
        if let Some((used, breaker)) = inner.by_key.get_mut(key) {
            *used = now;
            return Arc::clone(breaker);
        }
        if inner.by_key.len() >= self.capacity {
            // A scan, but only when a new key meets a full cache.
            let oldest = inner.by_key.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                inner.by_key.remove(&key);
            }
        }
        let breaker = Arc::new(CircuitBreaker::new(key, Arc::clone(template)));
        inner.by_key.insert(key.to_owned(), (now, Arc::clone(&breaker)));
        breaker
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_least_recently_used_breaker_is_forgotten() {
        let template = Arc::new(BreakerTemplate {
            max_requests: 1,
            interval: Duration::ZERO,
            timeout: Duration::from_secs(1),
            trip: None,
        });
        let cache = BreakerCache::new(2);
        let a = cache.get("a", &template);
        let b = cache.get("b", &template);
        assert!(Arc::ptr_eq(&a, &cache.get("a", &template)));
        cache.get("c", &template);
        assert!(Arc::ptr_eq(&a, &cache.get("a", &template)));
        assert!(!Arc::ptr_eq(&b, &cache.get("b", &template)));
    }
}
