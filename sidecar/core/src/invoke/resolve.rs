//! From app id to address: the resolver, its cache and its retries (contract `service-invocation`, section 8).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outrigger_components_api::name_resolution::{ResolveRequest, Resolver};
use rand::seq::IndexedRandom;
use tokio::time::Instant;

use super::InvokeError;

/// How long a complete set of addresses is trusted.
const CACHE_TTL: Duration = Duration::from_secs(20);
/// Tries while a resolver has no answer, and the pause between them.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);
/// Entries kept before expired ones are swept.
const SWEEP_ABOVE: usize = 1024;

/// The resolver with its cache. Without a resolver every look-up fails.
pub struct Addresses {
    resolver: Option<Arc<dyn Resolver>>,
    cache: Mutex<HashMap<ResolveRequest, Cached>>,
}

/// When a set of addresses was found, and the set.
type Cached = (Instant, Arc<[String]>);

impl Addresses {
    /// Looks up with this resolver.
    pub fn new(resolver: Option<Arc<dyn Resolver>>) -> Self {
        Self {
            resolver,
            cache: Mutex::new(HashMap::new()),
        }
    }

    /// One address of a sidecar, picked at random if there are several.
    ///
    /// # Errors
    /// The resolver's text, or that nothing is known of the app.
    pub async fn resolve(&self, request: &ResolveRequest) -> Result<String, InvokeError> {
        let Some(resolver) = &self.resolver else {
            return Err(InvokeError::internal(
                "name resolver not initialized: check spec.nameResolution of the Configuration and the log of its start",
            ));
        };
        if resolver.returns_many() {
            return self.resolve_many(resolver.as_ref(), request).await;
        }
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            let addresses = resolver
                .resolve(request)
                .await
                .map_err(|error| InvokeError::internal(error.0))?;
            if let Some(address) = addresses.into_iter().find(|address| !address.is_empty()) {
                return Ok(address);
            }
        }
        Err(not_found(request))
    }

    /// Forgets what is cached about an app, after a connection to it failed.
    pub fn forget(&self, request: &ResolveRequest) {
        self.cache
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(request);
    }

    async fn resolve_many(
        &self,
        resolver: &dyn Resolver,
        request: &ResolveRequest,
    ) -> Result<String, InvokeError> {
        let cached = {
            let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            cache
                .get(request)
                .filter(|(at, _)| at.elapsed() < CACHE_TTL)
                .map(|(_, found)| found.clone())
        };
        let found = match cached {
            Some(found) => found,
            None => {
                let found: Arc<[String]> = resolver
                    .resolve(request)
                    .await
                    .map_err(|error| InvokeError::internal(error.0))?
                    .into();
                let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
                if cache.len() >= SWEEP_ABOVE {
                    cache.retain(|_, (at, _)| at.elapsed() < CACHE_TTL);
                }
                if !found.is_empty() {
                    cache.insert(request.clone(), (Instant::now(), found.clone()));
                }
                found
            }
        };
        found
            .choose(&mut rand::rng())
            .cloned()
            .ok_or_else(|| not_found(request))
    }
}

fn not_found(request: &ResolveRequest) -> InvokeError {
    InvokeError::internal(format!("couldn't find service: {}", request.app_id))
}
