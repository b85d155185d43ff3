//! Series that hot paths find at once.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::{Arc, PoisonError, RwLock};

use super::shared::Shared;

/// Series that are found without making a text for them, as long as the settings stay.
pub(super) struct SeriesCache<T> {
    shared: Arc<Shared>,
    hasher: RandomState,
    /// Of this generation.
    known: RwLock<(u64, HashMap<u64, T>)>,
}

/// Where something is to be put that was not found.
pub(super) struct Missing {
    generation: u64,
    key: u64,
    /// How many are known.
    pub(super) count: usize,
}

impl<T> SeriesCache<T> {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: shared.clone(),
            hasher: RandomState::new(),
            known: RwLock::default(),
        }
    }

    /// Looks for what has this key, and calls `with` with it; that may find out that it is something else.
    pub(super) fn find<R>(&self, key: impl Hash, with: impl FnOnce(&T) -> Option<R>) -> Result<R, Missing> {
        let key = self.hasher.hash_one(key);
        let generation = self.shared.generation();
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let (of, known) = &*known;
        let is_current = *of == generation;
        let found = known.get(&key).filter(|_| is_current).and_then(with);
        found.ok_or(Missing {
            generation,
            key,
            count: if is_current { known.len() } else { 0 },
        })
    }

    /// Keeps what was made for a place; not if the settings have changed since.
    pub(super) fn keep(&self, place: &Missing, series: T) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.0 < place.generation {
            *known = (place.generation, HashMap::new());
        }
        if known.0 == place.generation {
            known.1.insert(place.key, series);
        }
    }
}
