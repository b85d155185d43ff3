//! From app id to address: the resolver, its cache and its retries (contract `service-invocation`, section 8).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outrigger_components_api::name_resolution::{ResolveRequest, Resolver};
use rand::seq::IndexedRandom;
use tokio::time::Instant;

use super::InvokeError;

/// How long a complete set of addresses is trusted. Upstream's 20 s would call a pod that ends for that long, and apps would
/// have to go on serving meanwhile; a look-up costs a millisecond, and only one caller pays it.
const CACHE_TTL: Duration = Duration::from_secs(5);
/// How long the others go on with an old set while one caller looks up.
const REFRESHING: Duration = Duration::from_secs(1);
/// How long an old set is used while the resolver has no answer. What is wrong in it is forgotten by the first call.
const STALE: Duration = Duration::from_secs(60);
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

/// A set of addresses.
struct Cached {
    addresses: Arc<[String]>,
    found: Instant,
    trusted_until: Instant,
}

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

    /// What is known, unless it is for this caller to look up anew.
    fn cached(&self, request: &ResolveRequest) -> Option<Arc<[String]>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let cached = cache.get_mut(request)?;
        let now = Instant::now();
        if cached.trusted_until > now {
            return Some(cached.addresses.clone());
        }
        cached.trusted_until = now + REFRESHING;
        None
    }

    /// What was known not long ago.
    fn stale(&self, request: &ResolveRequest) -> Option<Arc<[String]>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let cached = cache.get(request)?;
        if cached.found.elapsed() < STALE {
            return Some(cached.addresses.clone());
        }
        cache.remove(request);
        None
    }

    fn keep(&self, request: &ResolveRequest, addresses: &Arc<[String]>) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if cache.len() >= SWEEP_ABOVE {
            cache.retain(|_, cached| cached.found.elapsed() < STALE);
        }
        let cached = Cached {
            addresses: addresses.clone(),
            found: now,
            trusted_until: now + CACHE_TTL,
        };
        cache.insert(request.clone(), cached);
    }

    async fn resolve_many(
        &self,
        resolver: &dyn Resolver,
        request: &ResolveRequest,
    ) -> Result<String, InvokeError> {
        let addresses = match self.cached(request) {
            Some(known) => known,
            None => match resolver.resolve(request).await {
                Ok(found) if !found.is_empty() => {
                    let found: Arc<[String]> = found.into();
                    self.keep(request, &found);
                    found
                }
                // No instance is ready, or the resolver is away: a moment later there may be.
                Ok(_) => self.stale(request).ok_or_else(|| not_found(request))?,
                Err(error) => self
                    .stale(request)
                    .ok_or_else(|| InvokeError::internal(error.0))?,
            },
        };
        addresses
            .choose(&mut rand::rng())
            .cloned()
            .ok_or_else(|| not_found(request))
    }
}

fn not_found(request: &ResolveRequest) -> InvokeError {
    InvokeError::internal(format!("couldn't find service: {}", request.app_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use outrigger_components_api::ComponentError;

    /// Names the pod that is there; each look-up takes a while and is counted.
    #[derive(Default)]
    struct Pods {
        there: Mutex<Vec<String>>,
        fails: Mutex<bool>,
        asked: Mutex<u32>,
    }

    #[async_trait]
    impl Resolver for Pods {
        async fn resolve(&self, _: &ResolveRequest) -> Result<Vec<String>, ComponentError> {
            *self.asked.lock().unwrap() += 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
            if *self.fails.lock().unwrap() {
                return Err(ComponentError("no such name".into()));
            }
            Ok(self.there.lock().unwrap().clone())
        }

        fn returns_many(&self) -> bool {
            true
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_ends_is_called_for_five_seconds_at_most_and_one_caller_looks_up_for_all() {
        let pods = Arc::new(Pods::default());
        *pods.there.lock().unwrap() = vec!["old".into()];
        let addresses = Addresses::new(Some(pods.clone()));
        let request = ResolveRequest {
            app_id: "back".into(),
            namespace: "shop".into(),
            port: 50002,
        };
        assert_eq!(addresses.resolve(&request).await.unwrap(), "old");
        *pods.there.lock().unwrap() = vec!["new".into()];
        tokio::time::advance(Duration::from_millis(4900)).await;
        assert_eq!(addresses.resolve(&request).await.unwrap(), "old");
        assert_eq!(*pods.asked.lock().unwrap(), 1);

        tokio::time::advance(Duration::from_millis(200)).await;
        let (one, other) = tokio::join!(addresses.resolve(&request), addresses.resolve(&request));
        assert_eq!((one.unwrap().as_str(), other.unwrap().as_str()), ("new", "old"));
        assert_eq!(*pods.asked.lock().unwrap(), 2);
        assert_eq!(addresses.resolve(&request).await.unwrap(), "new");

        // Forgotten after a failed connection: asked at once.
        addresses.forget(&request);
        addresses.resolve(&request).await.unwrap();
        assert_eq!(*pods.asked.lock().unwrap(), 3);
        // With no answer, or none ready, the last one serves for a minute.
        pods.there.lock().unwrap().clear();
        for fails in [false, true] {
            *pods.fails.lock().unwrap() = fails;
            tokio::time::advance(Duration::from_secs(6)).await;
            assert_eq!(addresses.resolve(&request).await.unwrap(), "new");
        }
        tokio::time::advance(STALE).await;
        let error = addresses.resolve(&request).await.unwrap_err();
        assert_eq!(error.to_string(), "no such name");
        *pods.fails.lock().unwrap() = false;
        assert!(addresses.resolve(&request).await.is_err());
        // And not at all once a connection failed.
        *pods.there.lock().unwrap() = vec!["back".into()];
        assert_eq!(addresses.resolve(&request).await.unwrap(), "back");
        pods.there.lock().unwrap().clear();
        addresses.forget(&request);
        assert!(addresses.resolve(&request).await.is_err());
    }
}
